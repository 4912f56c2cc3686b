"""AtlasPretrainPlanner: nnU-Net's own planning method, plus what our trainers read from a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (  # noqa: E501
    ResEncUNetPlanner,
)
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from atlas_nnunet.artefacts import Dataset, write_json
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import READER, NetworkSpec, channel_names, head_names
from atlas_nnunet.plan.method import Method
from atlas_nnunet.plan.presets import PRESETS, Preset, apply
from atlas_nnunet.plan.reasons import Facts, explain
from atlas_nnunet.settings import SECTION, Training
from atlas_nnunet.structures import canonical, side_of


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


LEFT_RIGHT = 2  # array axis of x for READER, which hands out (z, y, x) of a RAS volume


def feature_map_voxels(
    patch_size: tuple[int, ...],
    n_inputs: int,
    n_outputs: int,
    class_name: str,
    arch_kwargs: Mapping[str, Any],
    requires_import: tuple[str, ...],
) -> float:
    """What a patch makes a network hold, as the host counts: without deep supervision.

    The network has no memory (shapes decide alone), and is built once for the same question: plans
    for several sources ask it again and again.
    """
    words = [patch_size, n_inputs, n_outputs, class_name, dict(arch_kwargs), requires_import]
    return _feature_map_voxels(json.dumps(words, default=int))


@lru_cache(maxsize=4096)
def _feature_map_voxels(words: str) -> float:
    patch_size, n_inputs, n_outputs, class_name, arch_kwargs, requires_import = json.loads(words)
    channels, heads = (tuple(map(str, range(n))) for n in (n_inputs, n_outputs))
    spec = NetworkSpec(class_name, arch_kwargs, tuple(requires_import), channels, heads)
    network: Any = spec.build_empty(deep_supervision=False)
    return float(network.compute_conv_feature_map_size(patch_size))


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
        self.chosen_for: dict[str, Any] | None = None
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
        """The host's estimate, without the network's memory.

        The host's own also sets torch's threads, and stops where nnUNet_n_proc_DA is 0.
        """
        return feature_map_voxels(
            patch_size, n_inputs, n_outputs, class_name, arch_kwargs, requires_import
        )

    def estimate(self, config: Mapping[str, Any]) -> float:
        """Feature-map voxels of a configuration's network for one patch, as the host counts.

        One output for each entry of `labels`, and no channels for a cascade: so does the host.
        """
        architecture = config["architecture"]
        return feature_map_voxels(
            tuple(config["patch_size"]),
            len(channel_names(self.dataset_json)),
            len(self.dataset_json["labels"]),
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )

    def images(self) -> Images:
        """The data set at the target spacing (first part of `plan_experiment`, host 2.8.1)."""
        forward, backward = self.determine_transpose()
        spacing = self.determine_fullres_target_spacing()
        known = self.dataset_fingerprint
        cases = zip(known["spacings"], known["shapes_after_crop"], strict=True)
        shape = np.median([compute_new_shape(size, mm, spacing) for mm, size in cases], 0)
        n_voxels = float(np.prod(shape) * self.dataset_json["numTraining"])
        return Images(
            [int(axis) for axis in forward], [int(axis) for axis in backward],
            spacing[forward], shape[forward], n_voxels,
        )  # fmt: skip

    def method(self, n_axes: int) -> Method:
        """The planner's numbers, for configurations with so many axes."""
        return Method.of(self, self.residual)

    def not_by_rule(self, plans: Mapping[str, Any]) -> dict[str, str]:
        """What something other than nnU-Net's method decided (plan/reasons.py, `Facts`)."""
        if self.chosen_for and self.overwrite_target_spacing:
            whose = " and ".join(self.chosen_for["spacing_of"])
            return {"spacing": f"that of {whose} serves the targets best"}
        return {"spacing": "--spacing was given"} if self.overwrite_target_spacing else {}

    def reasons(self, plans: Mapping[str, Any]) -> str:
        """Why spacing, patch, strides, batch and network came out as they did, for people."""
        images = self.images()
        facts = Facts(
            fingerprint=self.dataset_fingerprint,
            transpose_forward=images.transpose_forward,
            shape_vox=images.shape_vox.tolist(),
            n_voxels=images.n_voxels,
            methods={n_axes: self.method(n_axes) for n_axes in (2, 3)},
            estimates={
                name: self.estimate(config)
                for name, config in plans["configurations"].items()
                if "patch_size" in config
            },
            not_by_rule=self.not_by_rule(plans),
        )
        return explain(facts, plans)

    def choose_for(self, targets: Sequence[str]) -> str:
        """Take the spacing at which the plan will serve these targets best; says what was compared.

        Raises:
            PlanError: a target has no fingerprint, or flat images.
        """
        from atlas_nnunet.planners.choice import choose  # plans targets, so it imports this module

        choice = choose(self, targets)
        if choice.best.spacing_mm is not None:
            self.overwrite_target_spacing = list(choice.best.spacing_mm)
        self.chosen_for = choice.as_json()
        return choice.table()

    def plan_fullres(self) -> dict[str, Any]:
        """`plan_experiment` for 3d_fullres alone: nothing is written.

        Raises:
            PlanError: the images are flat.
        """
        images = self.images()
        if images.shape_vox[0] == 1:
            raise PlanError("its images are flat: there is no 3d_fullres to compare",
                            where=self.dataset_name, do="leave it out")  # fmt: skip
        plan = self.get_plans_for_configuration(
            images.spacing_mm, images.shape_vox, self.generate_data_identifier("3d_fullres"),
            images.n_voxels, {},
        )  # fmt: skip
        plans = {
            "plans_name": self.plans_identifier,
            "transpose_forward": images.transpose_forward,
            "transpose_backward": images.transpose_backward,
            "configurations": {"3d_fullres": plan},
        }
        recursive_fix_for_json_export(plans)
        return plans

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
        training = Training.of_schedule(
            self.settings.get("schedule") or self.default_schedule,
            {"mirror_axes": self.mirror_axes(list(plans["transpose_forward"])), **self.settings},
        )
        section = {"preset": self.preset_name, "training": training.as_json()}
        together = self.dataset_fingerprint.get(SECTION, {}).get("datasets")
        section |= {"planned_for": together} if together else {}
        return section | ({"chosen_for": self.chosen_for} if self.chosen_for else {})

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
