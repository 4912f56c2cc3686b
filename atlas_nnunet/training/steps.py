"""The online Dice of a validation batch: what is unlabelled does not count, as in the loss."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(
    logits: Tensor, target: Tensor, weights: Tensor, has_regions: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives by structure, over the batch.

    Args:
        logits: (batch, head, *spatial).
        target: (batch, structure, *spatial) bool with regions, else (batch, 1, *spatial) classes.
        weights: (batch, head); a structure of weight 0 is left out in that sample.
        has_regions: Sigmoid heads (threshold 0.5), else softmax with background first.

    Returns:
        Three float32 tensors (structure,), background not among them.
    """
    if has_regions:
        predicted, truth = logits > 0, target
    else:
        classes = torch.arange(1, logits.shape[1], device=logits.device)
        classes = classes.view(1, -1, *(1,) * (logits.ndim - 2))
        predicted, truth = logits.argmax(1, keepdim=True) == classes, target == classes
        weights = weights[:, 1:]
    known = (weights > 0).float()
    axes = tuple(range(2, logits.ndim))

    def count(voxels: Tensor) -> Tensor:
        return (voxels.sum(axes).float() * known).sum(0)

    return count(predicted & truth), count(predicted & ~truth), count(~predicted & truth)
