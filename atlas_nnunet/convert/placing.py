"""Bring a mask to its CT's grid: nothing, a count, an exact reorientation, or a refusal."""

from __future__ import annotations

import numpy as np

from atlas_nnunet.errors import GeometryError
from atlas_nnunet.geometry import Grid, Relation, relate, reorient


class Placer:
    """Places the masks of one case, and keeps account of how.

    Args:
        ct: The grid to come to.
        case: For messages.
    """

    def __init__(self, ct: Grid, case: str) -> None:
        self.ct, self.case = ct, case
        self.notes: list[str] = []

    def __call__(self, array: np.ndarray, grid: Grid, name: str) -> np.ndarray:
        """The array on the CT's grid.

        Raises:
            GeometryError: the mask lies elsewhere.
        """
        relation = relate(self.ct, grid)
        if relation is Relation.SAME:
            return array
        if relation is Relation.ELSEWHERE:
            raise GeometryError(
                f"{name} lies on another grid: {grid}; the CT: {self.ct}", where=self.case,
                do="resample the mask to its CT, or leave the case out",
            )  # fmt: skip
        self.notes.append(f"{name}: {relation.value}")
        return reorient(array, self.ct, grid) if relation is Relation.REORIENTED else array
