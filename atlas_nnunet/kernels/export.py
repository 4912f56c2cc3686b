"""Logits -> label map on the image's own grid, without ever holding all heads at full resolution.

nnU-Net 2.8.1 interpolates every head linearly over the whole image, then decides voxel by voxel
(export_prediction.py). Linear interpolation keeps order: a head that leads at all corners of a cell
leads everywhere in it. So heads are looked at once, on the network's grid; only samples in cells
whose corners disagree, or agree by less than rounding, are worked out, in scipy's own order
of operations and nnU-Net's own precision, because ties are decided by equality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlas_nnunet.kernels.arrays import Array, NanError, as_tensor, rounded
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

UNSURE = -1
REGION_MARGIN = 1e-3  # a logit: sigmoid is above 0.5 beyond it, whatever its last bits
CHUNK = 1 << 17  # voxels of the network's grid worked on at once: they fit a core's cache
HEADS_A_WORD = 62  # bits of an int64 that we use


@dataclass(frozen=True)
class Target:
    """The grid of the image.

    Attributes:
        shape: (x, y, z) of the network's crop of the image, at the image's spacing.
        current_spacing, new_spacing: (x, y, z) in mm, of the network's grid and of the image; they
            decide only whether one axis is so coarse that it is resampled apart.
        full_shape: (x, y, z) of the image; None where nothing was cropped.
        box: Of the crop in the image, one (first, end) an axis; None as above.
    """

    shape: tuple[int, ...]
    current_spacing: Sequence[float]
    new_spacing: Sequence[float]
    full_shape: tuple[int, ...] | None = None
    box: Sequence[Sequence[int]] | None = None

    @property
    def whole(self) -> tuple[int, ...]:
        return tuple(self.full_shape or self.shape)

    @property
    def crop(self) -> tuple[slice, ...]:
        """Where in the image the crop lies."""
        return tuple(slice(*ends) for ends in self.box or [(0, n) for n in self.shape])

    def axes(self, logits: torch.Tensor) -> list[Axis]:
        apart = separate_axis(self.current_spacing, self.new_spacing)
        return axes_between(logits.shape[1:], self.shape, apart, logits.device)


def logits_to_labels(
    logits: Array, target: Target, *, paint: np.ndarray | None = None, wide: bool = False
) -> np.ndarray:
    """The label map that `convert_predicted_logits_to_segmentation_with_correct_shape` makes.

    Args:
        logits: (head, x, y, z), float16, float32 or float64, on the network's grid.
        target: The image's grid.
        paint: None: a voxel gets the number of its largest head, the first of equals (softmax).
            Else a table (label, head) -> label: heads are gone through in order, and each whose
            probability is above 0.5 exchanges the voxel's label by the table, from 0 on. Stock's
            table, `painting(regions_class_order)`, exchanges any label by the head's own.
        wide: uint16 instead of uint8.

    Returns:
        `target.whole`, 0 outside the crop.

    Raises:
        NanError: a logit is NaN: there is nothing to decide by.
    """
    heads = as_tensor(logits)
    decide = _Largest(heads) if paint is None else _Regions(heads, paint)
    axes = target.axes(heads)
    whole = torch.ones(heads.shape[1:], dtype=torch.bool, device=heads.device)
    for key in decide.keys:
        whole &= whole_cells(key, axes) & (key != UNSURE)
    out = np.zeros(target.whole, np.uint16 if wide else np.uint8)
    crop = out[target.crop]
    for rows in slabs(target.shape):
        found = at_low_corner(decide.labels, axes, rows)
        for at in pieces(~at_low_corner(whole, axes, rows), rows.start):
            found[(at[0] - rows.start, *at[1:])] = decide.at(axes, at)
        crop[rows] = found.cpu().numpy()
    return out


def painting(regions_class_order: Sequence[int]) -> np.ndarray:
    """Stock's table for `logits_to_labels`: each region's label over whatever was there."""
    return np.tile(np.array(regions_class_order, np.int64), (max(regions_class_order) + 1, 1))


class _Largest:
    """Which head is largest.

    Attributes:
        labels: (x, y, z) on the network's grid, the largest head.
        keys: [the same; UNSURE where it leads by less than rounding].
    """

    def __init__(self, heads: torch.Tensor) -> None:
        self._heads = heads
        flat = heads.reshape(len(heads), -1)
        wide = torch.promote_types(heads.dtype, torch.float32)
        first = torch.empty(flat.shape[1], dtype=wide, device=heads.device)
        second = torch.empty_like(first)
        labels = torch.zeros(flat.shape[1], dtype=torch.int16, device=heads.device)
        for start in range(0, flat.shape[1], CHUNK):
            here = slice(start, start + CHUNK)
            best = flat[0, here].to(wide, copy=True)
            runner_up = torch.full_like(best, -torch.inf)
            label = labels[here]
            for head in range(1, len(flat)):
                value = flat[head, here].to(wide)
                label.masked_fill_(value > best, head)
                torch.maximum(runner_up, torch.minimum(value, best), out=runner_up)
                torch.maximum(best, value, out=best)
            first[here], second[here] = best, runner_up
        if torch.isnan(first).any():
            raise NanError
        self._second = second
        # By how much, at least, one value must exceed another to do so after rounding too: of its
        # own size, and of the size of what was added up to it in float64.
        self._share = 4 * torch.finfo(heads.dtype).eps
        largest = float(torch.maximum(first.abs(), second.abs()).max())
        self._least = torch.finfo(heads.dtype).tiny + 1e-14 * largest
        lead = first - second > self._share * first.abs() + self._least
        self.labels = labels.view(heads.shape[1:])
        self.keys = [torch.where(lead, labels, UNSURE).view(heads.shape[1:])]

    def at(self, axes: Sequence[Axis], at: Places) -> torch.Tensor:
        """The labels of some samples: the best of the heads that lead at a corner, unless a head
        that leads at none may reach it; then the best of all."""
        cell = _Cell(self._heads, axes, at)
        leaders = [self.labels.view(-1)[index] for index in cell.index]
        best = cell.interpolated(leaders[0].long())
        label = leaders[0].clone()
        for number, leader in enumerate(leaders[1:], start=1):
            is_new = leader != leaders[0]
            for other in leaders[1:number]:
                is_new &= leader != other
            some = torch.nonzero(is_new).squeeze(1)
            value, own = cell.some(some).interpolated(leader[some].long()), leader[some]
            wins = (value > best[some]) | ((value == best[some]) & (own < label[some]))
            best[some] = torch.where(wins, value, best[some])
            label[some] = torch.where(wins, own, label[some])
        bound = cell.interpolated(None, self._second)
        lead = best.double() - bound > self._share * best.double().abs() + self._least
        rest = torch.nonzero(~lead).squeeze(1)
        if len(rest):
            label[rest] = self._best_of_all(cell.some(rest))
        return label

    def _best_of_all(self, cell: _Cell) -> torch.Tensor:
        best = cell.interpolated(0)
        label = torch.zeros(len(best), dtype=torch.int16, device=best.device)
        for head in range(1, len(self._heads)):
            value = cell.interpolated(head)
            wins = value > best
            label.masked_fill_(wins, head)
            best = torch.where(wins, value, best)
        return label


class _Regions:
    """Which regions a voxel lies in, and the label that makes.

    Attributes:
        labels: (x, y, z) on the network's grid.
        keys: The bits of the regions, HEADS_A_WORD in each; UNSURE where one is near 0.5.
    """

    def __init__(self, heads: torch.Tensor, paint: np.ndarray) -> None:
        self._heads = heads
        self._paint = torch.from_numpy(np.asarray(paint, np.int16)).to(heads.device)
        shape, flat = heads.shape[1:], heads.reshape(len(heads), -1)
        words = range(-(-len(heads) // HEADS_A_WORD))
        nothing = torch.zeros(flat.shape[1], dtype=torch.int64, device=heads.device)
        on, maybe = [nothing.clone() for _ in words], [nothing.clone() for _ in words]
        labels = nothing.to(torch.int16)
        for start in range(0, len(nothing), CHUNK):
            here = slice(start, start + CHUNK)
            for number, head in enumerate(flat[:, here]):
                logit = head.float()
                possible = ~(logit < -REGION_MARGIN)
                if not possible.any():
                    continue  # most regions are far from most places
                if torch.isnan(logit).any():
                    raise NanError
                word, bit = number // HEADS_A_WORD, 1 << (number % HEADS_A_WORD)
                inside = logit > REGION_MARGIN
                maybe[word][here] += possible * bit
                on[word][here] += inside * bit
                before = labels[here]
                before[:] = torch.where(inside, self._paint[:, number][before.int()], before)
        self.labels = labels.view(shape)
        self._on, self._maybe = [w.view(shape) for w in on], [w.view(shape) for w in maybe]
        pairs = zip(self._on, self._maybe, strict=True)
        self.keys = [torch.where(on == maybe, on, UNSURE) for on, maybe in pairs]

    def at(self, axes: Sequence[Axis], at: Places) -> torch.Tensor:
        """The labels of some samples, regions that all corners agree on taken from there."""
        cell = _Cell(self._heads, axes, at)
        label = torch.zeros(len(at[0]), dtype=torch.int32, device=self._heads.device)
        for word, (on, maybe) in enumerate(zip(self._on, self._maybe, strict=True)):
            sure = torch.full_like(cell.index[0], -1)
            possible = torch.zeros_like(cell.index[0])
            for index in cell.index:
                sure &= on.view(-1)[index]
                possible |= maybe.view(-1)[index]
            first = word * HEADS_A_WORD
            for head in range(first, min(first + HEADS_A_WORD, len(self._heads))):
                bit = 1 << (head - first)
                inside = (sure & bit) != 0
                some = torch.nonzero(~inside & ((possible & bit) != 0)).squeeze(1)
                if len(some):
                    value = cell.some(some).interpolated(head)
                    inside[some] = torch.sigmoid(value.float()) > 0.5
                label = torch.where(inside, self._paint[:, head][label].int(), label)
        return label.to(torch.int16)


class _Cell:
    """Some samples, with the corners of their cells.

    Attributes:
        index: Flat indices into the network's grid, one tensor a corner.
    """

    def __init__(self, heads: torch.Tensor, axes: Sequence[Axis], at: Places) -> None:
        self._flat = heads.reshape(len(heads), -1)
        self.index, self._weights = cells_of(axes, at, heads.shape[1:])

    def some(self, chosen: torch.Tensor) -> _Cell:
        """Of these samples, those at some positions."""
        fewer = object.__new__(_Cell)
        fewer._flat = self._flat
        fewer.index = [index[chosen] for index in self.index]
        taken: dict[int, torch.Tensor] = {}  # a weight serves several corners

        def take(weight: torch.Tensor) -> torch.Tensor:
            if id(weight) not in taken:
                taken[id(weight)] = weight[chosen]
            return taken[id(weight)]

        fewer._weights = [[take(w) for w in weights] for weights in self._weights]
        return fewer

    def interpolated(
        self, head: int | torch.Tensor | None, of: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As stock has it: summed in float64, corner by corner, then rounded to the logits' type.

        Args:
            head: One for all samples, or one for each; None with `of`.
            of: A flat map on the network's grid instead of a head; its values are not rounded.
        """
        total = torch.zeros(len(self.index[0]), dtype=torch.float64, device=self._flat.device)
        for index, weights in zip(self.index, self._weights, strict=True):
            value = (self._flat[head, index] if of is None else of[index]).double()
            for weight in weights:
                value *= weight
            total += value
        return total if of is not None else rounded(total, self._flat.dtype)
