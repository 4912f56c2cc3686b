"""A pre-trained network, with what its plan says about voxels: what a target is planned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import NetworkSpec, network_spec, read_json, resolve_configuration
from atlas_nnunet.networks.suite import of_class
from atlas_nnunet.transfer.checkpoints import read_checkpoint, read_key_table

BLOCK_KEYS = {True: "n_blocks_per_stage", False: "n_conv_per_stage"}
GEOMETRY = ("spacing", "patch_size")


@dataclass(frozen=True)
class PlannedSource:
    """The source of a transfer, without its weights.

    Attributes:
        spec: Its network.
        plans: The plan it was trained by, or is to be trained by.
        configuration: Its configuration in that plan.
    """

    spec: NetworkSpec
    plans: Mapping[str, Any]
    configuration: str

    @classmethod
    def of(
        cls, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
    ) -> PlannedSource:
        """The source that a plan describes."""
        spec = network_spec(plans, configuration, dataset_json)
        return cls(spec, plans, configuration)

    @classmethod
    def read(
        cls, path: Path, configuration: str, key_table: Path | None = None
    ) -> PlannedSource:  # fmt: skip
        """A checkpoint, or a plans file (.json) that lies beside its dataset.json.

        Args:
            path: The file.
            configuration: Of the plans file; a checkpoint knows its own.
            key_table: File that explains a checkpoint of another format.

        Raises:
            PlanError, TransferError: a file is missing or is not what its name says.
        """
        if path.suffix != ".json":
            stored = read_checkpoint(path, read_key_table(key_table) if key_table else None)
            return cls(stored.spec, stored.plans, stored.configuration)
        hint = "give a checkpoint (.pth), or a plans file that lies beside its dataset.json"
        plans = read_json(path, hint)
        return cls.of(plans, configuration, read_json(path.parent / "dataset.json", hint))

    @property
    def blocks_key(self) -> str | None:
        """Which argument counts the encoder's blocks; None for a network of another family."""
        return next((k for k in BLOCK_KEYS.values() if k in self.spec.arch_kwargs), None)

    @property
    def n_axes(self) -> int | None:
        """2 or 3: axes of the network; None for a network of another family."""
        if of_class(self.spec.class_name):
            return 3
        kernels = self.spec.arch_kwargs.get("kernel_sizes")
        return len(kernels[0]) if kernels else None

    @property
    def geometry(self) -> dict[str, Any]:
        """The configuration's spacing (mm) and patch (voxels), axes in the plan's own order.

        Raises:
            PlanError: the source's file says nothing about them.
        """
        known = self.configuration in self.plans.get("configurations", {})
        found = resolve_configuration(self.plans, self.configuration) if known else {}
        absent = [key for key in GEOMETRY if key not in found]
        absent += [key for key in ("transpose_forward",) if key not in self.plans]
        if absent:
            raise PlanError(
                f"the source says nothing about {', '.join(absent)}, so nothing can be inherited",
                do="give --mode aligned, with --spacing if you know it",
            )
        return {key: found[key] for key in GEOMETRY}

    @property
    def transpose_forward(self) -> list[int]:
        """Which array axis of the reader comes first, second and third in the plan."""
        return [int(axis) for axis in self.plans["transpose_forward"]]

    def spacing_by_reader_axis(self) -> dict[int, float]:
        """Array axis of the reader (0 z, 1 y, 2 x) -> spacing in mm.

        A 2-D configuration leaves out the plan's first axis, across which it cuts slices.
        """
        spacing = self.geometry["spacing"]
        axes = self.transpose_forward[-len(spacing) :]
        return {axis: float(mm) for axis, mm in zip(axes, spacing, strict=True)}
