"""What nnU-Net asks of a network that is not its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.memory import feature_elements
from atlas_nnunet.networks.suite import all_halved

Strides = Sequence[Sequence[int]]


@dataclass
class Decoder:
    """Where nnU-Net's trainer switches deep supervision (nnUNetTrainer.py:938, nnunetv2 2.8.1).

    Attributes:
        deep_supervision: Whether the one output comes as a list.
    """

    deep_supervision: bool


class Planned(nn.Module):
    """A network that a plan can name.

    A subclass has `levels`, and sets these two once it is built.
    """

    decoder: Decoder
    input_channels: int

    def levels(self) -> list[nn.Module]:
        """Modules whose outputs are the encoder's feature maps, finest first."""
        raise NotImplementedError

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> float:
        """Memory of one patch (z, y, x), under the name and in the unit of nnU-Net's networks."""
        return feature_elements(self, self.input_channels, input_size)


class OneOutput(Planned):
    """A network without outputs at lower resolutions: with deep supervision on, a list of one.

    A subclass has `logits` and `levels`, and calls `settle` once it is built.
    """

    def settle(
        self, input_channels: int, strides: Strides, levels: int, deep_supervision: bool
    ) -> None:
        """Keep what nnU-Net will ask for.

        Raises:
            PlanError: the plan says other strides than the network has.
        """
        if strides and [list(stride) for stride in strides] != all_halved(levels):
            raise PlanError(
                f"{type(self).__name__} halves all axes {levels - 1} times, the plan says strides "
                f"{[list(stride) for stride in strides]}",
                where="architecture.arch_kwargs", do="plan again: atlas-nnunet plan DATASET",
            )  # fmt: skip
        self.input_channels = input_channels
        self.decoder = Decoder(deep_supervision)

    def logits(self, image: Tensor) -> Tensor:
        """(batch, channels, z, y, x) -> (batch, classes, z, y, x)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Any:
        """The logits; a list of them with deep supervision on."""
        found = self.logits(image)
        return [found] if self.decoder.deep_supervision else found
