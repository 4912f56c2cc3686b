"""MONAI's Swin UNETR (1.5 and later), as a plan can name it, also as it was before 1.5.

Until 1.5 MONAI's patch merging took two of a voxel's eight neighbours twice and two never. Weights
trained then have learnt to read them so; in today's class they load by name and compute something
else. `merging` says which of the two a network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks import nets
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.output import OneOutput, Strides
from atlas_nnunet.networks.suite import BEFORE, SINCE

# Offsets (z, y, x) of what is merged, in the order of the features. Before: MONAI 1.3, and SuPreM
# 76e1a64's copy of it (backbone/swinunetr.py); neither (1, 1, 0) nor (0, 1, 1) is read. Since: as
# MONAI 1.6.1. Written out, for a plan is to mean the same under every release.
READ_FIRST = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
READ_LAST = {
    BEFORE: ((1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
    SINCE: ((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
}


class MergingBefore(PatchMerging):
    """As MONAI merged until 1.5."""

    offsets = READ_FIRST + READ_LAST[BEFORE]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, z, y, x, features) -> half of each axis, twice the features; axes are even."""
        read = [x[:, z::2, y::2, w::2] for z, y, w in self.offsets]
        return self.reduction(self.norm(torch.cat(read, -1)))


class MergingSince(MergingBefore):
    """As MONAI merges since."""

    offsets = READ_FIRST + READ_LAST[SINCE]


# MONAI calls it to make a level's merging; it says str | Module.
MERGING: dict[str, Any] = {BEFORE: MergingBefore, SINCE: MergingSince}


class _NumbersOnCPU(TorchFunctionMode):
    """MONAI reads its drop rates out of a tensor, which has none on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        own = {**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})}
        return func(*args, **own)


class SwinUNETR(OneOutput, nets.SwinUNETR):
    """Attention in shifted windows below a convolutional decoder, version 1.

    Args:
        input_channels: Of the image.
        num_classes: Of the head.
        feature_size: Features of the finest level, a multiple of 12.
        depths: Blocks of each level.
        num_heads: Of attention, of each level.
        window_size: In voxels of the feature map.
        patch_size: Voxels along an axis that become one token: 2.
        merging: A key of MERGING.
        strides: As a plan says them.
        deep_supervision: The output comes as a list.

    Raises:
        PlanError: no such merging.
    """

    def __init__(
        self, input_channels: int, num_classes: int, *, feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2), num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7, patch_size: int = 2, merging: str = BEFORE, strides: Strides = (),
        deep_supervision: bool = False,
    ) -> None:  # fmt: skip
        if merging not in MERGING:
            raise PlanError(f"merging {merging!r} is none of {sorted(MERGING)}",
                            where="architecture.arch_kwargs", do="mend the plan")  # fmt: skip
        with _NumbersOnCPU():
            nets.SwinUNETR.__init__(
                self, in_channels=input_channels, out_channels=num_classes,
                feature_size=feature_size, depths=tuple(depths), num_heads=tuple(num_heads),
                window_size=window_size, patch_size=patch_size, downsample=MERGING[merging],
            )  # fmt: skip
        self.settle(input_channels, strides, 6, deep_supervision)

    def levels(self) -> list[nn.Module]:
        skipped = [self.encoder1, self.encoder2, self.encoder3, self.encoder4]
        return [*skipped, self.swinViT.layers3[0], self.encoder10]

    def logits(self, image: Tensor) -> Tensor:
        return nets.SwinUNETR.forward(self, image)
