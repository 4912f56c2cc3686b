"""MONAI's SegResNet (1.5 and later), as a plan can name it: its own names, its own function."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor, nn

from atlas_nnunet.networks.output import OneOutput, Strides


class SegResNet(OneOutput, nets.SegResNet):
    """Residual blocks with group norm; up-sampling is linear and not trained.

    Args:
        input_channels: Of the image.
        num_classes: Of the head.
        init_filters: Features of the finest level.
        blocks_down: Blocks of each level of the encoder.
        blocks_up: Blocks of each level of the decoder.
        strides: As a plan says them.
        deep_supervision: The output comes as a list.
    """

    def __init__(
        self, input_channels: int, num_classes: int, *, init_filters: int = 16,
        blocks_down: Sequence[int] = (1, 2, 2, 4), blocks_up: Sequence[int] = (1, 1, 1),
        strides: Strides = (), deep_supervision: bool = False,
    ) -> None:  # fmt: skip
        nets.SegResNet.__init__(
            self, in_channels=input_channels, out_channels=num_classes, init_filters=init_filters,
            blocks_down=tuple(blocks_down), blocks_up=tuple(blocks_up),
        )  # fmt: skip
        self.settle(input_channels, strides, len(blocks_down), deep_supervision)

    def levels(self) -> list[nn.Module]:
        return list(self.down_layers)

    def logits(self, image: Tensor) -> Tensor:
        return nets.SegResNet.forward(self, image)
