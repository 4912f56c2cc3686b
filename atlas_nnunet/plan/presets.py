"""Presets: how large a network nnU-Net's method may choose. A table of the host's own numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """The numbers that nnU-Net's method starts from.

    Attributes:
        residual: ResidualEncoderUNet, else PlainConvUNet.
        memory_target_gb: GPU memory that the plan may fill.
        reference_gb: Memory for which the reference values below were found.
        reference_3d: Feature-map voxels of a network that fills `reference_gb`, 3-D.
        reference_2d: The same, 2-D.
        max_dataset_covered: A batch holds at most this share of all voxels.
        base_features: Width of the finest stage; each deeper stage doubles it.
        max_features_3d: Greatest width.
        purpose: For `--help`.
    """

    residual: bool
    memory_target_gb: float
    reference_gb: float
    reference_3d: float
    reference_2d: float
    max_dataset_covered: float
    purpose: str
    base_features: int = 32
    max_features_3d: int = 320


# default_experiment_planner.py and residual_encoder_unet_planners.py, nnunetv2 2.8.1; "cpu" is
# ours: 16 features and a patch near 48^3, a step of which takes a CPU a fraction of a second.
# fmt: off
PRESETS = {
    "unet":      Preset(False, 8,  8,  560e6,  85e6,  0.05, "nnU-Net's default U-Net, 8 GB"),
    "resenc_m":  Preset(True,  8,  8,  680e6,  135e6, 1,    "residual encoder, 9-11 GB"),
    "resenc_l":  Preset(True,  24, 24, 2100e6, 380e6, 1,    "residual encoder, 24 GB"),
    "resenc_xl": Preset(True,  40, 40, 3600e6, 560e6, 1,    "residual encoder, 40 GB"),
    "cpu":       Preset(False, 0.25, 8, 560e6, 85e6,  1,    "small U-Net, trains on a CPU",
                        base_features=16, max_features_3d=128),
}
# fmt: on


def apply(preset: Preset, planner: object) -> None:
    """Set a planner's attributes (names of nnunetv2 2.8.1) to a preset's numbers."""
    values = {
        "UNet_vram_target_GB": preset.memory_target_gb,
        "UNet_reference_val_corresp_GB": preset.reference_gb,
        "UNet_reference_val_3d": preset.reference_3d,
        "UNet_reference_val_2d": preset.reference_2d,
        "max_dataset_covered": preset.max_dataset_covered,
        "UNet_base_num_features": preset.base_features,
        "UNet_max_features_3d": preset.max_features_3d,
    }
    for name, value in values.items():
        if not hasattr(planner, name):
            raise AttributeError(f"the host's planner has no {name}: is nnunetv2 in range?")
        setattr(planner, name, value)
