"""The part of an image that is not zero, as nnU-Net crops it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes


def nonzero_mask(data: np.ndarray) -> np.ndarray:
    """Voxels that are not zero in some channel, holes filled: nnU-Net's `create_nonzero_mask`
    (preprocessing/cropping/cropping.py, nnunetv2 2.8.1).

    A hole is zero and cut off from the border of the volume. So where no voxel of the border is
    zero, all zeros are holes: that is a CT, and saves the search.

    Args:
        data: (c, x, y, z).

    Returns:
        (x, y, z) boolean.
    """
    mask = data[0] != 0
    for channel in data[1:]:
        mask |= channel != 0
    if all(mask.take(end, axis).all() for axis in range(mask.ndim) for end in (0, -1)):
        return np.ones(mask.shape, bool)
    return binary_fill_holes(mask)
