"""Logits -> probabilities on the image's own grid, a few slices at once.

What nnU-Net 2.8.1 saves for ensembles (export_prediction.py with return_probabilities): every
head, interpolated linearly, as softmax or sigmoid. The result is as large as it is; what is held
beside it is a slab. Values before softmax are stock's to the last bit, for scipy's order of
operations is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from atlas_nnunet.kernels.arrays import NanError, as_tensor, rounded
from atlas_nnunet.kernels.cells import SLAB_VOXELS, Axis, corners
from atlas_nnunet.kernels.export import Target


def probability_slabs(
    logits: np.ndarray | torch.Tensor, target: Target, *, is_regions: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """The crop's probabilities.

    Args:
        logits: (head, x, y, z), float16, float32 or float64, on the network's grid.
        target: The image's grid.
        is_regions: Sigmoid instead of softmax.

    Yields:
        Rows of the crop's first axis, and (head, row, y, z) float32.

    Raises:
        NanError: a logit is NaN.
    """
    heads = as_tensor(logits)
    axes = target.axes(heads)
    step = max(1, SLAB_VOXELS // max(1, len(heads) * int(np.prod(target.shape[1:]))))
    for first in range(0, target.shape[0], step):
        rows = slice(first, min(first + step, target.shape[0]))
        values = torch.stack([_interpolated(head, axes, rows) for head in heads]).float()
        if torch.isnan(values).any():
            raise NanError
        values = torch.sigmoid(values) if is_regions else torch.softmax(values, dim=0)
        yield rows, values.cpu().numpy()


def labels_of(probabilities: np.ndarray, paint: np.ndarray | None) -> np.ndarray:
    """The labels that probabilities mean; `paint` as in `logits_to_labels`.

    Args:
        probabilities: (head, ...) float32.
        paint: None for softmax.

    Returns:
        (...) int64.
    """
    if paint is None:
        return probabilities.argmax(axis=0)
    labels = np.zeros(probabilities.shape[1:], np.int64)
    for number, head in enumerate(probabilities):
        inside = head > 0.5
        labels[inside] = np.asarray(paint)[labels[inside], number]
    return labels


def _interpolated(head: torch.Tensor, axes: Sequence[Axis], rows: slice) -> torch.Tensor:
    """Some rows of one head, summed corner by corner in float64, in the head's type."""
    total: torch.Tensor | float = 0.0
    for corner in corners(axes):
        value = head
        for number, (axis, which) in enumerate(zip(axes, corner, strict=True)):
            here = rows if number == 0 else slice(None)
            value = value.index_select(number, axis.side(which)[here]).double()
            if not axis.is_apart:
                shape = [-1 if other == number else 1 for other in range(len(axes))]
                value = value * axis.weights[which][here].view(shape)
        total = total + value
    return rounded(torch.as_tensor(total), head.dtype)
