"""The numbers of nnU-Net's planning method, and its two decisions that we take or explain.

Names and defaults are those of default_experiment_planner.py (nnunetv2 2.8.1); the values come from
the planner itself, so that an explanation cannot differ from what was done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Three bounds, and the batch size they leave."""

    by_memory: int
    by_data: int
    least: int

    @property
    def size(self) -> int:
        return max(min(self.by_memory, self.by_data), self.least)


@dataclass(frozen=True)
class Method:
    """Thresholds and budgets of a planner.

    Attributes:
        anisotropy: `anisotropy_threshold` (ANISO_THRESHOLD, configuration.py).
        min_edge_vox: `UNet_featuremap_min_edge_length`: no axis of a feature map gets shorter.
        memory_gb: `UNet_vram_target_GB`.
        budget: Number of axes -> feature-map voxels that fill `memory_gb`
            (`UNet_reference_val_3d` or `_2d`, times memory target over reference memory).
        reference_batch: Number of axes -> the batch size for which `budget` was found.
        allowed: Number of axes -> feature-map voxels that one patch may need. The default planner
            counts two patches (`estimate / ref_bs * 2 > reference`, line 321), the one for residual
            encoders the reference batch (`estimate > reference`, line 134): in 3-D they agree.
        least_batch: `UNet_min_batch_size`.
        covered: `max_dataset_covered`: a batch holds at most this share of all voxels.
        lowres_below: `lowres_creation_threshold`: a patch that covers less of an image
            calls for 3d_lowres.
    """

    anisotropy: float
    min_edge_vox: int
    memory_gb: float
    budget: dict[int, float]
    reference_batch: dict[int, int]
    allowed: dict[int, float]
    least_batch: int
    covered: float
    lowres_below: float

    @classmethod
    def of(cls, planner: object, residual: bool) -> Method:
        """Of a planner; `residual`: it plans as ResEncUNetPlanner, else as ExperimentPlanner."""

        def value(name: str) -> float:
            return getattr(planner, name)

        filled = value("UNet_vram_target_GB") / value("UNet_reference_val_corresp_GB")
        budget = {n: value(f"UNet_reference_val_{n}d") * filled for n in (2, 3)}
        batch = {n: int(value(f"UNet_reference_val_corresp_bs_{n}d")) for n in (2, 3)}
        return cls(
            value("anisotropy_threshold"), int(value("UNet_featuremap_min_edge_length")),
            value("UNet_vram_target_GB"), budget, batch,
            budget if residual else {n: budget[n] * batch[n] / 2 for n in (2, 3)},
            int(value("UNet_min_batch_size")), value("max_dataset_covered"),
            value("lowres_creation_threshold"),
        )  # fmt: skip

    def batch(self, estimate: float, patch_vox: Sequence[int], n_voxels: float) -> Batch:
        """The batch for a patch (end of `get_plans_for_configuration`).

        Args:
            estimate: Feature-map voxels of the network for one patch.
            patch_vox: Its shape.
            n_voxels: Voxels of all images at the target spacing.
        """
        n_axes = len(patch_vox)
        by_memory = round(self.budget[n_axes] / estimate * self.reference_batch[n_axes])
        by_data = round(n_voxels * self.covered / math.prod(patch_vox))
        return Batch(by_memory, by_data, self.least_batch)

    def first_patch(self, spacing_mm: Sequence[float], shape_vox: Sequence[float]) -> list[int]:
        """The patch that the search starts from: a cube in mm, cut to the median image.

        Of 256^3 voxels (2-D: 2048^2), so surely too large.
        """
        n_axes = len(spacing_mm)
        inverse = [1 / s for s in spacing_mm]
        volume = {3: 256**3, 2: 2048**2}[n_axes]
        scale = (volume / math.prod(inverse)) ** (1 / n_axes)
        cube = [round(i * scale) for i in inverse]
        return [math.ceil(min(c, n)) for c, n in zip(cube, shape_vox, strict=True)]
