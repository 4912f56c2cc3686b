"""AtlasTransferPlanner: a target's plan, held to a source's network as far as its mode says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import network_spec, resolve_configuration
from atlas_nnunet.plan.modes import DEFAULT, MODES
from atlas_nnunet.planners.held import as_source, network_numbers
from atlas_nnunet.planners.pretrain import AtlasPretrainPlanner
from atlas_nnunet.planners.sources import PlannedSource
from atlas_nnunet.planners.suite import NUMBERS, Chosen
from atlas_nnunet.schedule import SCHEDULES
from atlas_nnunet.settings import SAMPLINGS
from atlas_nnunet.structures import canonical
from atlas_nnunet.transfer.levels import advice
from atlas_nnunet.transfer.shares import forecast


class AtlasTransferPlanner(AtlasPretrainPlanner):
    """nnU-Net's method for the target; what the source decides is in the table of modes.

    A configuration is held to the source where both have as many axes: 2d next to a 3-D source is
    planned natively, and `explain` says so.

    Args:
        dataset_name_or_id: nnU-Net's.
        source: The pre-trained network.
        mode: A name in MODES.
        preset: Sets the memory target, and the network of what is not held.
        others: As AtlasPretrainPlanner.
    """

    default_schedule = "head_then_all"
    default_sampling = SAMPLINGS["uniform"]  # fine-tuning draws as nnU-Net does

    def __init__(
        self,
        dataset_name_or_id: str | int,
        *,
        source: PlannedSource,
        mode: str = DEFAULT,
        plans_name: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(dataset_name_or_id, plans_name=plans_name, **others)
        if plans_name is None:
            schedule = SCHEDULES.get(self.settings.get("schedule") or self.default_schedule)
            self.plans_identifier = MODES[mode].name_of(schedule is None or schedule.transfers)
        self.take(source, mode)

    def take(self, source: PlannedSource, mode: str) -> None:
        """Plan for this source, in this mode.

        Raises:
            PlanError: the source has not what the mode takes from it.
        """
        self.source, self.mode = source, MODES[mode]
        self.suite = self._suite()
        if self.mode.network and source.blocks_key is None and self.suite is None:
            raise PlanError(
                f"a source of class {source.spec.class_name} has no stages to hold a plan to",
                where=self.dataset_name,
                do="give --mode native, or a PlainConvUNet or ResidualEncoderUNet checkpoint",
            )
        if self.mode.network:
            held = NUMBERS if self.suite else network_numbers(source, self.preset)
            self.networks = {False: self.native, True: self.native | held}
        if self.mode.geometry:
            self._refuse_what_cannot_inherit()
            self.lowres_creation_threshold = 0  # a coarser copy would not be the source's

    def _suite(self) -> Chosen | None:
        """The source's network, if it is one of the suite: its weights fit no other.

        Raises:
            PlanError: --network or --mode says another.
        """
        spec, asked = self.source.spec, self.suite
        own = Chosen.of_source(spec.class_name, spec.arch_kwargs)
        what = f"the source is a {spec.class_name.rsplit('.', 1)[-1]}"
        if asked and (own is None or own.network is not asked.network):
            raise PlanError(
                f"{what}, which goes into no {asked.network.name}", where=self.dataset_name,
                do="leave out --network, or give a source of that network",
            )  # fmt: skip
        if own and not self.mode.network:
            raise PlanError(
                f"{what}, whose weights go into that network only: {self.mode.name} would plan "
                "nnU-Net's U-Net", where=self.dataset_name, do="give --mode aligned",
            )  # fmt: skip
        return own

    def _refuse_what_cannot_inherit(self) -> None:
        if self.overwrite_target_spacing is not None:
            raise PlanError("--spacing and --mode inherit both say the spacing",
                            where=self.dataset_name, do="give one of them")  # fmt: skip
        self.source.geometry  # noqa: B018 - raises where the source does not know it
        shape = np.median(self.dataset_fingerprint["shapes_after_crop"], 0)
        if self.source.n_axes == 3 and min(shape) == 1:
            raise PlanError(
                "its images are flat, the source is a 3-D network: nothing can be inherited",
                where=self.dataset_name, do="give --mode native, or a 2-D source (-c 2d)",
            )  # fmt: skip

    @staticmethod
    def read_source(
        path: Path, configuration: str, key_table: Path | None = None
    ) -> PlannedSource:  # fmt: skip
        """The source, from a checkpoint or a plans file (.json) beside its dataset.json."""
        return PlannedSource.read(path, configuration, key_table)

    def holds(self, n_axes: int) -> bool:
        """Whether configurations with so many axes are held to the source."""
        return self.mode.network and n_axes == self.source.n_axes

    def generate_data_identifier(self, configuration_name: str) -> str:
        return self.mode.data_identifier(self.plans_identifier, configuration_name)

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """(z, y, x) mm. In `inherit` the source's, axis of the patient by axis."""
        spacing = np.array(super().determine_fullres_target_spacing(), float)
        if self.mode.geometry:
            for axis, mm in self.source.spacing_by_reader_axis().items():
                spacing[axis] = mm
        return spacing

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """In `inherit` the source's order of axes, so that its patch and strides hold."""
        if not self.mode.geometry:
            return super().determine_transpose()
        forward = self.source.transpose_forward
        return forward, [forward.index(axis) for axis in range(3)]

    def static_estimate_VRAM_usage(  # noqa: N802 - the host's name
        self,
        patch_size: tuple[int, ...],
        n_inputs: int,
        n_outputs: int,
        class_name: str,
        arch_kwargs: dict[str, Any],
        requires_import: tuple[str, ...],
    ) -> float:
        """The host's estimate, for the widths that the network will really have."""
        if self.holds(len(patch_size)) and self.suite is None:
            if self.mode.geometry:
                return 1.0  # the patch is the source's: there is nothing to search for
            arch_kwargs = as_source(self.source, arch_kwargs)
        return super().static_estimate_VRAM_usage(
            patch_size, n_inputs, n_outputs, class_name, arch_kwargs, requires_import
        )

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, n_voxels: float, cache: dict
    ) -> dict[str, Any]:
        """One configuration, held or native by its number of axes (host's method, 2.8.1)."""
        held = self.holds(len(spacing))
        self.prepare(len(spacing))
        if held and self.mode.geometry:
            return self._inherited(spacing, median_shape, data_identifier, n_voxels)
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, n_voxels, cache
        )
        if held and self.suite is None:
            architecture = plan["architecture"]
            architecture["arch_kwargs"] = as_source(self.source, architecture["arch_kwargs"])
        return plan

    def _inherited(
        self, spacing: Any, median_shape: Any, data_identifier: str, n_voxels: float
    ) -> dict[str, Any]:
        """The source's patch and network; batch, normalisation and resampling the target's."""
        plan = self.host_plan(spacing, median_shape, data_identifier, n_voxels, {})
        patch, spec = tuple(self.source.geometry["patch_size"]), self.source.spec
        plan |= {"patch_size": patch, "median_image_size_in_voxels": median_shape}
        plan["architecture"] = {
            "network_class_name": spec.class_name,
            "arch_kwargs": dict(spec.arch_kwargs),
            "_kw_requires_import": spec.requires_import,
        }
        batch = self.method(len(patch)).batch(self.estimate(plan), patch, n_voxels)
        return plan | {"batch_size": batch.size}

    def save_plans(self, plans: dict[str, Any]) -> None:
        """In `inherit` without configurations that have other axes than the source."""
        if self.mode.geometry:
            kept = plans["configurations"]
            for name in [n for n, c in kept.items() if not self.holds(len(c["patch_size"]))]:
                del kept[name]
        super().save_plans(plans)

    def our_section(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.source.spec
        own = {"heads": list(spec.heads), "class": spec.class_name, "mode": self.mode.name}
        return {**super().our_section(plans), "source": own}

    def explain(self, plans: Mapping[str, Any]) -> str:
        """With, for each configuration, what share of the parameters the source will serve."""
        source = self.source.spec
        names = {n: canonical(n) for n in (*source.heads, *self._target_heads(plans))}
        lines = [super().explain(plans), f"  mode {self.mode.name}: {self._purpose()}"]
        for name in plans["configurations"]:
            target = network_spec(plans, name, self.dataset_json)
            lines.append(f"  {name}{self._why_native(plans, name)}, parameters from the source:")
            table = forecast(source, target, names).table()
            lines += [f"    {line}" for line in table.splitlines()]
            ends = (self.source.plans, self.source.configuration), (plans, name)
            lines.append(f"    {advice(*ends)}")
        if self.mode.geometry:
            lines.append(
                f"  only what has {self.source.n_axes} axes, at one resolution, can be inherited: "
                "plan other configurations with --mode aligned or native"
            )
        return "\n".join(lines)

    def _purpose(self) -> str:
        if self.suite and not self.mode.geometry:
            return "the target's spacing, patch and batch, on the source's network"
        return self.mode.purpose

    def not_by_rule(self, plans: Mapping[str, Any]) -> dict[str, str]:
        found = super().not_by_rule(plans)
        if self.mode.geometry:
            found |= {"spacing": "it is the source's", "order": "as in the source's plan"}
        for name in self.held(plans):
            found.setdefault(name, "class, blocks and widths are the source's")
            if self.mode.geometry:
                found[f"{name}.patch"] = "the source's, with its strides and kernels"
        return found

    def _why_native(self, plans: Mapping[str, Any], name: str) -> str:
        n_axes = len(resolve_configuration(plans, name)["patch_size"])
        if not self.mode.network or self.holds(n_axes):
            return ""
        return f" (planned natively: it has {n_axes} axes, the source {self.source.n_axes})"

    def _target_heads(self, plans: Mapping[str, Any]) -> tuple[str, ...]:
        return network_spec(plans, next(iter(plans["configurations"])), self.dataset_json).heads
