"""Grids: where an array lies in the patient, and whether two arrays lie on the same grid."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

# Header fields are float32 and pass through several tools; a hundredth of the smallest clinical
# spacing (0.5 mm) is far above their rounding and far below any shift that matters.
TOLERANCE_MM = 5e-3
TOLERANCE_COSINE = 1e-3


@dataclass(frozen=True)
class Grid:
    """An array's shape and its affine.

    Attributes:
        shape_vox: (i, j, k) in file order.
        affine: (4, 4) float64, voxel indices (i, j, k, 1) -> RAS millimetres, as NIfTI has it.
    """

    shape_vox: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) in file order."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3): column a is the unit vector of axis a in RAS."""
        return self.affine[:3, :3] / self.spacing_mm

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_orthonormal(self) -> bool:
        gram = self.directions.T @ self.directions
        return bool(np.abs(gram - np.eye(3)).max() <= TOLERANCE_COSINE)

    def corners_mm(self) -> np.ndarray:
        """(8, 3) RAS positions of the corner voxels' centres."""
        last = np.array(self.shape_vox) - 1
        index = np.array([[b >> a & 1 for a in range(3)] for b in range(8)]) * last
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def __str__(self) -> str:
        spacing = "x".join(f"{s:.4g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.5g}" for o in self.affine[:3, 3])
        shape = "x".join(map(str, self.shape_vox))
        return f"{shape} vox, {spacing} mm, origin ({origin}), axes {axis_codes(self)}"


def axis_codes(grid: Grid) -> str:
    """Where each axis points: `LPS` = first axis to the left, second to posterior, ..."""
    names = (("L", "R"), ("P", "A"), ("I", "S"))
    codes = []
    for column in grid.directions.T:
        world = int(np.argmax(np.abs(column)))
        codes.append(names[world][int(column[world] > 0)])
    return "".join(codes)


class Relation(Enum):
    """How a mask's grid lies to its CT's."""

    SAME = "same grid"
    ORIGIN_DIFFERS = "same shape, spacing and orientation, another origin"
    REORIENTED = "same voxels, axes in another order or direction"
    PLACED = "same voxels where both are, another extent"
    ELSEWHERE = "another grid"


@dataclass(frozen=True)
class Alignment:
    """A mask's voxels are voxels of the CT; which ones.

    Attributes:
        axes: For each axis of the CT the mask's axis that runs along it.
        backwards: For each axis of the CT, whether the mask's runs against it.
        first_vox: The CT's index of the mask's first voxel, once its axes run as the CT's do.
        shape_vox: The mask's, in the CT's order of axes.
    """

    axes: tuple[int, ...]
    backwards: tuple[bool, ...]
    first_vox: tuple[int, ...]
    shape_vox: tuple[int, ...]

    @property
    def is_unturned(self) -> bool:
        return self.axes == (0, 1, 2) and not any(self.backwards)


def align(ct: Grid, mask: Grid) -> Alignment | None:
    """Which voxels of the CT a mask's voxels are, within TOLERANCE_MM at every corner.

    Returns:
        None where they are none of the CT's: bringing them there would need interpolation.
    """
    cosines = ct.directions.T @ mask.directions
    axes = tuple(int(a) for a in np.argmax(np.abs(cosines), axis=1))
    if sorted(axes) != [0, 1, 2]:
        return None
    backwards = tuple(bool(cosines[i, a] < 0) for i, a in enumerate(axes))
    shape = tuple(mask.shape_vox[a] for a in axes)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for i, (axis, flip) in enumerate(zip(axes, backwards, strict=True)):
        matrix[axis, i] = -1 if flip else 1
        matrix[axis, 3] = mask.shape_vox[axis] - 1 if flip else 0
    moved = Grid((shape[0], shape[1], shape[2]), mask.affine @ matrix)
    first = np.rint((np.linalg.inv(ct.affine) @ moved.affine)[:3, 3])
    shifted = ct.affine.copy()
    shifted[:3, 3] += ct.affine[:3, :3] @ first
    wanted = Grid(moved.shape_vox, shifted)
    if np.abs(moved.corners_mm() - wanted.corners_mm()).max() > TOLERANCE_MM:
        return None
    return Alignment(axes, backwards, tuple(int(f) for f in first), shape)


def relate(ct: Grid, mask: Grid) -> Relation:
    """How a mask's grid lies to its CT's, within TOLERANCE_MM at every corner of the volume.

    Of two volumes with one shape, spacing and orientation the origins are not compared: masks of
    AbdomenAtlas are known to have lost theirs.
    """
    found = align(ct, mask)
    same_shape = ct.shape_vox == mask.shape_vox
    if found is not None and found.shape_vox == ct.shape_vox and not any(found.first_vox):
        return Relation.SAME if found.is_unturned else Relation.REORIENTED
    same_spacing = np.abs(ct.spacing_mm - mask.spacing_mm).max() <= TOLERANCE_MM
    same_axes = np.abs(ct.directions - mask.directions).max() <= TOLERANCE_COSINE
    if same_shape and same_spacing and same_axes:
        return Relation.ORIGIN_DIFFERS
    return Relation.ELSEWHERE if found is None else Relation.PLACED


def turn(array: np.ndarray, found: Alignment) -> np.ndarray:
    """A mask's array (i, j, k) with the CT's order and direction of axes; a view."""
    turned = array.transpose(found.axes)
    return turned[tuple(slice(None, None, -1 if f else 1) for f in found.backwards)]


def place(array: np.ndarray, found: Alignment, ct: Grid) -> np.ndarray:
    """A mask's array on the CT's grid: turned, cut to the CT's extent, zero where it has none."""
    turned = turn(array, found)
    if found.shape_vox == ct.shape_vox and not any(found.first_vox):
        return turned
    out = np.zeros(ct.shape_vox, array.dtype)
    span = [
        (max(0, first), max(0, min(n, first + length)))
        for first, length, n in zip(found.first_vox, found.shape_vox, ct.shape_vox, strict=True)
    ]
    there = tuple(slice(a, b) for a, b in span)
    here = tuple(slice(a - f, b - f) for (a, b), f in zip(span, found.first_vox, strict=True))
    if all(a < b for a, b in span):
        out[there] = turned[here]
    return out
