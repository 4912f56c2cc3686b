"""Volumetric overlap of two masks of one structure, detection, and false components."""

from __future__ import annotations

import math

import numpy as np

# What a score is when a mask is empty. A choice, not mathematics; challenges differ, so it
# stands here by name: (reference empty, prediction empty) -> value.
WHEN_EMPTY = {
    (True, True): math.nan,  # nothing to find, nothing claimed: the case does not count
    (True, False): 0.0,  # a false alarm
    (False, True): 0.0,  # a miss
}


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Dice coefficient in [0, 1]; see WHEN_EMPTY for empty masks.

    Args:
        reference: Boolean, any axis order.
        prediction: Boolean, on the same grid.
    """
    empty = (not reference.any(), not prediction.any())
    if any(empty):
        return WHEN_EMPTY[empty]
    return 2 * float((reference & prediction).sum()) / float(reference.sum() + prediction.sum())


def detected(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Whether a structure was found at all: 1.0 where at least one voxel of the reference is
    predicted, else 0.0; nan where the reference is empty, for there is nothing to find.

    Args:
        reference: Boolean, any axis order.
        prediction: Boolean, on the same grid.
    """
    if not reference.any():
        return math.nan
    return float((reference & prediction).any())


def false_component_ml(reference: np.ndarray, prediction: np.ndarray, voxel_ml: float) -> float:
    """Volume in ml of the largest predicted component of a structure that a case does not have.

    Voxels that share a face, an edge or a corner belong to one component (26-connectivity).

    Args:
        reference: (i, j, k) boolean.
        prediction: The same shape.
        voxel_ml: Volume of a voxel.

    Returns:
        0.0 where nothing is predicted; nan where the reference is not empty.
    """
    if reference.any():
        return math.nan
    if not prediction.any():
        return 0.0
    from cc3d import connected_components

    components = connected_components(np.ascontiguousarray(prediction), connectivity=26)
    return float(np.bincount(components.ravel())[1:].max()) * voxel_ml
