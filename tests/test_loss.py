"""Losses: equal to nnU-Net's where all is annotated, deaf where nothing is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_nnunet.training.loss import (
    DeepSupervision,
    MarginalLoss,
    RegionLoss,
    Regions,
    deep_supervision_factors,
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
    ours = RegionLoss(batch_dice)(logits, regions, ones)
    torch.testing.assert_close(ours, stock(logits, regions), atol=2e-6, rtol=1e-5)
    stock = DC_and_CE_loss({**dice, "do_bg": False}, {}, dice_class=kind)
    ours = MarginalLoss(batch_dice)(logits, classes, ones)
    torch.testing.assert_close(ours, stock(logits, classes), atol=2e-6, rtol=1e-5)


@given(shapes, st.booleans(), st.integers(0, 99))
@settings(max_examples=30)
def test_an_unlabelled_structure_has_no_say_and_gets_no_gradient(shape, batch_dice, seed):
    logits, regions, _ = batch(shape, seed)
    weights = torch.ones(shape[:2])
    weights[:, 0] = 0
    loss = RegionLoss(batch_dice)
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


@pytest.mark.parametrize("loss", [RegionLoss(True), RegionLoss(False), MarginalLoss(False)])
def test_where_nothing_is_known_the_loss_is_finite_and_pulls_nowhere(loss):
    logits, regions, classes = batch((2, 3, 4, 4, 4), 0)
    logits.requires_grad_()
    target = regions if isinstance(loss, RegionLoss) else torch.zeros_like(classes)
    value = loss(logits, target, torch.zeros(2, 3))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert gradient.abs().max() < 1e-6


def test_a_pseudo_label_counts_by_its_weight():
    logits, regions, _ = batch((1, 2, 4, 4, 4), 3)
    loss = RegionLoss(False)
    only = [loss(logits, regions, torch.tensor([w])) for w in ([1.0, 0.0], [0.0, 1.0])]
    both = loss(logits, regions, torch.tensor([[1.0, 0.25]]))
    torch.testing.assert_close(both, (only[0] + 0.25 * only[1]) / 1.25)


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_a_patient_whose_structure_is_unlabelled_is_not_in_the_dice_of_the_batch(seed):
    """With one Dice over the batch, leaving a patient's structure out is having no such patient."""
    logits, regions, _ = batch((3, 1, 4, 4, 4), seed)
    loss = RegionLoss(True)
    out = loss(logits, regions, torch.tensor([[1.0], [0.0], [1.0]]))
    torch.testing.assert_close(out, loss(logits[::2], regions[::2], torch.ones(2, 1)))


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_marginal_loss_cannot_tell_background_from_an_unlabelled_class(seed):
    logits, _, classes = batch((2, 4, 3, 3, 3), seed)
    weights = torch.ones(2, 4)
    weights[:, 2] = 0
    classes[classes == 2] = 0
    swapped = logits[:, [2, 1, 0, 3]]
    loss = MarginalLoss(False)
    torch.testing.assert_close(loss(logits, classes, weights), loss(swapped, classes, weights))


@pytest.mark.host
def test_deep_supervision_weighs_outputs_as_nnunet_does():
    factors = deep_supervision_factors(4)
    assert factors == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    logits, regions, _ = batch((1, 2, 4, 4, 4), 5)
    loss, ones = RegionLoss(False), torch.ones(1, 2)
    value = DeepSupervision(loss, [0.75, 0.25, 0])([logits] * 3, [regions] * 3, ones)
    torch.testing.assert_close(value, loss(logits, regions, ones))


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
