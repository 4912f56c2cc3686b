"""nnU-Net's U-Nets without nnU-Net's plan: from nnssl's adaptation plan, or from shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.transfer.sources.describe import (
    UNSTATED,
    Described,
    Tensors,
    built_shapes,
    count,
    head_size,
    plan_of,
    size,
    unnamed,
)
from atlas_nnunet.transfer.sources.stored import KEY_TABLE_HINT, Stored
from atlas_nnunet.transfer.sources.trusted import trusted

UNETS = "dynamic_network_architectures.architectures.unet."
PLAIN, RESIDUAL = UNETS + "PlainConvUNet", UNETS + "ResidualEncoderUNet"
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")

# Options that no shape tells: nnU-Net's, in every plan of its planners (nnunetv2 2.8.1,
# default_experiment_planner.py).
USUAL: dict[str, Any] = {
    "dropout_op": None, "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
# nnssl names its standard network without arguments (architecture_registry.py, 7044864).
RES_ENC_L: dict[str, Any] = {
    "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5, "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5, "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, **USUAL,
}  # fmt: skip
NNSSL_NETWORKS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "ResEncL": (RESIDUAL, RES_ENC_L),
    "ResidualEncoderUNet": (RESIDUAL, None),
    "PlainConvUNet": (PLAIN, None),
}
ENCODER_ONLY = {
    r"^decoder\.(?!seg_layers)": "the file holds an encoder only",
    r"^decoder\.seg_layers\.": "the file holds no segmentation head",
}


def from_adaptation_plan(stored: Stored, tensors: Tensors, where: str) -> Described:
    """nnssl: the checkpoint says by which network it goes on.

    Raises:
        TransferError: a network that is no U-Net of nnU-Net's (Primus, a U-Net without skips).
    """
    plan = stored.entries["nnssl_adaptation_plan"]
    architecture = plan["architecture_plans"]
    name = str(architecture["arch_class_name"]).rpartition(".")[2]
    if name not in NNSSL_NETWORKS:
        raise TransferError(
            f"pre-trained with nnssl's {name}, which is no U-Net of nnU-Net's", where=where,
            do=f"give a checkpoint of one of {sorted(NNSSL_NETWORKS)}",
        )  # fmt: skip
    class_name, preset = NNSSL_NETWORKS[name]
    kwargs = architecture.get("arch_kwargs") or preset
    if kwargs is None:
        raise TransferError(
            f"the adaptation plan has no arch_kwargs for {name}", where=where, do=KEY_TABLE_HINT
        )
    channels = unnamed("channel", int(plan["pretrain_num_input_channels"]))
    heads = unnamed("head", head_size(tensors, "decoder.seg_layers.0.weight"))
    spec = trusted(NetworkSpec(class_name, kwargs, IMPORTED, channels, heads), where)
    plans, configuration = _nnssl_plan(stored)
    return Described(spec, built_shapes(spec, where), plans, {}, configuration, ENCODER_ONLY)


def _nnssl_plan(stored: Stored) -> tuple[Mapping[str, Any], str]:
    """The pre-training's plan and its configuration, where there is one of each."""
    plan = stored.entries["nnssl_adaptation_plan"].get("pretrain_plan")
    configurations = plan.get("configurations") if isinstance(plan, Mapping) else None
    if not isinstance(configurations, Mapping):
        return plan_of(None), UNSTATED
    init = stored.entries.get("init_args")
    said = init.get("configuration_name") if isinstance(init, Mapping) else None
    name = said if said in configurations else next(iter(configurations), None)
    known = name is not None and "normalization_schemes" in configurations[name]
    if not known or (said is None and len(configurations) > 1):
        return plan_of(None), UNSTATED
    return plan, str(name)


def from_shapes(stored: Stored, tensors: Tensors, where: str) -> Described:
    """A bare state dict of PlainConvUNet or ResidualEncoderUNet (VoComni's is one).

    Strides are read from the up-convolutions, whose kernels they are. What no shape tells (the
    nonlinearity, the norm's eps) is taken to be nnU-Net's.

    Raises:
        TransferError: there is no decoder, so that no stride is known.
    """
    residual = any(name.startswith("encoder.stem.") for name in tensors)
    ups = [n for n in tensors if re.fullmatch(r"decoder\.transpconvs\.\d+\.weight", n)]
    if not ups:
        raise TransferError(
            "an encoder without a decoder and without a plan: its strides stand nowhere",
            where=where, do=f"name its network and what is absent; {KEY_TABLE_HINT}",
        )  # fmt: skip
    kwargs = _kwargs(stored, tensors, residual, len(ups) + 1, where)
    first = "encoder.stem.convs.0" if residual else "encoder.stages.0.0.convs.0"
    spec = NetworkSpec(
        RESIDUAL if residual else PLAIN, kwargs, IMPORTED,
        unnamed("channel", size(tensors, f"{first}.conv.weight", 1, where)),
        unnamed("head", size(tensors, "decoder.seg_layers.0.weight", 0, where)),
    )  # fmt: skip
    return Described(spec, built_shapes(spec, where), plan_of(None), {}, UNSTATED)


def _kwargs(
    stored: Stored, tensors: Tensors, residual: bool, n: int, where: str
) -> dict[str, Any]:  # fmt: skip
    block = "encoder.stages.{}.blocks.0.conv1" if residual else "encoder.stages.{}.0.convs.0"
    unit = r"blocks" if residual else r"0\.convs"
    convs = [block.format(i) for i in range(n)]
    for conv in convs:
        size(tensors, f"{conv}.conv.weight", 2, where)
    weights = [tensors[f"{conv}.conv.weight"] for conv in convs]
    dimensions = weights[0].ndim - 2
    ups = [f"decoder.transpconvs.{n - 1 - i}.weight" for i in range(1, n)]  # deepest is 0
    for name in ups:
        size(tensors, name, 2, where)
    # An instance norm keeps no statistics, a batch norm does.
    batch = any(key.endswith("running_mean") for key in stored.weights)
    norm = "batchnorm.BatchNorm" if batch else "instancenorm.InstanceNorm"
    norm_op = f"torch.nn.modules.{norm}{dimensions}d"
    return {
        "n_stages": n,
        "features_per_stage": [weight.shape[0] for weight in weights],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [list(weight.shape[2:]) for weight in weights],
        "strides": [[1] * dimensions, *(list(tensors[name].shape[2:]) for name in ups)],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": count(
            tensors, rf"encoder\.stages\.(\d+)\.{unit}\.(\d+)\."
        ),
        "n_conv_per_stage_decoder": count(tensors, r"decoder\.stages\.(\d+)\.convs\.(\d+)\."),
        "conv_bias": f"{convs[0]}.conv.bias" in tensors,
        "norm_op": norm_op if f"{convs[0]}.norm.weight" in tensors else None,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        **USUAL,
    }
