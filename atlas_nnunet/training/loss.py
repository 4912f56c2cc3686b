"""Losses that know what is not known: Dice + cross-entropy with a weight for each structure.

A weight is per sample and structure (labelstatus.py): 1 annotated, 0 unlabelled, in between for
pseudo-labels. With all weights 1 both losses equal nnU-Net's own, term by term:
DC_and_BCE_loss and DC_and_CE_loss with MemoryEfficientSoftDiceLoss (compound_losses.py, dice.py,
nnunetv2 2.8.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1e-5  # nnUNetTrainer._build_loss, nnunetv2 2.8.1
NOTHING = 1e-8


def weighted_dice(
    probability: Tensor, target: Tensor, weights: Tensor, *, over_batch: bool
) -> Tensor:
    """Negative soft Dice, averaged over structures by weight.

    Args:
        probability: (batch, structure, *spatial), in [0, 1].
        target: The same shape, 0 or 1.
        weights: (batch, structure) >= 0.
        over_batch: One Dice over the whole batch for each structure (nnU-Net's `batch_dice`).

    Returns:
        Scalar in [-1, 0]; 0 where no structure has a weight.
    """
    axes = tuple(range(2, probability.ndim))
    intersect = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    if over_batch:
        intersect, total = (intersect * weights).sum(0), (total * weights).sum(0)
        weights = weights.sum(0)
    dice = (2 * intersect + SMOOTH) / torch.clip(total + SMOOTH, NOTHING)
    return -(dice * weights).sum() / weights.sum().clamp_min(NOTHING)


class RegionLoss(nn.Module):
    """Sigmoid heads: an unlabelled structure contributes nothing, a pseudo-label its weight.

    Args:
        batch_dice: As the plan says.
    """

    def __init__(self, batch_dice: bool) -> None:
        super().__init__()
        self.batch_dice = batch_dice

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            logits: (batch, structure, *spatial).
            target: The same shape, bool or 0/1.
            weights: (batch, structure) >= 0.
        """
        logits, target = logits.float(), target.to(torch.float32)
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy = entropy.mean(tuple(range(2, logits.ndim)))
        entropy = (entropy * weights).sum() / weights.sum().clamp_min(NOTHING)
        dice = weighted_dice(torch.sigmoid(logits), target, weights, over_batch=self.batch_dice)
        return entropy + dice


class MarginalLoss(nn.Module):
    """Softmax heads: what is unlabelled in a case is merged with background there.

    Where a structure is unlabelled, a background voxel may be that structure. The probability of
    "background" is then the sum of both (marginal loss, Shi et al., Medical Image Analysis 2021,
    doi:10.1016/j.media.2021.101979, eq. 3), so no evidence is invented for either.

    Args:
        batch_dice: As the plan says.
    """

    def __init__(self, batch_dice: bool) -> None:
        super().__init__()
        self.batch_dice = batch_dice

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            logits: (batch, class, *spatial), class 0 is background.
            target: (batch, 1, *spatial) integers, class of each voxel.
            weights: (batch, class) >= 0; the weight of background is not used.
        """
        spread = (..., *(None,) * (logits.ndim - 2))
        target = target.long()
        log_probability = torch.log_softmax(logits.float(), 1)
        unknown = weights <= 0
        unknown[:, 0] = True  # background is always part of the merged class
        merged = log_probability.masked_fill(~unknown[spread], -torch.inf).logsumexp(1, True)
        log_probability = torch.cat([merged, log_probability[:, 1:]], 1)
        of_class = weights.clone()
        of_class[:, 0] = 1
        voxel_weight = of_class[spread].expand_as(logits).gather(1, target)
        entropy = -log_probability.gather(1, target).masked_fill(voxel_weight <= 0, 0)
        entropy = (entropy * voxel_weight).sum() / voxel_weight.sum().clamp_min(NOTHING)
        onehot = torch.zeros_like(log_probability).scatter_(1, target, 1)[:, 1:]
        probability = torch.softmax(logits.float(), 1)[:, 1:]
        dice = weighted_dice(probability, onehot, weights[:, 1:], over_batch=self.batch_dice)
        return entropy + dice


class DeepSupervision(nn.Module):
    """The weighted sum of a loss over the outputs of all resolutions.

    Args:
        loss: Called as loss(output, target, weights).
        factors: One for each output, finest first; 0 leaves an output out.
    """

    def __init__(self, loss: nn.Module, factors: Sequence[float]) -> None:
        super().__init__()
        self.loss, self.factors = loss, tuple(factors)

    def forward(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor
    ) -> Tensor:
        terms = [
            factor * self.loss(output, target, weights)
            for factor, output, target in zip(self.factors, outputs, targets, strict=True)
            if factor != 0
        ]
        return torch.stack(terms).sum()


def deep_supervision_factors(n_outputs: int) -> list[float]:
    """Halving with each resolution, the coarsest left out, summing to 1 (nnUNetTrainer.py:460)."""
    factors = [1 / 2**i for i in range(n_outputs)]
    if n_outputs > 1:
        factors[-1] = 0.0
    return [f / sum(factors) for f in factors]


class Regions(nn.Module):
    """Label maps of codes -> one channel a structure, on the device that trains.

    A look-up costs the same whatever the number of structures, and a batch of label maps is
    smaller than one of 32 channels on its way to the device.

    Args:
        regions: For each structure the codes that belong to it (LabelManager.foreground_regions).
    """

    def __init__(self, regions: Sequence[int | Sequence[int]]) -> None:
        super().__init__()
        codes = [[r] if isinstance(r, int) else list(r) for r in regions]
        member = torch.zeros(max(map(max, codes)) + 1, len(codes), dtype=torch.bool)
        for structure, own in enumerate(codes):
            member[own, structure] = True
        self.member: Tensor
        self.register_buffer("member", member)

    def forward(self, codes: Tensor) -> Tensor:
        """(batch, 1, *spatial) integers >= 0 -> (batch, structure, *spatial) bool."""
        return self.member[codes[:, 0].long()].movedim(-1, 1)
