"""Where the samples of a new grid lie among the voxels of an old one, as nnU-Net places them.

Torch, on the CPU or on a GPU; float64 throughout, because ties are decided by equality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

ANISOTROPY = 3.0  # ANISO_THRESHOLD, nnunetv2/configuration.py, 2.8.1
SLAB_VOXELS = 1 << 22  # samples worked on at once
SCORED = 1 << 18  # of these, samples scored at once

Places = tuple[torch.Tensor, ...]  # indices into a grid, one tensor an axis


@dataclass(frozen=True)
class Axis:
    """Where the samples of one axis lie among its voxels.

    Attributes:
        low, high: (n_out,) indices of the two voxels a sample lies between, clamped to the axis.
        weights: (2, n_out) of those two, float64.
        nearest: (n_out,) index of the nearest voxel.
        is_apart: The nearest voxel alone counts; `low` is that one. So it is, too, where an axis
            is not resampled: the other voxel's weight is 0.
    """

    low: torch.Tensor
    high: torch.Tensor
    weights: torch.Tensor
    nearest: torch.Tensor
    is_apart: bool

    @classmethod
    def of(cls, n_in: int, n_out: int, *, is_apart: bool, device: torch.device) -> Axis:
        """Voxels as cells that fill both axes alike (scipy's `zoom` with `grid_mode`, mode
        "nearest"; weights in the order of operations of its `ni_splines.c`)."""
        place = (np.arange(n_out) + 0.5) * (np.float64(n_in) / np.float64(n_out)) - 0.5
        floor = np.floor(place)
        first = 1.0 - (place - floor)
        index = floor.astype(np.int64)
        last = n_in - 1
        nearest = np.clip(np.floor(place + 0.5).astype(np.int64), 0, last)
        low = nearest if is_apart else np.clip(index, 0, last)
        high = np.clip(index + 1, 0, last)
        weights = np.stack([first, 1.0 - first])
        low_, high_, weights_, nearest_ = (
            torch.from_numpy(array).to(device) for array in (low, high, weights, nearest)
        )
        return cls(low_, high_, weights_, nearest_, is_apart)

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the two voxels, those that count."""
        return (0,) if self.is_apart else (0, 1)

    def side(self, which: int) -> torch.Tensor:
        return self.high if which else self.low


def axes_between(
    old_shape: Sequence[int], new_shape: Sequence[int], apart: int | None, device: torch.device
) -> list[Axis]:
    """The axes of a resampling.

    Args:
        old_shape: One number an axis.
        new_shape: Likewise.
        apart: Axis of which the nearest voxel alone counts, or None.
        device: Where the work is done.
    """
    return [
        Axis.of(int(n_in), int(n_out), is_apart=axis == apart or n_in == n_out, device=device)
        for axis, (n_in, n_out) in enumerate(zip(old_shape, new_shape, strict=True))
    ]


def separate_axis(current_spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """The axis that nnU-Net resamples apart (`determine_do_sep_z_and_axis`, nnunetv2 2.8.1)."""
    for spacing in (np.array(current_spacing, float), np.array(new_spacing, float)):
        if spacing.max() / spacing.min() > ANISOTROPY:
            coarse = np.flatnonzero(spacing.max() / spacing == 1)
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def corners(axes: Sequence[Axis]) -> list[tuple[int, ...]]:
    """The corners of a cell, in the order in which scipy adds them up: one side an axis."""
    return list(product(*(axis.sides for axis in axes)))


def cells_of(
    axes: Sequence[Axis], at: Places, shape: Sequence[int]
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """The corners of some samples' cells, in the order of `corners`.

    Args:
        axes: Of the resampling.
        at: The samples.
        shape: Of the old grid.

    Returns:
        For each corner, flat indices into the old grid; and its weights, one tensor an axis that is
        not apart, in the order in which they multiply.
    """
    strides = [int(np.prod(shape[number + 1 :])) for number in range(len(axes))]
    parts = [
        [axis.side(which)[own] * stride for which in axis.sides]
        for axis, own, stride in zip(axes, at, strides, strict=True)
    ]
    weights = [
        [] if axis.is_apart else [axis.weights[which][own] for which in axis.sides]
        for axis, own in zip(axes, at, strict=True)
    ]
    indices, products = [], []
    for corner in corners(axes):
        index = parts[0][corner[0]]
        for part, which in zip(parts[1:], corner[1:], strict=True):
            index = index + part[which]
        indices.append(index)
        products.append([w[which] for w, which in zip(weights, corner, strict=True) if w])
    return indices, products


def whole_cells(values: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Whether the cell above each voxel, one step along every axis that is not apart, holds one
    value; at the far end of an axis the cell is the voxel's own layer."""
    whole = torch.ones(values.shape, dtype=torch.bool, device=values.device)
    for corner in corners(axes):
        if any(corner):
            sides = list(zip(values.shape, corner, strict=True))
            here = tuple(slice(0, max(1, n - o)) for n, o in sides)
            there = tuple(slice(o, None) if n > o else slice(0, None) for n, o in sides)
            whole[here] &= values[here] == values[there]
    return whole


def at_low_corner(values: torch.Tensor, axes: Sequence[Axis], rows: slice) -> torch.Tensor:
    """What the low corner of each sample's cell holds, for some rows of the new grid."""
    taken = values.index_select(0, axes[0].low[rows])
    for number, axis in enumerate(axes[1:], start=1):
        taken = taken.index_select(number, axis.low)
    return taken


def slabs(new_shape: Sequence[int]) -> list[slice]:
    """Rows of the new grid, so many at once that SLAB_VOXELS is not exceeded, but one at least."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(new_shape[1:]))))
    return [slice(k, min(k + step, new_shape[0])) for k in range(0, int(new_shape[0]), step)]


def pieces(chosen: torch.Tensor, first_row: int) -> list[Places]:
    """The samples of a slab that are True in `chosen`, SCORED at a time, in the new grid."""
    at = torch.nonzero(chosen).T
    at[0] += first_row
    return [tuple(at[:, k : k + SCORED]) for k in range(0, at.shape[1], SCORED)]
