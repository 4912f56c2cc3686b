"""Files of every format of checkpoint, from the formats' own keys and shapes, in small.

Tensors are one zero, expanded: they have the shape and take no room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from test_transfer import DATASET, nnunet_checkpoint, plans, spec

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Made:
    """A file before it is saved.

    Attributes:
        state: Its weights, by the file's keys.
        wrap: Weights -> what is saved.
        names: The parameters that a reader must find.
        victim: A key that may be removed or misshapen, with nothing else becoming another.
        absent: Parameters of the network that the file does not have.
    """

    state: State
    wrap: Callable[[State], object]
    names: set[str]
    victim: str
    absent: frozenset[str] = frozenset()


def zeros(shapes: dict[str, tuple[int, ...]]) -> State:
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def state_of(network: torch.nn.Module) -> State:
    return zeros({k: tuple(v.shape) for k, v in network.state_dict().items()})


def names_of(network: torch.nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


CONV = "encoder.stages.1.{}.conv.weight"
VICTIM = {True: CONV.format("blocks.1.conv1"), False: CONV.format("0.convs.1")}


def nnunet(residual: bool) -> Made:
    own = spec(3, residual=residual)
    whole = nnunet_checkpoint(own)
    network = own.build_empty()
    return Made(state_of(network), lambda s: {**whole, "network_weights": s}, names_of(network),
                VICTIM[residual])  # fmt: skip


def old_plans(own, residual: bool) -> dict:
    """A plan as nnU-Net wrote it until 2.3: no `architecture`."""
    kwargs = own.arch_kwargs
    config = {
        "patch_size": [16, 16, 16], "normalization_schemes": ["CTNormalization"],
        "UNet_class_name": "ResidualEncoderUNet" if residual else "PlainConvUNet",
        "UNet_base_num_features": kwargs["features_per_stage"][0],
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2] * kwargs["n_stages"],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [kwargs["n_stages"] - 1] * 3,
        "pool_op_kernel_sizes": kwargs["strides"], "conv_kernel_sizes": kwargs["kernel_sizes"],
    }  # fmt: skip
    return {**plans(own), "configurations": {"lowres": config, "3d_fullres": {"inherits_from":
            "lowres"}}}  # fmt: skip


def nnunet_old(residual: bool) -> Made:
    made = nnunet(residual)
    old = old_plans(spec(3, residual=residual), residual)

    def wrap(state: State) -> object:
        whole = made.wrap(state)
        return {**whole, "init_args": {**whole["init_args"], "plans": old}}

    return Made(made.state, wrap, made.names, made.victim)


def adaptation_plan(own, name: str = "ResidualEncoderUNet", preset: bool = False) -> dict:
    kwargs = dict(own.arch_kwargs)
    return {
        "architecture_plans": {
            "arch_class_name": name, "arch_kwargs": None if preset else kwargs,
            "arch_kwargs_requiring_import": None if preset else list(own.requires_import),
        },
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenMind", "plans_name": "nnsslPlans",
            "configurations": {"onemmiso": {"normalization_schemes": ["ZScoreNormalization"]}},
        },
        "pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }  # fmt: skip


def nnssl(encoder_only: bool) -> Made:
    own = spec(3, residual=True, heads=("unnamed_head_0",))
    network = own.build_empty()
    state, names = state_of(network), names_of(network)
    without = {n for n in names if n.startswith("decoder.")} if encoder_only else set()
    if encoder_only:
        state = {k: v for k, v in state.items() if k.startswith("encoder.")}
        state["projector.layer1.0.weight"] = torch.zeros(2, 2)
    entries = {
        "optimizer_state": {"state": {0: torch.zeros(3)}}, "logging": {"losses": torch.zeros(2)},
        "init_args": {"configuration_name": "onemmiso", "device": torch.device("cuda", 0)},
        "trainer_name": "BaseMAETrainer", "nnssl_adaptation_plan": adaptation_plan(own),
    }  # fmt: skip
    return Made(state, lambda s: {"network_weights": s, **entries}, names - without,
                VICTIM[True], frozenset(without))  # fmt: skip


def voco_nnunet(residual: bool) -> Made:
    network = spec(3, residual=residual, kernel=1, stride=1).build_empty()
    return Made(prefixed("module.backbone.", state_of(network)), lambda s: s, names_of(network),
                "module.backbone." + VICTIM[residual])  # fmt: skip


# STU-Net 0652eaf, nnUNet-2.2/.../STUNetTrainer.py, of widths 4, 8, 12 and depth 2:
# (block, output, input), a block being two convolutions with norms and, where it is a stage's
# first, a shortcut.
STUNET_BLOCKS = (
    ("conv_blocks_context.0.0", 4, 1), ("conv_blocks_context.0.1", 4, 4),
    ("conv_blocks_context.1.0", 8, 4), ("conv_blocks_context.1.1", 8, 8),
    ("conv_blocks_context.2.0", 12, 8), ("conv_blocks_context.2.1", 12, 12),
    ("conv_blocks_localization.0.0", 8, 16), ("conv_blocks_localization.0.1", 8, 8),
    ("conv_blocks_localization.1.0", 4, 8), ("conv_blocks_localization.1.1", 4, 4),
)  # fmt: skip
STUNET_POINTWISE = (("upsample_layers.0.conv", 8, 12), ("upsample_layers.1.conv", 4, 8),
                    ("seg_outputs.0", 3, 8), ("seg_outputs.1", 3, 4))  # fmt: skip


def stunet(version: int) -> Made:
    shapes: dict[str, tuple[int, ...]] = {}
    for block, n_out, n_in in STUNET_BLOCKS:
        shapes |= {f"{block}.conv1.weight": (n_out, n_in, 3, 3, 3),
                   f"{block}.conv2.weight": (n_out, n_out, 3, 3, 3)}  # fmt: skip
        shapes |= {f"{block}.{part}.bias": (n_out,) for part in ("conv1", "conv2")}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.{part}": (n_out,) for part in ("weight", "bias")}
        if block.endswith(".0"):
            shapes |= {f"{block}.conv3.weight": (n_out, n_in, 1, 1, 1),
                       f"{block}.conv3.bias": (n_out,)}  # fmt: skip
    for name, n_out, n_in in STUNET_POINTWISE:
        shapes |= {f"{name}.weight": (n_out, n_in, 1, 1, 1), f"{name}.bias": (n_out,)}
    log = {"optimizer_state_dict": {"state": {0: torch.zeros(3)}}, "epoch": 4, "plot_stuff": []}
    init = {"plans": plans(spec()), "configuration": "3d_fullres", "dataset_json": DATASET}
    wraps = {1: lambda s: {"state_dict": s, **log},
             2: lambda s: {"network_weights": s, "init_args": init}}  # fmt: skip
    return Made(zeros(shapes), wraps[version], set(shapes), "conv_blocks_context.1.1.conv1.weight")


# Models Genesis 12f7feb, pytorch/unet3d.py: convolution, output, input; in sixteenths here.
UNET3D_CONVS = (
    ("down_tr64.ops.0", 32, None), ("down_tr64.ops.1", 64, 32),
    ("down_tr128.ops.0", 64, 64), ("down_tr128.ops.1", 128, 64),
    ("down_tr256.ops.0", 128, 128), ("down_tr256.ops.1", 256, 128),
    ("down_tr512.ops.0", 256, 256), ("down_tr512.ops.1", 512, 256),
    ("up_tr256.ops.0", 256, 768), ("up_tr256.ops.1", 256, 256),
    ("up_tr128.ops.0", 128, 384), ("up_tr128.ops.1", 128, 128),
    ("up_tr64.ops.0", 64, 192), ("up_tr64.ops.1", 64, 64),
)  # fmt: skip
UNET3D_UPS = (("up_tr256", 512), ("up_tr128", 256), ("up_tr64", 128))
UNET3D_HEAD = {"out_tr.final_conv.weight", "out_tr.final_conv.bias"}


def unet3d_shapes(part: int = 16) -> dict[str, tuple[int, ...]]:
    """Without the head; statistics of the batch norms are in it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, n_out, n_in in UNET3D_CONVS:
        n, m = n_out // part, n_in // part if n_in else 1
        shapes |= {f"{name}.conv1.weight": (n, m, 3, 3, 3), f"{name}.conv1.bias": (n,)}
        shapes |= {f"{name}.bn1.{x}": (n,)
                   for x in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        shapes[f"{name}.bn1.num_batches_tracked"] = ()
    for name, n in UNET3D_UPS:
        shapes[f"{name}.up_conv.weight"] = (n // part, n // part, 2, 2, 2)
        shapes[f"{name}.up_conv.bias"] = (n // part,)
    return shapes


def parameters(names) -> set[str]:
    return {n for n in names if not n.endswith(("running_mean", "running_var", "tracked",
                                                "relative_position_index"))}  # fmt: skip


def universal_heads(features: int, bottleneck: int) -> dict[str, tuple[int, ...]]:
    """Of SuPreM 76e1a64, backbone/Universal_model.py: what stands beside the backbone."""
    return {
        "precls_conv.0.weight": (features,), "precls_conv.0.bias": (features,),
        "precls_conv.2.weight": (8, features, 1, 1, 1), "precls_conv.2.bias": (8,),
        "GAP.0.weight": (bottleneck,), "GAP.0.bias": (bottleneck,),
        "GAP.3.weight": (256, bottleneck, 1, 1, 1), "GAP.3.bias": (256,),
        "controller.weight": (153, 512, 1, 1, 1), "controller.bias": (153,),
        "organ_embedding": (32, 512),
        "text_to_vision.weight": (256, 512), "text_to_vision.bias": (256,),
    }  # fmt: skip


def suprem(state: State) -> object:
    return {"net": state, "optimizer": {"state": {0: torch.zeros(3)}}, "scheduler": {},
            "epoch": 800}  # fmt: skip


def models_genesis() -> Made:
    shapes = unet3d_shapes() | {
        "out_tr.final_conv.weight": (1, 4, 1, 1, 1), "out_tr.final_conv.bias": (1,),
    }  # fmt: skip
    return Made(
        prefixed("module.", zeros(shapes)),
        lambda s: {"epoch": 1, "state_dict": s, "optimizer_state_dict": {"a": torch.zeros(2)}},
        parameters(shapes), "module.down_tr256.ops.0.conv1.weight",
    )  # fmt: skip


def universal_unet() -> Made:
    shapes = unet3d_shapes()
    state = prefixed("module.backbone.", zeros(shapes))
    state |= prefixed("module.", zeros(universal_heads(4, 32)))
    return Made(state, suprem, parameters(shapes), "module.backbone.down_tr256.ops.0.conv1.weight",
                frozenset(UNET3D_HEAD))  # fmt: skip


def unet3d_backbone() -> Made:
    shapes = unet3d_shapes()
    return Made(zeros(shapes), suprem, parameters(shapes), "down_tr256.ops.0.conv1.weight",
                frozenset(UNET3D_HEAD))  # fmt: skip


def monai_segresnet() -> torch.nn.Module:
    from monai.networks.nets import SegResNet

    with torch.device("meta"):
        return SegResNet(blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1], init_filters=8,
                         in_channels=1, out_channels=32, dropout_prob=0.0)  # fmt: skip


@cache
def monai_swin_unetr() -> torch.nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(
        in_channels=1, out_channels=5, feature_size=12, depths=(2, 1, 1, 1), window_size=5
    )


def segresnet() -> Made:
    network = monai_segresnet()
    return Made(prefixed("module.", state_of(network)), suprem, names_of(network),
                "module.down_layers.1.2.conv1.conv.weight")  # fmt: skip


SWIN_VICTIM = "swinViT.layers1.0.blocks.1.attn.qkv.weight"


def swin_unetr() -> Made:
    network = monai_swin_unetr()
    return Made(state_of(network), lambda s: s, names_of(network), SWIN_VICTIM)


def universal_swin_unetr() -> Made:
    network = monai_swin_unetr()
    state = {k: v for k, v in state_of(network).items() if not k.startswith("out.")}
    state = prefixed("module.backbone.", state)
    state |= prefixed("module.", zeros(universal_heads(12, 192)))
    names = names_of(network)
    head = {n for n in names if n.startswith("out.")}
    return Made(state, suprem, names - head, f"module.backbone.{SWIN_VICTIM}", frozenset(head))


def voco_swin_unetr() -> Made:
    """VoCo's self-supervised files: an encoder under older names, and two projections."""
    network = monai_swin_unetr()
    without = {n for n in names_of(network) if n.startswith(("out.", "decoder"))}
    state = {k: v for k, v in state_of(network).items() if not k.startswith(("out.", "decoder"))}
    state = {k.replace(".mlp.linear", ".mlp.fc").replace("swinViT", "swin_vit"): v
             for k, v in state.items()}  # fmt: skip
    state = prefixed("backbone.", state)
    for part in ("student", "teacher"):
        state |= zeros({f"{part}.layer1.0.weight": (4, 3), f"{part}.layer3.0.bias": (4,)})
    victim = "backbone." + SWIN_VICTIM.replace("swinViT", "swin_vit")
    return Made(state, lambda s: {"state_dict": s, "global_step": 3},
                names_of(network) - without, victim, frozenset(without))  # fmt: skip


# Format -> files of it.
FILES: dict[str, tuple[Callable[[], Made], ...]] = {
    "nnunet": tuple(lambda r=r, f=f: f(r) for r in (False, True) for f in (nnunet, nnunet_old)),
    "nnssl": (lambda: nnssl(False), lambda: nnssl(True)),
    "nnunet_weights": (lambda: voco_nnunet(False), lambda: voco_nnunet(True)),
    "stunet": (lambda: stunet(1), lambda: stunet(2)),
    "models_genesis": (models_genesis,),
    "universal_unet": (universal_unet,),
    "unet3d_backbone": (unet3d_backbone,),
    "segresnet": (segresnet,),
    "universal_swin_unetr": (universal_swin_unetr,),
    "voco_swin_unetr": (voco_swin_unetr,),
    "swin_unetr": (swin_unetr,),
}
