"""Normalised surface distance: the share of both surfaces that lies within a tolerance.

Nikolov et al. 2018 (arXiv:1809.04430), "surface Dice": surfaces are made of surfels weighted by
their area, so that anisotropic voxels count by millimetres, not by number. Computed by the
authors' own package. Tools that count edge voxels instead differ from it by up to 8 points.
"""

from __future__ import annotations

import numpy as np
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from atlas_nnunet.evaluate.overlap import WHEN_EMPTY


def normalised_surface_distance(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
) -> float:
    """Share in [0, 1]; see WHEN_EMPTY for empty masks.

    Args:
        reference: (i, j, k) boolean.
        prediction: The same shape.
        spacing_mm: In the axis order of the arrays.
        tolerance_mm: Greatest distance that counts as no error.
    """
    empty = (not reference.any(), not prediction.any())
    if any(empty):
        return WHEN_EMPTY[empty]
    where = _box(reference | prediction)
    distances = compute_surface_distances(reference[where], prediction[where], spacing_mm)
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of a mask and one voxel around: a surface needs its outside."""
    slices = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        inside = np.flatnonzero(mask.any(others))
        slices.append(slice(max(0, int(inside[0]) - 1), int(inside[-1]) + 2))
    return tuple(slices)
