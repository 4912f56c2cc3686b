"""STU-Net, as a plan can name it.

Names and shapes are those of the published weights (transfer/sources/layouts.py). What no shape
tells was read from STU-Net 0652eaf (nnUNet-2.2, STUNetTrainer.py): instance norm and leaky ReLU;
a block adds its input, by a convolution of 1 where it changes width or resolution, before its last
nonlinearity; up-sampling repeats voxels, then a convolution of 1; and what comes from below stands
before the skipped features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.output import Decoder, Planned, Strides
from atlas_nnunet.networks.suite import all_halved


class Block(nn.Module):
    """Two convolutions with norms, and a shortcut; the first block of a stage is `widened`."""

    def __init__(self, n_in: int, n_out: int, stride: Sequence[int], *, widened: bool) -> None:
        super().__init__()
        z, y, x = stride
        self.conv1 = nn.Conv3d(n_in, n_out, 3, (z, y, x), padding=1)
        self.norm1 = nn.InstanceNorm3d(n_out, affine=True)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1)
        self.norm2 = nn.InstanceNorm3d(n_out, affine=True)
        self.conv3 = nn.Conv3d(n_in, n_out, 1, (z, y, x)) if widened else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.norm1(self.conv1(x)), inplace=True)
        return leaky_relu(self.norm2(self.conv2(y)) + self.conv3(x), inplace=True)


def stage(n_in: int, n_out: int, blocks: int, stride: Sequence[int] = (1, 1, 1)) -> nn.Sequential:
    further = [Block(n_out, n_out, (1, 1, 1), widened=False) for _ in range(blocks - 1)]
    return nn.Sequential(Block(n_in, n_out, stride, widened=True), *further)


class Repeat(nn.Module):
    """Every voxel repeated along the axes that were halved, then a convolution of 1."""

    def __init__(self, n_in: int, n_out: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n_in, n_out, 1)
        self.factors = [float(step) for step in stride]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=self.factors, mode="nearest"))


class STUNet(Planned):
    """A residual U-Net, no weight of which depends on a stride.

    Args:
        input_channels: Of the image.
        num_classes: Of the heads.
        dims: Features of each level, finest first.
        depth: Blocks of each level, in the encoder and in the decoder.
        strides: Of each level, as a plan says them; all axes are halved where it says none.
        deep_supervision: The outputs of all levels but the coarsest, finest first.

    Raises:
        PlanError: strides or blocks of another number of levels.
    """

    def __init__(
        self, input_channels: int, num_classes: int, *,
        dims: Sequence[int] = (32, 64, 128, 256, 512, 512), depth: Sequence[int] = (1,) * 6,
        strides: Strides = (), deep_supervision: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        steps = strides or all_halved(len(dims))
        if not len(dims) == len(depth) == len(steps) or list(steps[0]) != [1] * 3:
            raise PlanError(
                f"an STU-Net of {len(dims)} levels cannot have blocks {list(depth)} and strides "
                f"{[list(step) for step in steps]}",
                where="architecture.arch_kwargs", do="plan again: atlas-nnunet plan DATASET",
            )  # fmt: skip
        levels = zip(pairwise([input_channels, *dims]), depth, steps, strict=True)
        self.conv_blocks_context = nn.ModuleList(
            stage(n_in, n_out, blocks, step) for (n_in, n_out), blocks, step in levels
        )
        upwards = list(zip(pairwise(dims), depth[:-1], steps[1:], strict=True))[::-1]
        self.upsample_layers = nn.ModuleList(
            Repeat(below, n, step) for (n, below), _, step in upwards
        )
        self.conv_blocks_localization = nn.ModuleList(
            stage(2 * n, n, blocks) for (n, _), blocks, _ in upwards
        )
        self.seg_outputs = nn.ModuleList(nn.Conv3d(n, num_classes, 1) for (n, _), _, _ in upwards)
        self.input_channels = input_channels
        self.decoder = Decoder(deep_supervision)

    def levels(self) -> list[nn.Module]:
        return list(self.conv_blocks_context)

    def forward(self, image: Tensor) -> Any:
        """Logits (batch, classes, z, y, x); with deep supervision on, a list, finest first."""
        skipped: list[Tensor] = []
        x = image
        for level in self.conv_blocks_context:
            x = level(x)
            skipped.append(x)
        decoded = []
        ups, stages = self.upsample_layers, self.conv_blocks_localization
        for up, blocks, features in zip(ups, stages, skipped[-2::-1], strict=True):
            x = blocks(torch.cat([up(x), features], 1))
            decoded.append(x)
        heads = list(zip(self.seg_outputs, decoded, strict=True))[::-1]
        if not self.decoder.deep_supervision:
            heads = heads[:1]
        found = [head(features) for head, features in heads]
        return found if self.decoder.deep_supervision else found[0]
