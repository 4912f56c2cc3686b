"""Implicit shapes on a voxel grid, each looked at in its own bounding box only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlas_nnunet.demo.anatomy import Blob, Shape, Tube

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Space:
    """A patient's space on a grid of voxels.

    Attributes:
        axes_mm: Three ascending coordinate vectors, (x), (y), (z).
        warped_mm: (3, x, y, z) float32: where each voxel lies in the template's space.
        roughness: (x, y, z) float32, about -1 to 1: makes surfaces uneven.
    """

    axes_mm: tuple[np.ndarray, np.ndarray, np.ndarray]
    warped_mm: np.ndarray
    roughness: np.ndarray
    reach_mm: float  # greatest displacement, by which bounding boxes are widened

    @property
    def shape_vox(self) -> tuple[int, int, int]:
        x, y, z = (len(a) for a in self.axes_mm)
        return x, y, z

    def box(self, low: np.ndarray, high: np.ndarray) -> Box | None:
        """Voxels that a template box may reach, or None if it is out of the field of view."""
        slices = []
        for axis, (lo, hi) in enumerate(zip(low, high, strict=True)):
            a = int(np.searchsorted(self.axes_mm[axis], lo - self.reach_mm))
            b = int(np.searchsorted(self.axes_mm[axis], hi + self.reach_mm))
            if a >= b:
                return None
            slices.append(slice(a, b))
        return slices[0], slices[1], slices[2]


def upsample(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A coarse (a, b, c) grid of values, smoothly interpolated to (x, y, z), float32.

    Cubic along each axis, so that nothing shows where the coarse grid was.
    """
    out = grid.astype(np.float32)
    for axis, n in enumerate(shape):
        out = np.moveaxis(np.tensordot(_weights(grid.shape[axis], n), out, (1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def _weights(coarse: int, fine: int) -> np.ndarray:
    """(fine, coarse): Catmull-Rom weights, ends repeated."""
    at = np.linspace(0, coarse - 1, fine)
    base = np.clip(np.floor(at).astype(int), 0, max(coarse - 2, 0))
    t = at - base
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    matrix = np.zeros((fine, coarse))
    for offset, tap in enumerate(taps, -1):
        np.add.at(matrix, (np.arange(fine), np.clip(base + offset, 0, coarse - 1)), tap)
    return matrix.astype(np.float32)


def draw(shapes: tuple[Shape, ...], space: Space) -> list[tuple[Box, np.ndarray]]:
    """(box, depth) for each part of an organ; depth is 0 in the middle, 1 on the surface."""
    parts: list[tuple[Box, np.ndarray] | None] = []
    for shape in shapes:
        parts += [_blob(shape, space)] if isinstance(shape, Blob) else _tube(shape, space)
    return [part for part in parts if part is not None]


def _blob(shape: Blob, space: Space) -> tuple[Box, np.ndarray] | None:
    center, axes = np.array(shape.center), np.array(shape.axes)
    box = space.box(center - axes.max() * 1.1, center + axes.max() * 1.1)
    if box is None:
        return None
    x, y, z = (space.warped_mm[a][box] - np.float32(center[a]) for a in range(3))
    c, s = (np.float32(f(np.deg2rad(shape.tilt_deg))) for f in (np.cos, np.sin))
    u, w = c * x + s * z, -s * x + c * z
    a, b, d = (np.float32(1 / r) for r in axes)
    depth = np.sqrt((u * a) ** 2 + (y * b) ** 2 + (w * d) ** 2)
    return box, depth + np.float32(0.06) * space.roughness[box]


def _tube(shape: Tube, space: Space) -> list[tuple[Box, np.ndarray]]:
    points = np.array(shape.points, np.float32)
    radii = np.linspace(*shape.radius, len(points)).astype(np.float32)
    parts: list[tuple[Box, np.ndarray]] = []
    for start, stop, r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
        reach = max(r0, r1) * 1.1
        box = space.box(np.minimum(start, stop) - reach, np.maximum(start, stop) + reach)
        if box is None:
            continue
        along = stop - start
        from_start = [space.warped_mm[a][box] - start[a] for a in range(3)]
        t = sum(d * np.float32(k) for d, k in zip(from_start, along, strict=True))
        t = np.clip(t / np.float32(max((along**2).sum(), 1e-6)), 0, 1)
        square = sum((d - t * np.float32(k)) ** 2 for d, k in zip(from_start, along, strict=True))
        depth = np.sqrt(square) / (r0 + t * (r1 - r0))
        parts.append((box, depth + np.float32(0.05) * space.roughness[box]))
    return parts
