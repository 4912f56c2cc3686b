"""Normalised surface distance: the share of both surfaces that lies within a tolerance.

Nikolov et al. 2018 (arXiv:1809.04430), "surface Dice": surfaces are made of surfels weighted by
their area, so that anisotropic voxels count by millimetres, not by number. Computed by the
authors' own package. Tools that count edge voxels instead differ from it by up to 8 points.
"""

from __future__ import annotations

import numpy as np
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from atlas_nnunet.scoring.overlap import WHEN_EMPTY


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
    distances = compute_surface_distances(reference, prediction, spacing_mm)  # crops both itself
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))
