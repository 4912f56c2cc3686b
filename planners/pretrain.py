"""AtlasPretrainPlanner: nnU-Net's own planning method, plus what our trainers read from a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (  # noqa: E501
    ResEncUNetPlanner,
)
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from atlas_nnunet.artefacts import Dataset, write_json
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import READER, channel_names, head_names
from atlas_nnunet.networks.suite import described
from atlas_nnunet.plan.method import Method
from atlas_nnunet.plan.presets import PRESETS, Preset, apply
from atlas_nnunet.plan.reasons import Facts, explain
from atlas_nnunet.planners.estimate import feature_map_voxels
from atlas_nnunet.planners.held import NETWORK, PLAIN, with_patch
from atlas_nnunet.planners.images import Images
from atlas_nnunet.planners.suite import NUMBERS, VOLUMES, Chosen
from atlas_nnunet.settings import PRETRAINING, SECTION, Sampling, Training
from atlas_nnunet.structures import canonical, side_of
from atlas_nnunet.training.sampling import check_structures, foreground_names

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
        network: A name in NETWORKS, for the configurations of volumes; else nnU-Net's U-Net.
    """

    default_plans_name = "AtlasPretrainPlans"
    default_schedule = "nnunet"
    default_sampling: Sampling = PRETRAINING
    residual = True  # so is the host's class; `prepare` says otherwise

    def __init__(
        self,
        dataset_name_or_id: str | int,
        *,
        preset: str = "resenc_m",
        training: Mapping[str, Any] | None = None,
        memory_target_gb: float | None = None,
        plans_name: str | None = None,
        overwrite_target_spacing: list[float] | None = None,
        network: str | None = None,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            plans_name=plans_name or self.default_plans_name,
            overwrite_target_spacing=overwrite_target_spacing,
        )
        self.preset_name = preset
        self.preset: Preset = PRESETS[preset]
        self.settings = {"sampling": self.default_sampling, **(training or {})}
        structures = foreground_names(self.dataset_json)
        check_structures(self.settings["sampling"], structures, self.dataset_name)
        self.suite = Chosen.by_name(network) if network else None
        self.chosen_for: dict[str, Any] | None = None
        apply(self.preset, self)
        if memory_target_gb is not None:
            self.UNet_vram_target_GB = memory_target_gb
        own = {name: getattr(self, name) for name in NETWORK}
        self.native = own if self.preset.residual else own | PLAIN
        self.networks = {False: self.native, True: self.native | NUMBERS}

    def holds(self, n_axes: int) -> bool:
        """Whether a network beside nnU-Net's is planned for configurations with so many axes."""
        return self.suite is not None and n_axes == VOLUMES

    def held(self, plans: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Planned configurations for which `holds` is true."""
        return {n: c for n, c in with_patch(plans).items() if self.holds(len(c["patch_size"]))}

    def prepare(self, n_axes: int) -> None:
        """Set what decides about the network, for configurations with so many axes."""
        for name, value in self.networks[self.holds(n_axes)].items():
            setattr(self, name, value)

    def host_plan(self, *args: Any) -> dict[str, Any]:
        """One configuration by the host's method for the class of U-Net."""
        kind = ResEncUNetPlanner if self.residual else ExperimentPlanner
        return kind.get_plans_for_configuration(self, *args)

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, n_voxels: float, cache: dict
    ) -> dict[str, Any]:
        self.prepare(len(spacing))
        plan = self.host_plan(spacing, median_shape, data_identifier, n_voxels, cache)
        if self.suite is None or len(spacing) != VOLUMES:
            return plan
        strides = plan["architecture"]["arch_kwargs"]["strides"]
        plan["architecture"] = self.suite.architecture(strides)
        if self.suite.network.follows:
            return plan
        method = self.method(VOLUMES)
        plan["patch_size"] = self.suite.patch(
            method, spacing, median_shape,
            lambda patch: self.estimate({**plan, "patch_size": patch}),
        )  # fmt: skip
        batch = method.batch(self.estimate(plan), plan["patch_size"], n_voxels)
        return {**plan, "batch_size": batch.size}

    def plan_experiment(self) -> dict[str, Any]:
        """The host's.

        Raises:
            PlanError: the images are flat and the network works on volumes.
        """
        shape = np.median(self.dataset_fingerprint["shapes_after_crop"], 0)
        if self.suite and min(shape) == 1:
            raise PlanError(f"its images are flat, {self.suite.network.name} is a 3-D network",
                            where=self.dataset_name, do="leave out --network")  # fmt: skip
        return super().plan_experiment()

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
        if self.suite and len(patch_size) == VOLUMES:
            if not self.suite.network.follows:
                return 1.0  # the host need not search: where strides do not move, we do
            own = self.suite.architecture(arch_kwargs["strides"])
            class_name, arch_kwargs, requires_import = own.values()
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
        """The data set at the target spacing."""
        return Images.of(self)

    def method(self, n_axes: int) -> Method:
        """The planner's numbers, for configurations with so many axes."""
        self.prepare(n_axes)
        return Method.of(self, self.residual)

    def not_by_rule(self, plans: Mapping[str, Any]) -> dict[str, str]:
        """What something other than nnU-Net's method decided (plan/reasons.py, `Facts`)."""
        if self.chosen_for and self.overwrite_target_spacing:
            whose = " and ".join(self.chosen_for["spacing_of"])
            return {"spacing": f"that of {whose} serves the targets best"}
        found = {"spacing": "--spacing was given"} if self.overwrite_target_spacing else {}
        if self.suite:
            found |= dict.fromkeys(self.held(plans), self.suite.why)
        return found

    def reasons(self, plans: Mapping[str, Any]) -> str:
        """Why spacing, patch, strides, batch and network came out as they did, for people."""
        images = self.images()
        methods = {n_axes: self.method(n_axes) for n_axes in (2, VOLUMES)}
        strides = self.suite.followed(self.held(plans), methods[VOLUMES]) if self.suite else {}
        facts = Facts(
            fingerprint=self.dataset_fingerprint,
            transpose_forward=images.transpose_forward,
            shape_vox=images.shape_vox.tolist(),
            n_voxels=images.n_voxels,
            methods=methods,
            estimates={name: self.estimate(own) for name, own in with_patch(plans).items()},
            not_by_rule=self.not_by_rule(plans),
            strides=strides,
        )
        return explain(facts, plans)

    def choose_for(self, targets: Sequence[str]) -> str:
        """Take the spacing at which the plan will serve these targets best; says what was compared.

        Raises:
            PlanError: a target has no fingerprint, or flat images; or a network is given.
        """
        if self.suite:
            raise PlanError("--for compares depths of nnU-Net's U-Nets: --network has one depth",
                            where=self.dataset_name, do="leave out one of the two")  # fmt: skip
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
        section |= {"network": self.suite.network.name} if self.suite else {}
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
        for name, config in with_patch(plans).items():
            architecture = config["architecture"]
            network = described(architecture["network_class_name"], architecture["arch_kwargs"])
            if self.suite and len(config["patch_size"]) == 2:
                network += f" (planned natively: {self.suite.network.name} is a 3-D network)"
            spacing = " x ".join(f"{float(s):.3g}" for s in config["spacing"])
            patch = " x ".join(map(str, config["patch_size"]))
            lines.append(
                f"  {name}: spacing {spacing} mm, patch {patch} vox, batch {config['batch_size']}, "
                f"{network}"
            )
        training = plans[SECTION]["training"]
        lines.append(
            f"  training: {training['epochs']} epochs of {training['iterations']} iterations, "
            f"schedule {training['schedule']}, {training['optimizer']} at "
            f"{training['learning_rate']:g}, mirrored axes {training['mirror_axes']}"
        )
        lines.append(f"  sampling: {Sampling(**training['sampling']).summary()}")
        return "\n".join(lines)
