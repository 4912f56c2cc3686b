"""AtlasTransferPlanner: the target's own configuration, on the source's network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import NetworkSpec, network_spec, read_json, resolve_configuration
from atlas_nnunet.planners.pretrain import AtlasPretrainPlanner
from atlas_nnunet.structures import canonical
from atlas_nnunet.transfer.checkpoints import read_checkpoint, read_key_table
from atlas_nnunet.transfer.shares import forecast

BLOCK_KEYS = {True: "n_blocks_per_stage", False: "n_conv_per_stage"}


def extended(values: tuple, length: int) -> tuple:
    """Per-stage values for another depth: the same from the top, the deepest one repeated."""
    return (*values, *(values[-1],) * length)[:length]


class AtlasTransferPlanner(AtlasPretrainPlanner):
    """nnU-Net's method for spacing, patch, strides and batch; widths, blocks, class the source's.

    So every stage that both networks have holds parameters of the same shape, and loads.

    Args:
        dataset_name_or_id: nnU-Net's.
        source: The pre-trained network.
        preset: Sets the memory target; widths and blocks come from the source.
        others: As AtlasPretrainPlanner.
    """

    default_plans_name = "AtlasTransferPlans"
    default_schedule = "head_then_all"

    def __init__(
        self, dataset_name_or_id: str | int, *, source: NetworkSpec, **others: Any
    ) -> None:
        super().__init__(dataset_name_or_id, **others)
        self.source = source
        self.blocks_key = next((k for k in BLOCK_KEYS.values() if k in source.arch_kwargs), None)
        if self.blocks_key is None:
            raise PlanError(
                f"a source of class {source.class_name} has no stages to hold a plan to",
                where=self.dataset_name,
                do="give a PlainConvUNet or ResidualEncoderUNet checkpoint of nnU-Net",
            )
        self.hold_to(self.blocks_key == BLOCK_KEYS[True])
        self.UNet_base_num_features = source.widths[0]
        self.UNet_max_features_3d = self.UNet_max_features_2d = max(source.widths)
        encoder = source.arch_kwargs[self.blocks_key]
        decoder = source.arch_kwargs["n_conv_per_stage_decoder"]
        self.UNet_blocks_per_stage_encoder = extended(tuple(encoder), 14)
        # The decoder's list runs from the deepest stage up (DESIGN 3.8); all of a kind in practice.
        self.UNet_blocks_per_stage_decoder = extended(tuple(decoder), 13)

    @staticmethod
    def read_source(path: Path, configuration: str, key_table: Path | None = None) -> NetworkSpec:
        """The source, from a checkpoint or a plans file (.json) beside its dataset.json.

        Raises:
            PlanError, TransferError: a file is missing or is not what its name says.
        """
        if path.suffix != ".json":
            return read_checkpoint(path, read_key_table(key_table) if key_table else None).spec
        hint = "give a checkpoint, or a plans file (.json) that lies beside its dataset.json"
        plans = read_json(path, hint)
        return network_spec(plans, configuration, read_json(path.parent / "dataset.json", hint))

    def as_source(self, arch_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The architecture with the source's widths and remaining options (bias, norm, nonlin)."""
        own = {
            "n_stages", "kernel_sizes", "strides", "features_per_stage", self.blocks_key,
            "n_conv_per_stage_decoder", "conv_op", "norm_op",
        }  # fmt: skip
        widths = list(extended(self.source.widths, arch_kwargs["n_stages"]))
        same = {k: v for k, v in self.source.arch_kwargs.items() if k not in own}
        return {**arch_kwargs, **same, "features_per_stage": widths}

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
        held = self.as_source(arch_kwargs)
        return super().static_estimate_VRAM_usage(
            patch_size, n_inputs, n_outputs, class_name, held, requires_import
        )

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        plan = super().get_plans_for_configuration(*args, **kwargs)
        architecture = plan["architecture"]
        architecture["arch_kwargs"] = self.as_source(architecture["arch_kwargs"])
        return plan

    def our_section(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super().our_section(plans),
            "source": {"heads": list(self.source.heads), "class": self.source.class_name},
        }

    def explain(self, plans: Mapping[str, Any]) -> str:
        """With, for each configuration, what share of the parameters the source will serve."""
        names = {name: canonical(name) for name in (*self.source.heads, *self._target_heads(plans))}
        lines = [super().explain(plans)]
        for name in plans["configurations"]:
            if "patch_size" not in resolve_configuration(plans, name):
                continue
            target = network_spec(plans, name, self.dataset_json)
            lines.append(f"  {name}, parameters from the source:")
            table = forecast(self.source, target, names).table()
            lines += [f"    {line}" for line in table.splitlines()]
        return "\n".join(lines)

    def _target_heads(self, plans: Mapping[str, Any]) -> tuple[str, ...]:
        return network_spec(plans, next(iter(plans["configurations"])), self.dataset_json).heads
