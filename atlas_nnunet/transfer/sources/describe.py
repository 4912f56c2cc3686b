"""Which network the weights of a file belong to: from its plan, or from the shapes themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec, channel_names, head_names
from atlas_nnunet.networks.suite import BEFORE, NETWORKS, of_class
from atlas_nnunet.transfer.sources import layouts
from atlas_nnunet.transfer.sources.oldplans import spec_of_any_age
from atlas_nnunet.transfer.sources.stored import KEY_TABLE_HINT, Stored
from atlas_nnunet.transfer.sources.trusted import trusted

UNSTATED = "unstated"  # the configuration of a source whose file has no plan
Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Described:
    """A network, and what the file says of its training.

    Attributes:
        spec: The network.
        shapes: Of all its parameters, in its own order.
        plans: The plan, or what stands for one (`plan_of`).
        dataset_json: Of the data set; empty where the file has none.
        configuration: Of the plan.
        absent: Pattern -> reason, beside the format's.
    """

    spec: NetworkSpec
    shapes: Shapes
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    configuration: str
    absent: Mapping[str, str] = field(default_factory=dict)


def plan_of(intensities: str | None) -> dict[str, Any]:
    """What stands for a plan where a file has none: how intensities were scaled, if published."""
    return {
        "dataset_name": None,
        "plans_name": None,
        "configurations": {UNSTATED: {"normalization_schemes": intensities and [intensities]}},
    }


def unnamed(kind: str, n: int, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Names for channels or heads that the file does not name; they meet no target's by name."""
    return tuple(known) if len(known) == n else tuple(f"unnamed_{kind}_{i}" for i in range(n))


def built_shapes(spec: NetworkSpec, where: str) -> dict[str, tuple[int, ...]]:
    """Parameters of a network that can be built here, or whose layout is known.

    Raises:
        TransferError: neither.
    """
    try:
        if spec.class_name in layouts.LAYOUTS:
            channels, heads = len(spec.channels), len(spec.heads)
            return layouts.layout(spec.class_name, channels, heads, spec.arch_kwargs)
        network = spec.build_empty()
        return {name: tuple(p.shape) for name, p in network.named_parameters()}
    except Exception as error:  # whatever a foreign class makes of a foreign plan
        raise TransferError(
            f"the network {spec.class_name} cannot be built: {type(error).__name__}: {error}",
            where=where,
            do="install the package that defines it, or mend class and arch_kwargs",
        ) from error


def training_of(stored: Stored, where: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Plans, configuration and dataset.json that a checkpoint of nnU-Net v2 has inside.

    Raises:
        TransferError: one of them is missing.
    """
    init = stored.entries["init_args"]
    lacking = [key for key in ("plans", "configuration", "dataset_json") if key not in init]
    if lacking:
        raise TransferError(f"no {', '.join(lacking)} among init_args", where=where,
                            do=f"the file is incomplete; {KEY_TABLE_HINT}")  # fmt: skip
    return init["plans"], init["configuration"], init["dataset_json"]


def from_plan(stored: Stored, tensors: Tensors, where: str) -> Described:
    """nnU-Net v2: the plan lies in the checkpoint."""
    plans, configuration, dataset_json = training_of(stored, where)
    spec = trusted(spec_of_any_age(plans, configuration, dataset_json), where)
    return Described(spec, built_shapes(spec, where), plans, dataset_json, configuration)


def size(tensors: Tensors, name: str, axis: int, where: str) -> int:
    """Length of one axis of a parameter that tells the network's width.

    Raises:
        TransferError: it is missing or has fewer axes.
    """
    if name not in tensors or tensors[name].ndim <= axis:
        raise TransferError(
            f"parameters are missing or of another shape, first: {name}", where=where,
            do=f"the file is incomplete, or another network than it seems; {KEY_TABLE_HINT}",
        )  # fmt: skip
    return tensors[name].shape[axis]


def count(tensors: Tensors, pattern: str) -> list[int]:
    """How many numbers the second group has for each of the first, by the first."""
    found: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(pattern, name):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return [len(found[i]) for i in sorted(found)]


def described(
    class_name: str, n_in: int, n_out: int, arch_kwargs: Mapping[str, Any], where: str
) -> Described:
    """A network without a plan; one of the suite's as a plan would say it."""
    known = of_class(class_name)
    kwargs = known.complete(arch_kwargs) if known else arch_kwargs
    spec = NetworkSpec(class_name, kwargs, (), unnamed("channel", n_in), unnamed("head", n_out))
    return Described(spec, built_shapes(spec, where), plan_of(None), {}, UNSTATED)


def head_size(tensors: Tensors, name: str) -> int:
    """Output channels, or one where the file has no head (which is then absent)."""
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 1


def unet3d(stored: Stored, tensors: Tensors, where: str) -> Described:
    first = "down_tr64.ops.0.conv1.weight"
    width, n_in = (size(tensors, first, axis, where) for axis in (0, 1))
    n_out = head_size(tensors, "out_tr.final_conv.weight")
    return described(layouts.UNET3D, n_in, n_out, {"width": width}, where)


def segresnet(stored: Stored, tensors: Tensors, where: str) -> Described:
    filters, n_in = (size(tensors, "convInit.conv.weight", axis, where) for axis in (0, 1))
    n_out = size(tensors, "conv_final.2.conv.weight", 0, where)
    kwargs = {
        "init_filters": filters,
        "blocks_down": count(tensors, r"down_layers\.(\d+)\.(\d+)\.norm1\."),
        "blocks_up": count(tensors, r"up_layers\.(\d+)\.(\d+)\.norm1\."),
    }
    return described(layouts.SEGRESNET, n_in, n_out, kwargs, where)


def swin_unetr(stored: Stored, tensors: Tensors, where: str) -> Described:
    width, n_in, patch = (
        size(tensors, "swinViT.patch_embed.proj.weight", axis, where) for axis in (0, 1, 2)
    )
    depths = count(tensors, r"swinViT\.layers(\d+)\.0\.blocks\.(\d+)\.norm1\.")
    table = "swinViT.layers{}.0.blocks.0.attn.relative_position_bias_table"
    rows = size(tensors, table.format(1), 0, where)
    kwargs = {
        "feature_size": width,
        "depths": depths,
        "num_heads": [size(tensors, table.format(i + 1), 1, where) for i in range(len(depths))],
        "window_size": (round(rows ** (1 / 3)) + 1) // 2,
        "patch_size": patch,
        "merging": BEFORE,  # no shape tells: a key table may name the other
    }
    n_out = head_size(tensors, "out.conv.conv.weight")
    return described(layouts.SWIN_UNETR, n_in, n_out, kwargs, where)


def stunet(stored: Stored, tensors: Tensors, where: str) -> Described:
    depth = count(tensors, r"conv_blocks_context\.(\d+)\.(\d+)\.")
    first = "conv_blocks_context.{}.0.conv1.weight"
    dims = [size(tensors, first.format(i), 0, where) for i in range(len(depth))]
    n_in = size(tensors, first.format(0), 1, where)
    n_out = size(tensors, "seg_outputs.0.weight", 0, where)
    found = described(layouts.STUNET, n_in, n_out, {"dims": dims, "depth": depth}, where)
    init = stored.entries.get("init_args")
    if not isinstance(init, Mapping) or "dataset_json" not in init:
        return found  # written by nnU-Net v1, whose plan lies in a file of its own
    plans, configuration, dataset_json = training_of(stored, where)
    planned = spec_of_any_age(plans, configuration, dataset_json).arch_kwargs.get("strides", [[]])
    if any(len(level) != 3 for level in planned):
        raise TransferError(
            f"the plan in the file has no strides of three axes: {planned}", where=where,
            do="give the file without its init_args, as nnU-Net v1 writes it",
        )  # fmt: skip
    spec = replace(
        found.spec, arch_kwargs=NETWORKS["stunet"].complete(found.spec.arch_kwargs, planned),
        channels=unnamed("channel", n_in, channel_names(dataset_json)),
        heads=unnamed("head", n_out, head_names(dataset_json)),
    )  # fmt: skip
    return Described(spec, found.shapes, plans, dataset_json, configuration)


Describe = Callable[[Stored, Tensors, str], Described]
