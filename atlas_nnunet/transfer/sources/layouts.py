"""Names and shapes of the parameters of networks that are not nnU-Net's U-Nets.

Each function answers, for a network's arguments, what its `named_parameters()` are, so that a file
can be held to it without the package that defines the network. Sources of the names: MONAI 1.6.1
(SegResNet, SwinUNETR; held to its classes by tests), Models Genesis 12f7feb (UNet3D) and STU-Net
0652eaf (STUNet): class definitions, read; no released weights were opened. All are
atlas_nnunet.networks too, whose names are held to these by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from atlas_nnunet.networks.suite import NETWORKS

Shapes = dict[str, tuple[int, ...]]

UNET3D, SEGRESNET, SWIN_UNETR, STUNET = (
    NETWORKS[name].class_name for name in ("unet", "segresnet", "swinunetr", "stunet")
)


def _conv(name: str, n_out: int, n_in: int, size: int | Sequence[int], *, bias: bool) -> Shapes:
    kernel = (size,) * 3 if isinstance(size, int) else tuple(size)
    return {f"{name}.weight": (n_out, n_in, *kernel)} | ({f"{name}.bias": (n_out,)} if bias else {})


def _pair(name: str, n: int) -> Shapes:
    """Scale and shift of a normalisation."""
    return {f"{name}.weight": (n,), f"{name}.bias": (n,)}


def unet3d(n_in: int, n_out: int, *, width: int = 32) -> Shapes:
    """The 3D U-Net of Models Genesis, which is SuPreM's and the Universal Model's U-Net too."""

    def double(name: str, *channels: int) -> Shapes:
        shapes: Shapes = {}
        for i, (a, b) in enumerate(pairwise(channels)):
            shapes |= _conv(f"{name}.ops.{i}.conv1", b, a, 3, bias=True)
            shapes |= _pair(f"{name}.ops.{i}.bn1", b)
        return shapes

    levels = [2 * width * 2**i for i in range(4)]
    names = (64, 128, 256, 512)  # in the names whatever the width is
    shapes: Shapes = {}
    for i, level in enumerate(levels):
        before = levels[i - 1] if i else n_in
        shapes |= double(f"down_tr{names[i]}", before, level // 2, level)
    for i in (2, 1, 0):
        name, below = f"up_tr{names[i]}", levels[i + 1]
        shapes |= _conv(f"{name}.up_conv", below, below, 2, bias=True)
        shapes |= double(name, below + levels[i], levels[i], levels[i])
    return shapes | _conv("out_tr.final_conv", n_out, levels[0], 1, bias=True)


def segresnet(
    n_in: int, n_out: int, *, init_filters: int, blocks_down: Sequence[int],
    blocks_up: Sequence[int],
) -> Shapes:  # fmt: skip
    """MONAI's SegResNet with its defaults otherwise (group norm, no trained up-sampling)."""

    def block(name: str, n: int) -> Shapes:
        shapes = _pair(f"{name}.norm1", n) | _pair(f"{name}.norm2", n)
        for i in (1, 2):
            shapes |= _conv(f"{name}.conv{i}.conv", n, n, 3, bias=False)
        return shapes

    shapes = _conv("convInit.conv", init_filters, n_in, 3, bias=False)
    for i, blocks in enumerate(blocks_down):
        n = init_filters * 2**i
        if i:
            shapes |= _conv(f"down_layers.{i}.0.conv", n, n // 2, 3, bias=False)
        for j in range(blocks):
            shapes |= block(f"down_layers.{i}.{j + 1}", n)
    for i, blocks in enumerate(blocks_up):
        n = init_filters * 2 ** (len(blocks_up) - 1 - i)
        for j in range(blocks):
            shapes |= block(f"up_layers.{i}.{j}", n)
        shapes |= _conv(f"up_samples.{i}.0.conv", n, 2 * n, 1, bias=False)
    shapes |= _pair("conv_final.0", init_filters)
    return shapes | _conv("conv_final.2.conv", n_out, init_filters, 1, bias=True)


def _swin_block(name: str, n: int, heads: int, window: int) -> Shapes:
    shapes = _pair(f"{name}.norm1", n) | _pair(f"{name}.norm2", n)
    shapes[f"{name}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 3, heads)
    sizes = {"attn.qkv": (3 * n, n), "attn.proj": (n, n), "mlp.linear1": (4 * n, n),
             "mlp.linear2": (n, 4 * n)}  # fmt: skip
    for part, (n_out, n_in) in sizes.items():
        shapes |= _conv(f"{name}.{part}", n_out, n_in, (), bias=True)
    return shapes


def swin_unetr(
    n_in: int, n_out: int, *, feature_size: int, depths: Sequence[int], num_heads: Sequence[int],
    window_size: int = 7, patch_size: int = 2,
) -> Shapes:  # fmt: skip
    """MONAI's SwinUNETR, version 1, in 3D."""
    f = feature_size
    shapes = _conv("swinViT.patch_embed.proj", f, n_in, patch_size, bias=True)
    for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        n, name = f * 2**i, f"swinViT.layers{i + 1}.0"
        for j in range(depth):
            shapes |= _swin_block(f"{name}.blocks.{j}", n, heads, window_size)
        shapes |= _conv(f"{name}.downsample.reduction", 2 * n, 8 * n, (), bias=False)
        shapes |= _pair(f"{name}.downsample.norm", 8 * n)

    def residual(name: str, a: int, b: int) -> Shapes:
        own = _conv(f"{name}.conv1.conv", b, a, 3, bias=False)
        own |= _conv(f"{name}.conv2.conv", b, b, 3, bias=False)
        return own | (_conv(f"{name}.conv3.conv", b, a, 1, bias=False) if a != b else {})

    for number, a, b in ((1, n_in, f), (2, f, f), (3, 2 * f, 2 * f), (4, 4 * f, 4 * f),
                         (10, 16 * f, 16 * f)):  # fmt: skip
        shapes |= residual(f"encoder{number}.layer", a, b)
    for number, a, b in ((5, 16 * f, 8 * f), (4, 8 * f, 4 * f), (3, 4 * f, 2 * f), (2, 2 * f, f),
                         (1, f, f)):  # fmt: skip
        shapes |= _conv(f"decoder{number}.transp_conv.conv", a, b, 2, bias=False)
        shapes |= residual(f"decoder{number}.conv_block", 2 * b, b)
    return shapes | _conv("out.conv.conv", n_out, f, 1, bias=True)


def stunet(n_in: int, n_out: int, *, dims: Sequence[int], depth: Sequence[int]) -> Shapes:
    """STU-Net: residual blocks, and up-sampling by nearest neighbour, so that no shape depends on
    a stride."""

    def stage(name: str, a: int, b: int, blocks: int) -> Shapes:
        shapes: Shapes = {}
        for j in range(blocks):
            own = f"{name}.{j}"
            shapes |= _conv(f"{own}.conv1", b, b if j else a, 3, bias=True)
            shapes |= _conv(f"{own}.conv2", b, b, 3, bias=True)
            shapes |= _pair(f"{own}.norm1", b) | _pair(f"{own}.norm2", b)
            if not j:
                shapes |= _conv(f"{own}.conv3", b, a, 1, bias=True)
        return shapes

    shapes: Shapes = {}
    for i, (n, blocks) in enumerate(zip(dims, depth, strict=True)):
        shapes |= stage(f"conv_blocks_context.{i}", dims[i - 1] if i else n_in, n, blocks)
    for u in range(len(dims) - 1):
        below, n = dims[-1 - u], dims[-2 - u]
        shapes |= _conv(f"upsample_layers.{u}.conv", n, below, 1, bias=True)
        shapes |= stage(f"conv_blocks_localization.{u}", 2 * n, n, depth[-2 - u])
        shapes |= _conv(f"seg_outputs.{u}", n_out, n, 1, bias=True)
    return shapes


# Class name -> (input channels, output channels, **arch_kwargs) -> shapes.
LAYOUTS: Mapping[str, Callable[..., Shapes]] = {
    UNET3D: unet3d, SEGRESNET: segresnet, SWIN_UNETR: swin_unetr, STUNET: stunet,
}  # fmt: skip


# Arguments that no shape depends on.
SHAPELESS = {"strides", "merging"}


def layout(class_name: str, n_in: int, n_out: int, arch_kwargs: Mapping[str, Any]) -> Shapes:
    shaping = {name: value for name, value in arch_kwargs.items() if name not in SHAPELESS}
    return LAYOUTS[class_name](n_in, n_out, **shaping)
