"""Volumetric overlap of two masks of one structure."""

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
