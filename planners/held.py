"""What a planner takes from a source's network, to plan the same network for a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from atlas_nnunet.plan.presets import PRESETS, Preset
from atlas_nnunet.planners.sources import BLOCK_KEYS, PlannedSource

# What of a planner decides about the network, beside spacing and memory.
NETWORK = (
    "residual", "UNet_class", "UNet_base_num_features", "UNet_max_features_2d",
    "UNet_max_features_3d", "UNet_blocks_per_stage_encoder", "UNet_blocks_per_stage_decoder",
    "UNet_reference_val_corresp_GB", "UNet_reference_val_3d", "UNet_reference_val_2d",
)  # fmt: skip
PRESET_OF = {True: "resenc_m", False: "unet"}  # whether residual -> whose counts hold for the class
PLAIN: Mapping[str, Any] = {  # blocks: default_experiment_planner.py, nnunetv2 2.8.1
    "residual": False, "UNet_class": PlainConvUNet,
    "UNet_blocks_per_stage_encoder": (2,) * 14, "UNet_blocks_per_stage_decoder": (2,) * 13,
}  # fmt: skip


def with_patch(plans: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Configurations that were planned: a cascade's second stage inherits its patch."""
    return {n: c for n, c in plans["configurations"].items() if "patch_size" in c}


def extended(values: tuple, length: int) -> tuple:
    """Per-stage values for another depth: the same from the top, the deepest one repeated."""
    return (*values, *(values[-1],) * length)[:length]


def network_numbers(source: PlannedSource, preset: Preset) -> dict[str, Any]:
    """NETWORK as the source has it.

    Args:
        source: Made of nnU-Net's stages.
        preset: The planner's. What fills a GB differs between the classes: a preset for the other
            one does not tell it.
    """
    kwargs, widths = source.spec.arch_kwargs, source.spec.widths
    residual = source.blocks_key == BLOCK_KEYS[True]
    count = preset if residual == preset.residual else PRESETS[PRESET_OF[residual]]
    return {
        "UNet_reference_val_corresp_GB": count.reference_gb,
        "UNet_reference_val_3d": count.reference_3d,
        "UNet_reference_val_2d": count.reference_2d,
        "residual": residual,
        "UNet_class": ResidualEncoderUNet if residual else PlainConvUNet,
        "UNet_base_num_features": widths[0],
        "UNet_max_features_2d": max(widths),
        "UNet_max_features_3d": max(widths),
        "UNet_blocks_per_stage_encoder": extended(tuple(kwargs[source.blocks_key]), 14),
        # The decoder's list runs from the deepest stage up; all of a kind in practice.
        "UNet_blocks_per_stage_decoder": extended(tuple(kwargs["n_conv_per_stage_decoder"]), 13),
    }


def as_source(source: PlannedSource, arch_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture with the source's widths and remaining options (bias, norm, nonlin)."""
    own = {
        "n_stages", "kernel_sizes", "strides", "features_per_stage", source.blocks_key,
        "n_conv_per_stage_decoder", "conv_op", "norm_op",
    }  # fmt: skip
    widths = list(extended(source.spec.widths, arch_kwargs["n_stages"]))
    same = {k: v for k, v in source.spec.arch_kwargs.items() if k not in own}
    return {**arch_kwargs, **same, "features_per_stage": widths}
