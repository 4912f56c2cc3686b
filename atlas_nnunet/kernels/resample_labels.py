"""Label maps on another grid: nnU-Net's result, bit for bit, at a cost that labels do not raise.

nnU-Net 2.8.1 resizes the indicator of each label by linear interpolation and takes the label with
the highest score (batchgenerators 0.25.5, augmentations/utils.py, `_resample_seg_by_argmax`). Where
all corners of a voxel's cell carry one label, that label wins whatever the weights, and that is
so nearly everywhere: scores are worked out at borders only, for the labels of the corners only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

ANISOTROPY = 3.0  # ANISO_THRESHOLD, nnunetv2/configuration.py, 2.8.1
SLAB_VOXELS = 1 << 22  # output voxels worked on at once
BORDER_VOXELS = 1 << 18  # of these, border voxels scored at once


@dataclass(frozen=True)
class Axis:
    """Where the samples of one axis lie among its voxels.

    Attributes:
        low, high: (n_out,) indices of the two voxels a sample lies between, clamped to the axis.
        weights: (2, n_out) of those two, float64.
        nearest: (n_out,) index of the nearest voxel.
    """

    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, n_in: int, n_out: int) -> Axis:
        """Voxels as cells that fill both axes alike (scipy's `zoom` with `grid_mode`, mode
        "nearest"; weights in the order of operations of its `ni_splines.c`)."""
        place = (np.arange(n_out) + 0.5) * (np.float64(n_in) / np.float64(n_out)) - 0.5
        floor = np.floor(place)
        first = 1.0 - (place - floor)
        index = floor.astype(np.int64)
        last = n_in - 1
        return cls(
            np.clip(index, 0, last),
            np.clip(index + 1, 0, last),
            np.stack([first, 1.0 - first]),
            np.clip(np.floor(place + 0.5).astype(np.int64), 0, last),
        )


def resample_labels(
    data: np.ndarray,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> np.ndarray:
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
    if data.shape[1:] == new:
        return data
    apart = separate_axis(current_spacing, new_spacing)
    out = np.empty((len(data), *new), data.dtype)
    for channel, labels in enumerate(data):
        if apart is None:
            out[channel] = resize_labels(labels, new)
            continue
        in_plane = tuple(n for axis, n in enumerate(new) if axis != apart)
        slices = np.moveaxis(labels, apart, 0)
        taken = Axis.of(len(slices), new[apart]).nearest
        resized = {k: resize_labels(slices[k], in_plane) for k in np.unique(taken).tolist()}
        np.moveaxis(out[channel], apart, 0)[:] = [resized[k] for k in taken.tolist()]
    return out


def separate_axis(current_spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """The axis that nnU-Net resamples apart (`determine_do_sep_z_and_axis`, nnunetv2 2.8.1)."""
    for spacing in (np.array(current_spacing, float), np.array(new_spacing, float)):
        if spacing.max() / spacing.min() > ANISOTROPY:
            coarse = np.flatnonzero(spacing.max() / spacing == 1)
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def resize_labels(labels: np.ndarray, new_shape: Sequence[int]) -> np.ndarray:
    """A label map of any number of axes, resized; ties go to the nearest voxel's label if it is
    one of the tied, else to the smallest.

    Args:
        labels: Any integer or float dtype.
        new_shape: One number an axis.
    """
    axes = [Axis.of(n_in, int(n)) for n_in, n in zip(labels.shape, new_shape, strict=True)]
    whole = _uniform_cells(labels)
    out = np.empty(tuple(int(n) for n in new_shape), labels.dtype)
    step = max(1, SLAB_VOXELS // max(1, out[:1].size))
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        low = [axes[0].low[rows], *(axis.low for axis in axes[1:])]
        grid = np.ix_(*low)
        out[rows] = labels[grid]
        border = np.nonzero(~whole[grid])
        for first in range(0, len(border[0]), BORDER_VOXELS):
            at = [index[first : first + BORDER_VOXELS] for index in border]
            here = (at[0] + start, *at[1:])
            out[here] = _settled(labels, axes, here)
    return out


def _uniform_cells(labels: np.ndarray) -> np.ndarray:
    """Whether the cell above each voxel, one step along every axis, holds one label; at the far
    end of an axis the cell is the voxel's own layer."""
    whole = np.ones(labels.shape, bool)
    n = labels.ndim
    for offset in product((0, 1), repeat=n):
        if any(offset):
            here = tuple(slice(0, max(1, s - o)) for s, o in zip(labels.shape, offset, strict=True))
            there = tuple(
                slice(o, None) if s > o else slice(0, None)
                for s, o in zip(labels.shape, offset, strict=True)
            )
            whole[here] &= labels[here] == labels[there]
    return whole


def _settled(
    labels: np.ndarray, axes: Sequence[Axis], at: tuple[np.ndarray, ...]
) -> np.ndarray:  # fmt: skip
    """The labels of some voxels of the result, by their scores.

    Args:
        labels: The source.
        axes: Its axes.
        at: Indices into the result, one array an axis, as `np.nonzero` gives them.
    """
    corners = list(product((0, 1), repeat=labels.ndim))
    found = np.empty((len(corners), len(at[0])), labels.dtype)
    weights = np.ones((len(corners), len(at[0])))
    for corner, sides in enumerate(corners):
        index = []
        for axis, side, own in zip(axes, sides, at, strict=True):
            index.append((axis.high if side else axis.low)[own])
            weights[corner] *= axis.weights[side][own]
        found[corner] = labels[tuple(index)]
    scores = np.zeros_like(weights)
    for label, score in zip(found, scores, strict=True):
        for other, weight in zip(found, weights, strict=True):
            score += np.where(label == other, weight, 0.0)
    np.minimum(scores, 1.0, out=scores)  # skimage clips to the indicator's own range
    best = scores.max(axis=0)
    highest = np.where(scores == best, found, found.max())
    winner = highest.min(axis=0)
    nearest = labels[tuple(axis.nearest[own] for axis, own in zip(axes, at, strict=True))]
    nearest_wins = ((found == nearest) & (scores == best)).any(axis=0)
    return np.where(nearest_wins, nearest, winner)
