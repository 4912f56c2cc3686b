"""Bring a mask to its CT's grid: nothing, a count, an exact move, or a refusal."""

from __future__ import annotations

import numpy as np

from atlas_nnunet.errors import GeometryError
from atlas_nnunet.geometry import Grid, Relation, align, place, relate

AS_STORED = (Relation.SAME, Relation.ORIGIN_DIFFERS)


class Placer:
    """Places the masks of one case.

    Args:
        ct: The grid to come to.
        case: For messages.
        told: Takes a line for each mask that lay on a grid of its own.
    """

    def __init__(self, ct: Grid, case: str, told: list[str]) -> None:
        self.ct, self.case, self.told = ct, case, told

    def is_in_place(self, grid: Grid, name: str) -> bool:
        """Whether a mask's voxels, in the order of its file, are the CT's.

        Raises:
            GeometryError: the mask lies elsewhere.
        """
        relation = relate(self.ct, grid)
        if relation is Relation.ELSEWHERE:
            raise GeometryError(
                f"{name} lies on another grid: {grid}; the CT: {self.ct}", where=self.case,
                do="resample the mask to its CT, or leave the case out",
            )  # fmt: skip
        if relation is not Relation.SAME:
            self.told.append(f"{name}: {relation.value}")
        return relation in AS_STORED

    def moved(self, array: np.ndarray, grid: Grid, name: str) -> np.ndarray:
        """The array on the CT's grid: turned, and placed by its affine.

        Raises:
            GeometryError: a voxel that is not zero would fall outside the CT.
        """
        found = align(self.ct, grid)
        if found is None:
            raise ValueError("ask is_in_place first")
        out = place(array, found, self.ct)
        lost = np.count_nonzero(array) - np.count_nonzero(out)
        if lost:
            raise GeometryError(
                f"{lost} voxels of {name} lie outside the CT: {grid}; the CT: {self.ct}",
                where=self.case, do="mend the mask's origin, or leave the case out",
            )  # fmt: skip
        return out
