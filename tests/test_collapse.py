"""A training that has collapsed is recognised by its curves; one that learns is not."""

import math

import numpy as np
import pytest

from atlas_nnunet.training.collapse import LOW_DICE, N_EPOCHS, STILL, Record, collapse


def curves(train_loss, dice, predicted):
    return {"train_loss": list(train_loss), "dice": list(dice), "predicted_vox": list(predicted)}


def still(n=N_EPOCHS, moved=0.9 * STILL, loss=1.0, dice=0.9 * LOW_DICE, predicted=7):
    """The mean of the loss is `loss`, its range `moved` times that."""
    half = moved * abs(loss) / 2
    return curves([loss - half, loss + half, *[loss] * (n - 2)], [dice] * n, [predicted] * n)


def learning(n, seed=0):
    """As nnU-Net's Dice plus cross-entropy goes: fast, then to a plateau, with noise."""
    rng = np.random.default_rng(seed)
    epoch = np.arange(n)
    loss = -0.85 + 1.8 * np.exp(-epoch / 30) + rng.normal(0, 0.008, n)
    return curves(loss, 0.9 * (1 - np.exp(-epoch / 30)), rng.integers(1, 9, n))


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_training_is_never_reported_its_plateau_included(seed):
    whole = learning(1000, seed)
    for n in range(1, 1001):
        assert collapse({name: values[:n] for name, values in whole.items()}) is None


def test_nothing_predicted_for_20_epochs_and_not_for_19():
    one = still(moved=9, dice=math.nan, predicted=0)
    assert "no structure at all" in collapse(one)
    assert collapse({name: values[1:] for name, values in one.items()}) is None
    one["predicted_vox"][0] = 1
    assert collapse(one) is None


@pytest.mark.parametrize("loss", [1.0, -0.4, 30.0])
def test_a_loss_that_does_not_move_without_success(loss):
    assert "training loss has moved by" in collapse(still(loss=loss))
    assert collapse(still(loss=loss, moved=1.1 * STILL)) is None
    assert collapse(still(loss=loss, n=N_EPOCHS - 1)) is None
    assert collapse(still(loss=loss, dice=1.1 * LOW_DICE)) is None, "a plateau"


def test_what_to_change_is_said():
    for one in (still(), still(predicted=0)):
        for word in ("--learning-rate", "normalisation", "label status"):
            assert word in collapse(one)


def test_it_is_reported_once_and_not_again_after_a_resume(tmp_path):
    import json

    record, reports = Record(), []
    for epoch in range(30):
        known = {name: [1.0] * (epoch + 1) for name in ("train_loss", "dice")}
        reports.append(record.add(known, skipped=epoch % 2, predicted=0))
    assert [epoch for epoch, text in enumerate(reports) if text] == [N_EPOCHS - 1]
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(record.values))
    for n_epochs in (25, 30):
        resumed = Record()
        resumed.resume(path, n_epochs)
        assert resumed.values == {name: own[:n_epochs] for name, own in record.values.items()}
        assert not resumed.add({"train_loss": [], "dice": []}, skipped=0, predicted=0)


def test_epochs_before_the_record_began_are_unknown(tmp_path):
    record = Record()
    record.resume(tmp_path / "curves.json", 3)
    assert record.values["collapse"] == [""] * 3
    assert all(math.isnan(value) for value in record.values["skipped_steps"])
    for _ in range(N_EPOCHS - 1):
        assert not record.add({}, skipped=0, predicted=0)
    assert record.add({}, skipped=0, predicted=0)
