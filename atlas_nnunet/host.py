"""The one adapter to nnunetv2: tested versions, folders, plans, heads, networks.

Facts of the host that we rely on are stated here with file and version (nnunetv2 2.8.1).
Imports of nnunetv2 and torch stay inside the functions, so that `--help` needs neither.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_nnunet.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

# Exactness is promised against these; DESIGN: label resampling changed between releases of
# batchgenerators, so the same nnunetv2 gives other masks with another one.
TESTED = {"nnunetv2": "2.8.1", "batchgenerators": "0.25.5", "batchgeneratorsv2": "0.3.6"}
READER = "NibabelIOWithReorient"  # every case to RAS: AbdomenAtlas mixes orientations


def versions() -> dict[str, str]:
    """Installed versions of the host's packages that decide our results."""
    return {name: version(name) for name in TESTED}


def untested_versions() -> list[str]:
    """One sentence for each package outside the tested version; empty when all agree."""
    found = versions()
    return [
        f"{name} {found[name]} is installed, results are tested to equal stock with {want}"
        for name, want in TESTED.items()
        if found[name] != want
    ]


def dataset_name(number_or_name: str, *roots: Path) -> str:
    """`7`, `007` or `Dataset007_Pancreas` -> the full name, by the folders under `roots`.

    Raises:
        PlanError: no folder, or more than one, carries the number.
    """
    if number_or_name.startswith("Dataset"):
        return number_or_name
    if not re.fullmatch(r"\d{1,3}", number_or_name):
        raise PlanError(
            f"not a data set: {number_or_name!r}",
            do="give its number (701) or its name (Dataset701_AbdomenAtlas11Mini)",
        )
    prefix = f"Dataset{int(number_or_name):03d}_"
    found = sorted({p.name for root in roots if root.is_dir() for p in root.glob(prefix + "*")})
    if len(found) != 1:
        raise PlanError(
            f"{len(found)} data sets are called {prefix}*: {found}",
            where=", ".join(map(str, roots)),
            do="check the folders nnUNet_raw and nnUNet_preprocessed name (atlas-nnunet env)",
        )
    return found[0]


@dataclass(frozen=True)
class NetworkSpec:
    """A network as a plan describes it, with what its inputs and heads mean.

    Attributes:
        class_name: Dotted path of the network class.
        arch_kwargs: As in the plan (`architecture.arch_kwargs`).
        requires_import: Names in `arch_kwargs` whose values are dotted paths.
        channels: Names of the input channels, in order.
        heads: Names of the output channels, in order; "background" first without regions.
        absent: Parameters that a source of this network comes without (an encoder alone).
    """

    class_name: str
    arch_kwargs: Mapping[str, Any]
    requires_import: tuple[str, ...]
    channels: tuple[str, ...]
    heads: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps of each stage, finest first."""
        return tuple(self.arch_kwargs["features_per_stage"])

    @property
    def n_stages(self) -> int:
        """Zero for a network that is not made of nnU-Net's stages."""
        return int(self.arch_kwargs.get("n_stages", 0))

    def build(self, *, initialise: bool = True, deep_supervision: bool = True) -> nn.Module:
        """The network with nnU-Net's own initialisation (random: seed torch before)."""
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        return get_network_from_plans(
            self.class_name,
            dict(self.arch_kwargs),
            list(self.requires_import),
            len(self.channels),
            len(self.heads),
            allow_init=initialise,
            deep_supervision=deep_supervision,
        )

    def build_empty(self, *, deep_supervision: bool = True) -> nn.Module:
        """The network on the meta device: names and shapes, no memory."""
        import torch

        with torch.device("meta"):
            return self.build(initialise=False, deep_supervision=deep_supervision)


def resolve_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with everything it inherits (plans_handler.py, nnunetv2 2.8.1).

    Raises:
        PlanError: there is no such configuration, or the inheritance is circular.
    """
    seen: list[str] = []
    chain: list[Mapping[str, Any]] = []
    current: str | None = name
    while current is not None:
        if current in seen or current not in plans["configurations"]:
            raise PlanError(
                f"configuration {current!r} is circular or missing; "
                f"there are {sorted(plans['configurations'])}",
                where=str(plans.get("plans_name", "plans")),
                do="choose one of these with -c",
            )
        seen.append(current)
        chain.append(plans["configurations"][current])
        current = chain[-1].get("inherits_from")
    merged: dict[str, Any] = {}
    for configuration in reversed(chain):
        merged |= configuration
    return merged


def head_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the network's output channels, in order (label_handling.py, nnunetv2 2.8.1).

    With regions one channel for each region in the order of `labels`; without, one for each
    label in the order of its value, background included. The ignore label has no channel.
    """
    labels = {k: v for k, v in dataset_json["labels"].items() if k != "ignore"}
    if has_regions(dataset_json):
        return tuple(name for name, value in labels.items() if value not in (0, [0]))
    first = {k: v[0] if isinstance(v, list | tuple) else int(v) for k, v in labels.items()}
    return tuple(sorted(first, key=lambda name: first[name]))


def has_regions(dataset_json: Mapping[str, Any]) -> bool:
    """Whether nnU-Net trains regions (sigmoid) on this data set."""
    return any(isinstance(v, list | tuple) and len(v) > 1 for v in dataset_json["labels"].values())


def channel_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the image channels, in order; "modality" in data sets of nnU-Net v1."""
    return tuple((dataset_json.get("channel_names") or dataset_json["modality"]).values())


def network_spec(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> NetworkSpec:
    """The network that nnU-Net will build from a plan.

    A cascade's second stage gets one more input channel for each foreground label
    (label_handling.py `determine_num_input_channels`).

    Raises:
        PlanError: the configuration has no `architecture` (a plan older than nnunetv2 2.4).
    """
    config = resolve_configuration(plans, configuration)
    if "architecture" not in config:
        raise PlanError(
            f"configuration {configuration!r} describes no architecture",
            where=str(plans.get("plans_name", "plans")),
            do="plan again with nnunetv2 >= 2.4: atlas-nnunet plan DATASET",
        )
    channels = list(channel_names(dataset_json))
    if "previous_stage" in config:
        values = [v for k, v in dataset_json["labels"].items() if k not in ("background", "ignore")]
        codes = {c for v in values for c in (v if isinstance(v, list | tuple) else [v])}
        channels += [f"previous_stage_{code}" for code in sorted(codes)]
    architecture = config["architecture"]
    return NetworkSpec(
        class_name=architecture["network_class_name"],
        arch_kwargs=architecture["arch_kwargs"],
        requires_import=tuple(architecture["_kw_requires_import"]),
        channels=tuple(channels),
        heads=head_names(dataset_json),
    )


def find_planner(name: str) -> type:
    """A planner class by name: ours first, then nnunetv2's own.

    Raises:
        PlanError: nobody has a planner of that name (nnunetv2 2.8.1 would go on with None).
    """
    ours = import_module("atlas_nnunet.planners")
    if hasattr(ours, name):
        return getattr(ours, name)
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = os.path.join(nnunetv2.__path__[0], "experiment_planning")
    found = recursive_find_python_class(folder, name, "nnunetv2.experiment_planning")
    if found is None:
        raise PlanError(
            f"no planner is called {name!r}",
            do="one of AtlasPretrainPlanner, AtlasTransferPlanner, or a planner of nnunetv2",
        )
    return found


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """A JSON file of the flow.

    Raises:
        PlanError: it is missing or is not JSON; `hint` is the command that makes it.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise PlanError("no such file", where=str(path), do=hint) from None
    except ValueError as error:
        raise PlanError(f"not JSON: {error}", where=str(path), do=hint) from error


def reader_name(dataset_json: Mapping[str, Any], example: Path) -> str:
    """The reader class that nnU-Net takes for this data set."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    return determine_reader_writer_from_dataset_json(
        dict(dataset_json), str(example), verbose=False
    ).__name__
