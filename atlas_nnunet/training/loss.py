"""Losses for partly labelled data: Dice + cross-entropy with a weight for each structure.

A weight is given for each sample and structure (labelstatus.py): 1 annotated, 0 unlabelled, in
between for pseudo-labels. It means the same in every batch: each term is divided by fixed counts
(samples, voxels, structures that a case of this training has labels for), never by the weights that
a batch happens to have (docs/decisions/0026-weights-and-ranks.md). With all weights 1 both losses
equal nnU-Net's own, term by term: DC_and_BCE_loss and DC_and_CE_loss with
MemoryEfficientSoftDiceLoss (compound_losses.py, dice.py, nnunetv2 2.8.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from atlas_nnunet.errors import PlanError
from atlas_nnunet.training.distributed import Ranks

SMOOTH = 1e-5  # nnUNetTrainer._build_loss, nnunetv2 2.8.1
NOTHING = 1e-8
# Under DistributedDataParallel without torch.compile every parameter needs a gradient, those of the
# coarsest output included (nnUNetTrainer._build_loss, nnunetv2 2.8.1).
COARSEST_OF_RANKS = 1e-6


def known_structures(weights: Tensor, where: str) -> float:
    """The count that a loss is divided by: structures with a label, on average over the cases.

    Args:
        weights: (case, structure) >= 0, of all cases of the training.
        where: Name of the dataset, for the error.

    Raises:
        PlanError: no case has a label of any structure.
    """
    count = float((weights > 0).sum(1).float().mean()) if len(weights) else 0.0
    if count == 0:
        raise PlanError(
            "every structure is unlabelled in every training case", where=where,
            do="check the label status in conversion.json; there is nothing to train on",
        )  # fmt: skip
    return count


class WeightedLoss(nn.Module):
    """What both losses share: the fixed counts, and the Dice term.

    Args:
        batch_dice: One Dice over the whole batch for each structure, as the plan says.
        structures: Number of structures that a training case has labels for, on average over the
            cases (`known_structures`); all of them where everything is annotated.
        ranks: The ranks that share the batch.
    """

    def __init__(self, batch_dice: bool, structures: float, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.batch_dice, self.structures = batch_dice, structures
        self.ranks = ranks or Ranks()

    def dice(self, probability: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Negative soft Dice, summed over structures by weight and divided by their fixed count.

        Args:
            probability: (batch, structure, *spatial), in [0, 1].
            target: The same shape, 0 or 1.
            weights: (batch, structure) >= 0.

        Returns:
            Scalar <= 0; 0 where no structure has a weight. -1 is reached by a perfect prediction of
            a batch with as many labelled structures as the average case.
        """
        axes = tuple(range(2, probability.ndim))
        intersect = (probability * target).sum(axes)
        total = probability.sum(axes) + target.sum(axes)
        if not self.batch_dice:
            dice = _dice(intersect, total)
            return -self.ranks.mean((dice * weights).sum(1)) / self.structures
        sums = torch.stack([intersect * weights, total * weights, weights, weights**2]).sum(1)
        intersect, total, weight, square = self.ranks.sum(sums)
        # 1 for weights of 0 and 1, w where all known samples have the weight w: the Dice then does
        # not depend on w, in spite of SMOOTH.
        scale = (square / weight.clamp_min(NOTHING)).clamp_min(NOTHING)
        dice = _dice(intersect / scale, total / scale)
        samples = self.ranks.n_samples(len(weights))
        return -(dice * weight).sum() / (samples * self.structures)


def _dice(intersect: Tensor, total: Tensor) -> Tensor:
    return (2 * intersect + SMOOTH) / torch.clip(total + SMOOTH, NOTHING)


class RegionLoss(WeightedLoss):
    """Sigmoid heads: an unlabelled structure contributes nothing, a pseudo-label its weight."""

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
        entropy = self.ranks.mean((entropy * weights).sum(1)) / self.structures
        return entropy + self.dice(torch.sigmoid(logits), target, weights)


class MarginalLoss(WeightedLoss):
    """Softmax heads: what is unlabelled in a case is merged with background there.

    Where a structure is unlabelled, a background voxel may be that structure. The probability of
    "background" is then the sum of both (marginal loss, Shi et al., Medical Image Analysis 2021,
    doi:10.1016/j.media.2021.101979, eq. 3), so no evidence is invented for either. "Background"
    means "none of the structures with a label": its weight is the mean of their weights.
    """

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
        foreground = weights[:, 1:]
        background = foreground.sum(1, True) / (foreground > 0).sum(1, True).clamp_min(1)
        of_class = torch.cat([background, foreground], 1)
        voxel_weight = of_class[spread].expand_as(logits).gather(1, target)
        entropy = -log_probability.gather(1, target).masked_fill(voxel_weight <= 0, 0)
        entropy = self.ranks.mean((entropy * voxel_weight).flatten(1).mean(1))
        onehot = torch.zeros_like(log_probability).scatter_(1, target, 1)[:, 1:]
        probability = torch.softmax(logits.float(), 1)[:, 1:]
        return entropy + self.dice(probability, onehot, foreground)


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


def deep_supervision_factors(n_outputs: int, coarsest: float = 0.0) -> list[float]:
    """Factors that halve with each resolution and sum to 1 (nnUNetTrainer._build_loss, 2.8.1).

    Args:
        n_outputs: Number of outputs, at least 1.
        coarsest: Factor of the coarsest output before the sum is set to 1; 0 leaves it out. A
            single output always has the factor 1.
    """
    factors = [1 / 2**i for i in range(n_outputs)]
    if n_outputs > 1:
        factors[-1] = coarsest
    return [f / sum(factors) for f in factors]


def build_loss(
    has_regions: bool,
    batch_dice: bool,
    structures: float,
    ranks: Ranks,
    *,
    n_outputs: int,
    every_output: bool,
) -> nn.Module:
    """The loss of a training.

    Args:
        has_regions: Sigmoid heads, else softmax.
        batch_dice: As the plan says.
        structures: As WeightedLoss.
        ranks: The ranks that share the batch.
        n_outputs: Outputs under deep supervision, finest first; 0 for a network without it.
        every_output: Whether the coarsest output needs a gradient too, however small.
    """
    loss = (RegionLoss if has_regions else MarginalLoss)(batch_dice, structures, ranks)
    if n_outputs == 0:
        return loss
    coarsest = COARSEST_OF_RANKS if every_output else 0.0
    return DeepSupervision(loss, deep_supervision_factors(n_outputs, coarsest))


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
