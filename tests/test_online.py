"""The online Dice of a training is comparable from epoch to epoch, whatever batches show."""

import math

import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from atlas_nnunet.training.online import (
    COUNTS,
    by_structure,
    dice_of_epoch,
    latest,
    log_epoch,
    over_batches,
    summary,
)
from atlas_nnunet.training.steps import confusion

NAN = math.nan


def counts(tp, fp, fn):
    return dict(zip(COUNTS, (np.array(tp), np.array(fp), np.array(fn)), strict=True))


@pytest.fixture
def logger(tmp_path):
    return MetaLogger(str(tmp_path), resume=False)


def logged(logger, key):
    return logger.get_value(key, step=None)


def test_dice_is_nnunets_and_nan_where_nothing_was_labelled():
    dice = dice_of_epoch(counts([10, 0, 0, 3], [0, 0, 5, 1], [0, 0, 0, 2]))
    assert dice[0] == 1
    assert math.isnan(dice[1])
    assert math.isnan(dice[2]), "false positives alone: the batches do not show this structure"
    assert dice[3] == 2 * 3 / (2 * 3 + 1 + 2)


def test_what_is_unlabelled_in_every_case_never_counts():
    """From a network's output on, which finds the structure that nobody labelled."""
    target = torch.zeros((2, 2, 4, 4, 4), dtype=torch.bool)
    target[:, 0, :2] = True
    logits = torch.where(target, 5.0, -5.0)
    logits[:, 1] = 5.0
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    tp, fp, fn = confusion(logits, target, weights, has_regions=True)
    dice, _ = over_batches([{"loss": np.float32(0), **counts(tp.numpy(), fp.numpy(), fn.numpy())}])
    assert dice[0] == 1
    assert math.isnan(dice[1])


def test_batches_are_added_up_before_they_are_divided():
    outputs = [
        {"loss": np.float32(1), **counts([1, 0], [3, 0], [0, 0])},
        {"loss": np.float32(3), **counts([5, 0], [0, 0], [1, 0])},
    ]
    dice, loss = over_batches(outputs)
    assert dice[0] == 12 / (12 + 3 + 1)
    assert math.isnan(dice[1])
    assert loss == 2


def test_a_structure_keeps_its_value_until_it_is_seen_again():
    assert latest([[0.1, NAN, 0.3], [NAN, NAN, 0.4]])[0] == 0.1
    assert math.isnan(latest([[0.1, NAN], [0.2, NAN]])[1])
    assert latest([[0.1, 0.5], [0.2, NAN], [NAN, NAN]]) == [0.2, 0.5]


def test_a_perfect_network_has_one_in_every_epoch_whatever_the_batches_show(logger):
    rng = np.random.default_rng(0)
    for epoch in range(30):
        seen = rng.random(8) < 0.4
        log_epoch(logger, list(np.where(seen, 1.0, np.nan)), 0.0, epoch)
    finite = [v for v in logged(logger, "mean_fg_dice") if math.isfinite(v)]
    assert len(finite) == 30
    assert set(finite) == {1.0}
    assert logged(logger, "ema_fg_dice") == pytest.approx([1.0] * 30)


def test_one_network_scores_alike_in_epochs_that_show_different_structures(logger):
    """Easy and hard structures are drawn at random; those that are not drawn are predicted in a
    voxel now and then. nnU-Net's mean jumps about."""
    rng = np.random.default_rng(1)
    true = np.linspace(0.1, 0.9, 8)
    shown = []
    for epoch in range(60):
        drawn, false = rng.random(8) < 0.4, rng.random(8) < 0.3
        tp = np.where(drawn, 1000 * true / (2 - true), 0)
        fn = np.where(drawn, 1000 - tp, 0)
        found = counts(tp, np.where(drawn, 0, false), fn)
        with np.errstate(invalid="ignore"):
            stock = 2 * tp / (2 * tp + found["fp_hard"] + fn)
        shown.append(np.nanmean(stock))
        log_epoch(logger, dice_of_epoch(found), 0.0, epoch)
    ours = logged(logger, "mean_fg_dice")[20:]
    assert np.nanstd(shown[20:]) > 0.05
    assert ours == pytest.approx([true.mean()] * len(ours))


def test_a_hard_structure_that_appears_late_does_not_keep_the_best_checkpoint_back(logger):
    """nnU-Net keeps a checkpoint whose moving average exceeds the best so far. Until epoch 5 an
    easy structure is seen; then a hard one too, which improves slowly."""
    best, kept = None, []
    for epoch in range(20):
        dice = [0.9, NAN] if epoch < 5 else [0.9, 0.02 * (epoch - 4)]
        if log_epoch(logger, dice, 0.0, epoch):
            best = None
        average = logged(logger, "ema_fg_dice")[-1]
        if best is None or average > best:
            best = average
            kept.append(epoch)
    assert kept[0] == 0
    assert kept[-15:] == list(range(5, 20))


def test_without_a_label_there_is_no_mean_and_the_first_label_starts_it(logger):
    assert not log_epoch(logger, [NAN, NAN], 0.0, 0)
    assert math.isnan(logged(logger, "mean_fg_dice")[0])
    assert log_epoch(logger, [NAN, 0.5], 0.0, 1)
    assert logged(logger, "ema_fg_dice")[1] == 0.5
    assert not log_epoch(logger, [NAN, 0.7], 0.0, 2)
    assert logged(logger, "ema_fg_dice")[2] == pytest.approx(0.9 * 0.5 + 0.1 * 0.7)


def test_where_everything_is_always_seen_the_log_is_nnunets(logger, tmp_path):
    stock = MetaLogger(str(tmp_path / "stock"), resume=False)
    rng = np.random.default_rng(2)
    for epoch in range(10):
        dice = list(map(float, rng.random(5)))
        log_epoch(logger, dice, 1.0, epoch)
        stock.log("mean_fg_dice", float(np.nanmean(dice)), epoch)
    for key in ("mean_fg_dice", "ema_fg_dice"):
        assert logged(logger, key) == pytest.approx(logged(stock, key), abs=1e-12)


def test_a_resumed_training_continues_the_same_curve(tmp_path):
    rng = np.random.default_rng(3)
    epochs = [list(np.where(rng.random(6) < 0.5, rng.random(6), np.nan)) for _ in range(12)]
    whole, first, second = (MetaLogger(str(tmp_path), resume=False) for _ in range(3))
    for epoch, dice in enumerate(epochs):
        log_epoch(whole, dice, 0.0, epoch)
        if epoch < 7:
            log_epoch(first, dice, 0.0, epoch)
    checkpoint = {key: list(values) for key, values in first.get_checkpoint().items()}
    second.load_checkpoint(checkpoint)
    for epoch in range(7, 12):
        log_epoch(second, epochs[epoch], 0.0, epoch)
    for key in ("mean_fg_dice", "ema_fg_dice"):
        np.testing.assert_array_equal(logged(second, key), logged(whole, key))


def test_the_log_names_what_has_not_been_seen():
    history = [[0.5, NAN, NAN], [NAN, 0.25, NAN]]
    line = summary(("liver", "spleen", "liver_tumor"), history)
    assert "2 of 3 structures" in line
    assert "liver 0.500" in line
    assert "spleen 0.250" in line
    assert "liver_tumor -" in line


def test_curves_have_each_structures_value_after_each_epoch():
    history = [[NAN, 0.5], [0.1, NAN], [NAN, 0.7]]
    curves = by_structure(("liver_tumor", "liver"), history)["dice_of_structures"]
    assert curves == {"liver_tumor": [None, 0.1, 0.1], "liver": [0.5, 0.5, 0.7]}
