"""Losses: equal to nnU-Net's where all is annotated, deaf where nothing is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_nnunet.errors import PlanError
from atlas_nnunet.training.distributed import Ranks
from atlas_nnunet.training.loss import (
    DeepSupervision,
    MarginalLoss,
    RegionLoss,
    Regions,
    build_loss,
    deep_supervision_factors,
    known_structures,
)
from atlas_nnunet.training.steps import confusion

shapes = st.tuples(st.integers(1, 3), st.integers(2, 4), *[st.integers(2, 5)] * 3)


def batch(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    regions = torch.rand(shape, generator=generator) > 0.6
    classes = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator)
    return logits, regions, classes


@pytest.mark.host
@given(shapes, st.booleans(), st.integers(0, 99))
@settings(max_examples=30)
def test_with_everything_annotated_both_losses_are_nnunets_own(shape, batch_dice, seed):
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    logits, regions, classes = batch(shape, seed)
    ones = torch.ones(shape[:2])
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    kind = MemoryEfficientSoftDiceLoss
    stock = DC_and_BCE_loss({}, {**dice, "do_bg": True}, dice_class=kind)
    ours = RegionLoss(batch_dice, shape[1])(logits, regions, ones)
    torch.testing.assert_close(ours, stock(logits, regions), atol=2e-6, rtol=1e-5)
    stock = DC_and_CE_loss({**dice, "do_bg": False}, {}, dice_class=kind)
    ours = MarginalLoss(batch_dice, shape[1] - 1)(logits, classes, ones)
    torch.testing.assert_close(ours, stock(logits, classes), atol=2e-6, rtol=1e-5)


@given(shapes, st.booleans(), st.integers(0, 99))
@settings(max_examples=30)
def test_an_unlabelled_structure_has_no_say_and_gets_no_gradient(shape, batch_dice, seed):
    logits, regions, _ = batch(shape, seed)
    weights = torch.ones(shape[:2])
    weights[:, 0] = 0
    loss = RegionLoss(batch_dice, shape[1])
    logits.requires_grad_()
    value = loss(logits, regions, weights)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[:, 0] == 0).all()
    assert (gradient[:, 1:] != 0).any()
    other = regions.clone()
    other[:, 0] = ~other[:, 0]
    assert loss(logits, other, weights) == value
    without = loss(logits[:, 1:], regions[:, 1:], weights[:, 1:])
    torch.testing.assert_close(value, without)


def kinds(structures):
    return [
        kind(batch_dice, structures)
        for kind in (RegionLoss, MarginalLoss)
        for batch_dice in (True, False)
    ]


def value_and_gradient(loss, logits, target, weights):
    logits = logits.detach().requires_grad_()
    value = loss(logits, target, weights)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def target_for(loss, regions, classes):
    return regions if isinstance(loss, RegionLoss) else classes


def ids_of(loss):
    return f"{type(loss).__name__}-batch_dice={loss.batch_dice}"


@pytest.mark.parametrize("loss", kinds(2), ids=ids_of)
def test_where_nothing_is_known_loss_and_gradient_are_zero(loss):
    logits, regions, classes = batch((2, 3, 4, 4, 4), 0)
    target = target_for(loss, regions, classes)
    value, gradient = value_and_gradient(loss, logits, target, torch.zeros(2, 3))
    assert value == 0
    assert (gradient == 0).all(), "not nan either"


@pytest.mark.parametrize("loss", kinds(2.5), ids=ids_of)
@pytest.mark.parametrize("weight", [0.5, 0.01])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_batch_of_pseudo_labels_alone_counts_by_its_weight(loss, weight, is_empty):
    """A patch without any structure as well: there the smoothing term decides the Dice."""
    logits, regions, classes = batch((3, 4, 4, 4, 4), 1)
    if is_empty:
        logits, regions, classes = logits - 9, regions & False, classes * 0
    target = target_for(loss, regions, classes)
    ones = torch.ones(3, 4)
    value, gradient = value_and_gradient(loss, logits, target, ones)
    less, smaller = value_and_gradient(loss, logits, target, weight * ones)
    torch.testing.assert_close(less, weight * value)
    torch.testing.assert_close(smaller, weight * gradient, rtol=1e-4, atol=1e-9)


@given(st.booleans(), st.integers(0, 99))
@settings(max_examples=20)
def test_a_structures_gradient_does_not_depend_on_the_status_of_others(batch_dice, seed):
    logits, regions, _ = batch((2, 33, 3, 3, 3), seed)
    loss = RegionLoss(batch_dice, 33)
    ones, alone = torch.ones(2, 33), torch.zeros(2, 33)
    alone[:, 7] = 1
    mixed = torch.rand(2, 33, generator=torch.Generator().manual_seed(seed))
    mixed[:, 7] = 1
    statuses = (ones, alone, mixed)
    gradients = [value_and_gradient(loss, logits, regions, w)[1][:, 7] for w in statuses]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [RegionLoss, MarginalLoss])
@given(st.integers(0, 99), st.permutations(range(4)), st.integers(1, 3))
@settings(max_examples=20)
def test_without_batch_dice_a_batch_is_the_mean_of_its_samples(kind, seed, order, cut):
    """And so of any division among ranks, which DistributedDataParallel averages evenly."""
    logits, regions, classes = batch((4, 3, 3, 3, 3), seed)
    weights = torch.randint(0, 3, (4, 3), generator=torch.Generator().manual_seed(seed)) / 2
    loss = kind(False, 1.7)
    target = target_for(loss, regions, classes)
    value, gradient = value_and_gradient(loss, logits, target, weights)
    singles = [value_and_gradient(loss, logits[[i]], target[[i]], weights[[i]]) for i in range(4)]
    torch.testing.assert_close(sum(v for v, _ in singles) / 4, value)
    torch.testing.assert_close(torch.cat([g for _, g in singles]) / 4, gradient)
    on_rank = kind(False, 1.7, Ranks(world=2, batch_size=4))
    parts = [
        value_and_gradient(on_rank, logits[part], target[part], weights[part])
        for part in (list(order[:cut]), list(order[cut:]))
    ]
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, value)
    shuffled = torch.cat([g for _, g in parts]) / 2
    torch.testing.assert_close(shuffled, gradient[list(order)])


def test_a_pseudo_label_counts_by_its_weight():
    logits, regions, _ = batch((1, 2, 4, 4, 4), 3)
    loss = RegionLoss(False, 2)
    only = [loss(logits, regions, torch.tensor([w])) for w in ([1.0, 0.0], [0.0, 1.0])]
    both = loss(logits, regions, torch.tensor([[1.0, 0.25]]))
    torch.testing.assert_close(both, only[0] + 0.25 * only[1])


def test_background_is_known_as_well_as_the_structures_that_it_excludes():
    logits, _, classes = batch((1, 4, 4, 4, 4), 3)
    entropies = []
    for weights in ([1, 0.5, 0.5, 0], [1, 0.5, 0.5, 0.5], [1, 1, 1, 1]):
        loss = MarginalLoss(False, 1e9)  # of the Dice nothing is left
        entropies.append(loss(logits, classes * 0, torch.tensor([weights]).float()))
    log_probability = torch.log_softmax(logits, 1)
    alone = -log_probability[:, 0].mean()
    merged = -log_probability[:, [0, 3]].logsumexp(1).mean()
    for found, want in zip(entropies, (0.5 * merged, 0.5 * alone, alone), strict=True):
        torch.testing.assert_close(found, want)


def test_the_fixed_count_is_the_mean_number_of_structures_with_a_label():
    assert known_structures(torch.tensor([[1, 0.5, 0], [1, 0, 0]]), "Dataset001") == 1.5
    assert known_structures(torch.ones(5, 33), "Dataset001") == 33
    with pytest.raises(PlanError, match="every structure is unlabelled"):
        known_structures(torch.zeros(2, 3), "Dataset001")


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_a_patient_whose_structure_is_unlabelled_is_not_in_the_dice_of_the_batch(seed):
    """The Dice and the entropy are those of the others, who are two of three samples."""
    logits, regions, _ = batch((3, 1, 4, 4, 4), seed)
    loss = RegionLoss(True, 1)
    out = loss(logits, regions, torch.tensor([[1.0], [0.0], [1.0]]))
    torch.testing.assert_close(out, 2 / 3 * loss(logits[::2], regions[::2], torch.ones(2, 1)))


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_marginal_loss_cannot_tell_background_from_an_unlabelled_class(seed):
    logits, _, classes = batch((2, 4, 3, 3, 3), seed)
    weights = torch.ones(2, 4)
    weights[:, 2] = 0
    classes[classes == 2] = 0
    swapped = logits[:, [2, 1, 0, 3]]
    loss = MarginalLoss(False, 3)
    torch.testing.assert_close(loss(logits, classes, weights), loss(swapped, classes, weights))


@pytest.mark.host
def test_deep_supervision_weighs_outputs_as_nnunet_does():
    factors = deep_supervision_factors(4)
    assert factors == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    logits, regions, _ = batch((1, 2, 4, 4, 4), 5)
    loss, ones = RegionLoss(False, 2), torch.ones(1, 2)
    value = DeepSupervision(loss, [0.75, 0.25, 0])([logits] * 3, [regions] * 3, ones)
    torch.testing.assert_close(value, loss(logits, regions, ones))


@pytest.mark.parametrize("every_output", [False, True])
def test_the_coarsest_output_has_nnunets_factor(every_output):
    """nnUNetTrainer._build_loss, 2.8.1: 0, but 1e-6 among ranks without torch.compile."""
    loss = build_loss(True, False, 2, Ranks(), n_outputs=3, every_output=every_output)
    raw = [1, 0.5, 1e-6 if every_output else 0.0]
    assert loss.factors == pytest.approx([f / sum(raw) for f in raw], rel=1e-12)
    assert (loss.factors[-1] > 0) == every_output
    assert deep_supervision_factors(1, 1e-6) == [1]
    single = build_loss(False, True, 2, Ranks(), n_outputs=0, every_output=every_output)
    assert isinstance(single, MarginalLoss)
    assert single.batch_dice


@pytest.mark.host
def test_regions_on_the_device_are_the_hosts_regions():
    from batchgeneratorsv2.transforms.utils.seg_to_regions import (
        ConvertSegmentationToRegionsTransform,
    )

    regions = [(1, 4, 5), 2, (4,), (3, 5)]
    codes = torch.randint(0, 6, (2, 1, 5, 4, 3), dtype=torch.int16)
    ours = Regions(regions)(codes)
    for one, want in zip(codes, ours, strict=True):
        stock = ConvertSegmentationToRegionsTransform(regions)(segmentation=one)["segmentation"]
        assert (stock.bool() == want).all()


@pytest.mark.parametrize("has_regions", [True, False])
def test_confusion_counts_voxels_and_leaves_the_unknown_out(has_regions):
    logits, regions, classes = batch((2, 3, 4, 4, 4), 7)
    target = regions if has_regions else classes
    weights = torch.ones(2, 3)
    tp, fp, fn = confusion(logits, target, weights, has_regions)
    n = 3 if has_regions else 2
    assert tp.shape == fp.shape == fn.shape == (n,)
    truth = target.sum((0, 2, 3, 4)) if has_regions else torch.stack(
        [(classes == c).sum() for c in (1, 2)]
    )  # fmt: skip
    assert (tp + fn == truth).all()
    weights[0] = 0
    half = confusion(logits, target, weights, has_regions)
    alone = confusion(logits[1:], target[1:], weights[1:], has_regions)
    assert all((a == b).all() for a, b in zip(half, alone, strict=True))
