"""A data set as its plan will have it: resampled, axes in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape


@dataclass(frozen=True)
class Images:
    """A data set resampled to its target spacing; axes in the plan's order.

    Attributes:
        transpose_forward: Array axis of the reader that comes first, second and third.
        transpose_backward: The inverse.
        spacing_mm: Target spacing.
        shape_vox: Median shape.
        n_voxels: Of all cases together.
    """

    transpose_forward: list[int]
    transpose_backward: list[int]
    spacing_mm: np.ndarray
    shape_vox: np.ndarray
    n_voxels: float

    @classmethod
    def of(cls, planner: Any) -> Images:
        """By a planner's fingerprint (first part of `plan_experiment`, host 2.8.1)."""
        forward, backward = planner.determine_transpose()
        spacing = planner.determine_fullres_target_spacing()
        known = planner.dataset_fingerprint
        cases = zip(known["spacings"], known["shapes_after_crop"], strict=True)
        shape = np.median([compute_new_shape(size, mm, spacing) for mm, size in cases], 0)
        n_voxels = float(np.prod(shape) * planner.dataset_json["numTraining"])
        return cls(
            [int(axis) for axis in forward], [int(axis) for axis in backward],
            spacing[forward], shape[forward], n_voxels,
        )  # fmt: skip
