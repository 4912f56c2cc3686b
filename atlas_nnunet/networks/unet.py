"""The 3-D U-Net of Models Genesis, SuPreM and the Universal Model.

Names and shapes are those of the published weights (transfer/sources/layouts.py). What no shape
tells was read from Models Genesis 104f487 (pytorch/unet3d.py) and SuPreM 76e1a64
(supervised_pretraining/backbone/unet.py): a unit is convolution, norm, ReLU; between levels the
maximum of 2^3 voxels; what comes from below stands before the skipped features; and norms take the
statistics of their batch at prediction too, so they keep none. Their last sigmoid is left to the
loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, relu

from atlas_nnunet.networks.output import OneOutput, Strides


class Unit(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(n_in, n_out, 3, padding=1)
        self.bn1 = nn.BatchNorm3d(n_out, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn1(self.conv1(x)))


class Down(nn.Module):
    """Two units; the second doubles the features."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(Unit(n_in, n_out // 2), Unit(n_out // 2, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class Up(nn.Module):
    """Up-convolution of what lies below, then two units on it and the skipped features."""

    def __init__(self, n_below: int, n_out: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(n_below, n_below, 2, stride=2)
        self.ops = nn.Sequential(Unit(n_below + n_out, n_out), Unit(n_out, n_out))

    def forward(self, below: Tensor, skipped: Tensor) -> Tensor:
        return self.ops(torch.cat([self.up_conv(below), skipped], 1))


class Head(nn.Module):
    """Features to logits."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.final_conv = nn.Conv3d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_conv(x)


class UNet3D(OneOutput):
    """Four levels of 2, 4, 8 and 16 times `width` features.

    Args:
        input_channels: Of the image.
        num_classes: Of the head.
        width: Features of the first convolution; published with 32, whence the names.
        strides: As a plan says them.
        deep_supervision: The output comes as a list.
    """

    def __init__(
        self, input_channels: int, num_classes: int, *, width: int = 32, strides: Strides = (),
        deep_supervision: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        a, b, c, d = (2 * width * 2**level for level in range(4))
        self.down_tr64 = Down(input_channels, a)
        self.down_tr128 = Down(a, b)
        self.down_tr256 = Down(b, c)
        self.down_tr512 = Down(c, d)
        self.up_tr256 = Up(d, c)
        self.up_tr128 = Up(c, b)
        self.up_tr64 = Up(b, a)
        self.out_tr = Head(a, num_classes)
        self.settle(input_channels, strides, 4, deep_supervision)

    def levels(self) -> list[nn.Module]:
        return [self.down_tr64, self.down_tr128, self.down_tr256, self.down_tr512]

    def logits(self, image: Tensor) -> Tensor:
        one = self.down_tr64(image)
        two = self.down_tr128(max_pool3d(one, 2))
        three = self.down_tr256(max_pool3d(two, 2))
        x = self.down_tr512(max_pool3d(three, 2))
        x = self.up_tr256(x, three)
        x = self.up_tr128(x, two)
        return self.out_tr(self.up_tr64(x, one))
