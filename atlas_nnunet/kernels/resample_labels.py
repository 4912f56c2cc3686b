"""Label maps on another grid: nnU-Net's result, bit for bit, at a cost that labels do not raise.

nnU-Net 2.8.1 resizes the indicator of each label by linear interpolation and takes the label with
the highest score (batchgenerators 0.25.5, augmentations/utils.py, `_resample_seg_by_argmax`). Where
all corners of a voxel's cell carry one label, that label wins whatever the weights, and that is
so nearly everywhere: scores are worked out at borders only, for the labels of the corners only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atlas_nnunet.kernels.arrays import Array, as_tensor, like
from atlas_nnunet.kernels.cells import (
    Axis,
    Places,
    at_low_corner,
    axes_between,
    cells_of,
    pieces,
    separate_axis,
    slabs,
    whole_cells,
)


def resample_labels(
    data: Array,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> Array:
    """nnU-Net's `resample_data_or_seg_to_shape` with is_seg=True, order=1, order_z=0,
    force_separate_z=None.

    Args:
        data: (c, x, y, z) labels of any integer or float dtype.
        new_shape: (x, y, z) to come to.
        current_spacing, new_spacing: (x, y, z) in mm; they decide only whether one axis is so
            coarse that it is resampled apart, by the nearest slice.

    Returns:
        (c, *new_shape) of the same dtype; `data` itself where the shape is the same.
    """
    new = tuple(int(n) for n in new_shape)
    if tuple(data.shape[1:]) == new:
        return data
    labels = as_tensor(data)
    apart = separate_axis(current_spacing, new_spacing)
    axes = axes_between(labels.shape[1:], new, apart, labels.device)
    out = torch.empty((len(labels), *new), dtype=labels.dtype, device=labels.device)
    for channel, target in zip(labels, out, strict=True):
        _resize(channel.contiguous(), axes, target)
    return like(out, data)


def _resize(labels: torch.Tensor, axes: Sequence[Axis], out: torch.Tensor) -> None:
    """Ties go to the nearest voxel's label if it is one of the tied, else to the smallest."""
    whole = whole_cells(labels, axes)
    for rows in slabs(out.shape):
        out[rows] = at_low_corner(labels, axes, rows)
        for at in pieces(~at_low_corner(whole, axes, rows), rows.start):
            out[at] = _settled(labels, axes, at)


def _settled(labels: torch.Tensor, axes: Sequence[Axis], at: Places) -> torch.Tensor:
    """The labels of some samples, by their scores. Most cells hold two labels: one, and not it."""
    indices, parts = cells_of(axes, at, labels.shape)
    found = [labels.view(-1)[index] for index in indices]
    weights = [_product(own, like=axes[0].weights, n=len(at[0])) for own in parts]
    nearest = labels[tuple(axis.nearest[own] for axis, own in zip(axes, at, strict=True))]
    one, other = found[0], found[0]
    for label in found:
        other = torch.where(label == one, other, label)
    score, rest = torch.zeros_like(weights[0]), torch.zeros_like(weights[0])
    are_two = torch.ones_like(one, dtype=torch.bool)
    for label, weight in zip(found, weights, strict=True):
        is_one = label == one
        are_two &= is_one | (label == other)
        score += torch.where(is_one, weight, 0.0)
        rest += torch.where(is_one, 0.0, weight)
    lead = score - rest  # stock clips scores to 1, which no two labels of a cell reach
    winner = torch.where(lead == 0, nearest, torch.where(lead > 0, one, other))
    more = torch.nonzero(~are_two).squeeze(1)
    if len(more):
        winner[more] = _among_many(
            torch.stack(found)[:, more], torch.stack(weights)[:, more], nearest[more]
        )
    return winner


def _product(parts: Sequence[torch.Tensor], like: torch.Tensor, n: int) -> torch.Tensor:
    """In order; ones where there is nothing to multiply."""
    found = parts[0] if parts else like.new_ones(n)
    for part in parts[1:]:
        found = found * part
    return found


def _among_many(
    found: torch.Tensor, weights: torch.Tensor, nearest: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """The winners where cells hold any number of labels.

    Args:
        found, weights: (corner, sample) labels, and float64.
        nearest: (sample,) the nearest voxel's label.
    """
    scores = torch.zeros_like(weights)
    for label, score in zip(found, scores, strict=True):
        for other, weight in zip(found, weights, strict=True):
            score += torch.where(label == other, weight, 0.0)
    best = scores == scores.amax(dim=0)
    winner = torch.where(best, found, found.max()).amin(dim=0)
    return torch.where(((found == nearest) & best).any(dim=0), nearest, winner)
