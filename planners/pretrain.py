"""AtlasPretrainPlanner: nnU-Net's own planning method, plus what our trainers read from a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (  # noqa: E501
    ResEncUNetPlanner,
)
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from atlas_nnunet.artefacts import Dataset, write_json
from atlas_nnunet.host import READER, NetworkSpec, head_names
from atlas_nnunet.plan.presets import PRESETS, Preset, apply
from atlas_nnunet.structures import canonical, side_of
from atlas_nnunet.training.settings import SECTION, Training

LEFT_RIGHT = 2  # array axis of x for READER, which hands out (z, y, x) of a RAS volume


class AtlasPretrainPlanner(ResEncUNetPlanner):
    """Spacing, patch, strides, batch and network by nnU-Net's method; presets as a table.

    Args:
        dataset_name_or_id: nnU-Net's.
        preset: A name in PRESETS.
        training: Settings for our trainers, beside the defaults.
        memory_target_gb: Instead of the preset's.
        plans_name: Name of the plans file.
        overwrite_target_spacing: (z, y, x) millimetres for 3d_fullres, before transposition.
    """

    default_plans_name = "AtlasPretrainPlans"
    default_schedule = "nnunet"

    def __init__(
        self,
        dataset_name_or_id: str | int,
        *,
        preset: str = "resenc_m",
        training: Mapping[str, Any] | None = None,
        memory_target_gb: float | None = None,
        plans_name: str | None = None,
        overwrite_target_spacing: list[float] | None = None,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            plans_name=plans_name or self.default_plans_name,
            overwrite_target_spacing=overwrite_target_spacing,
        )
        self.preset_name = preset
        self.preset: Preset = PRESETS[preset]
        self.settings = dict(training or {})
        apply(self.preset, self)
        if memory_target_gb is not None:
            self.UNet_vram_target_GB = memory_target_gb
        self.hold_to(self.preset.residual)

    def hold_to(self, residual: bool) -> None:
        """Choose the network class; blocks are the host's for that class."""
        self.residual = residual
        self.UNet_class = ResidualEncoderUNet if residual else PlainConvUNet
        if not residual:
            self.UNet_blocks_per_stage_encoder = (2,) * 14  # default_experiment_planner.py, 2.8.1
            self.UNet_blocks_per_stage_decoder = (2,) * 13

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        kind = ResEncUNetPlanner if self.residual else ExperimentPlanner
        return kind.get_plans_for_configuration(self, *args, **kwargs)

    def static_estimate_VRAM_usage(  # noqa: N802 - the host's name
        self,
        patch_size: tuple[int, ...],
        n_inputs: int,
        n_outputs: int,
        class_name: str,
        arch_kwargs: dict[str, Any],
        requires_import: tuple[str, ...],
    ) -> float:
        """The host's estimate, from a network without memory: shapes decide it alone.

        The host's own also sets torch's threads, and stops where nnUNet_n_proc_DA is 0.
        """
        channels, heads = (tuple(map(str, range(n))) for n in (n_inputs, n_outputs))
        spec = NetworkSpec(class_name, arch_kwargs, tuple(requires_import), channels, heads)
        network: Any = spec.build_empty()
        return network.compute_conv_feature_map_size(patch_size)

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Always our own name: another spacing or preset must not share preprocessed data."""
        return f"{self.plans_identifier}_{configuration_name}"

    def mirror_axes(self, transpose_forward: list[int]) -> tuple[int, ...]:
        """Axes to mirror: not left-right, where a structure has a side.

        A mirrored liver is a liver on the wrong side; a mirrored left kidney is a right kidney.
        """
        sided = any(side_of(canonical(name)) for name in head_names(self.dataset_json))
        known = self.dataset_json.get("overwrite_image_reader_writer") == READER
        # Other readers do not say which axis is left-right in the patient: then none is safe.
        unsafe = ({transpose_forward.index(LEFT_RIGHT)} if known else {0, 1, 2}) if sided else set()
        return tuple(a for a in range(3) if a not in unsafe)

    def our_section(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        """What a plan of ours says beyond nnU-Net's: preset, training, and of which data sets."""
        defaults = Training(
            schedule=self.default_schedule,
            mirror_axes=self.mirror_axes(list(plans["transpose_forward"])),
        )
        training = defaults.with_changes(self.settings)
        section = {"preset": self.preset_name, "training": training.as_json()}
        together = self.dataset_fingerprint.get(SECTION, {}).get("datasets")
        return section | ({"planned_for": together} if together else {})

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Whole or not at all; what the plan says depends on nothing that was there before."""
        recursive_fix_for_json_export(plans)
        plans[SECTION] = self.our_section(plans)
        path = Dataset(self.dataset_name).plans(self.plans_identifier)
        write_json(path, plans, sort_keys=False)

    def explain(self, plans: Mapping[str, Any]) -> str:
        """What was decided, for people."""
        lines = [f"{self.plans_identifier} for {self.dataset_name} (preset {self.preset_name})"]
        for name, config in plans["configurations"].items():
            if "patch_size" not in config:
                continue
            arch = config["architecture"]["arch_kwargs"]
            spacing = " x ".join(f"{float(s):.3g}" for s in config["spacing"])
            patch = " x ".join(map(str, config["patch_size"]))
            lines.append(
                f"  {name}: spacing {spacing} mm, patch {patch} vox, batch {config['batch_size']}, "
                f"{arch['n_stages']} stages of {list(arch['features_per_stage'])} features"
            )
        training = plans[SECTION]["training"]
        lines.append(
            f"  training: {training['epochs']} epochs of {training['iterations']} iterations, "
            f"schedule {training['schedule']}, {training['optimizer']} at "
            f"{training['learning_rate']:g}, mirrored axes {training['mirror_axes']}"
        )
        return "\n".join(lines)
