"""Spacing and size of a case on a configuration's grid, where 2-D keeps the distance of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from atlas_nnunet.reading import Header


def full_spacing(spacing: Sequence[float], original: Sequence[float]) -> list[float]:
    """A configuration's spacing on all axes of an image.

    Args:
        spacing: The configuration's, in mm; a 2-D one leaves out the first axis.
        original: The image's, in the same order of axes.
    """
    return [original[0], *spacing] if len(spacing) < len(original) else list(spacing)


def voxels(header: Header, spacing: Sequence[float]) -> tuple[int, float]:
    """Voxels of one channel before resampling, and the most there can be after.

    Args:
        header: Of the image. Which of its axes a 2-D configuration keeps, the reader knows; the one
            that costs most is taken.
        spacing: The configuration's, in mm.
    """
    before = math.prod(header.shape[:3])
    kept = [1.0] if len(spacing) == len(header.spacing_mm) else header.spacing_mm
    growth = math.prod(header.spacing_mm) / math.prod(spacing) / min(kept)
    return before, before * growth
