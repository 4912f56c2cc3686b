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
    ELSEWHERE = "another grid"


def relate(ct: Grid, mask: Grid) -> Relation:
    """How a mask's grid lies to its CT's, within TOLERANCE_MM at every corner of the volume."""
    same_shape = ct.shape_vox == mask.shape_vox
    if same_shape and np.abs(ct.corners_mm() - mask.corners_mm()).max() <= TOLERANCE_MM:
        return Relation.SAME
    same_spacing = np.abs(ct.spacing_mm - mask.spacing_mm).max() <= TOLERANCE_MM
    same_axes = np.abs(ct.directions - mask.directions).max() <= TOLERANCE_COSINE
    if same_shape and same_spacing and same_axes:
        return Relation.ORIGIN_DIFFERS
    if _reorientation(ct, mask) is not None:
        return Relation.REORIENTED
    return Relation.ELSEWHERE


def _reorientation(ct: Grid, mask: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]] | None:
    """(mask axis for each CT axis, whether it runs backwards), if the voxels coincide."""
    cosines = ct.directions.T @ mask.directions
    axes = tuple(int(a) for a in np.argmax(np.abs(cosines), axis=1))
    if sorted(axes) != [0, 1, 2]:
        return None
    flips = tuple(bool(cosines[i, a] < 0) for i, a in enumerate(axes))
    if tuple(mask.shape_vox[a] for a in axes) != ct.shape_vox:
        return None
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for i, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[axis, i] = -1 if flip else 1
        matrix[axis, 3] = mask.shape_vox[axis] - 1 if flip else 0
    moved = Grid(ct.shape_vox, mask.affine @ matrix)
    if np.abs(moved.corners_mm() - ct.corners_mm()).max() > TOLERANCE_MM:
        return None
    return axes, flips


def reorient(array: np.ndarray, ct: Grid, mask: Grid) -> np.ndarray:
    """A mask's array in the CT's axis order: a permutation and flips, no interpolation.

    Args:
        array: (i, j, k) on the mask's grid.
        ct: The grid to come to; `relate(ct, mask)` must be REORIENTED or SAME.
    """
    found = _reorientation(ct, mask)
    if found is None:
        raise ValueError("grids do not hold the same voxels; ask relate() first")
    axes, flips = found
    return array.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
