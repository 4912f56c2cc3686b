"""Follow the shapes of a network without computing or holding anything, on torch's meta device."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weightless(network: nn.Module) -> nn.Module:
    """A copy of shapes alone; the network stays as it is.

    Not torch's functional_call: a layer that is registered under two names, as nnU-Net's are, would
    keep the parameters that were meant for the call (torch 2.15).
    """
    return copy.deepcopy(network).to("meta")


def weightless_patch(n_channels: int, patch_vox: Sequence[int]) -> Tensor:
    """(1, channels, *patch) without content."""
    return torch.empty(1, n_channels, *patch_vox, device="meta")


def follow(shapes: nn.Module, image: Tensor) -> object:
    """What a weightless network makes of a weightless image."""
    with torch.device("meta"):
        return shapes(image)


def outgrown(
    network: nn.Module, n_channels: int, patch_vox: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Convolutions whose kernel is longer than the feature map it reads, along any axis.

    Args:
        network: Any; transposed convolutions and linear layers are not looked at.
        n_channels: Of the image.
        patch_vox: As the configuration says.

    Returns:
        Name of the convolution -> edges of that feature map in voxels.
    """
    found: dict[str, tuple[int, ...]] = {}

    def looked_at(name: str, kernel_vox: Sequence[int], image: Tensor) -> None:
        edges = tuple(image.shape[2:])
        if any(k > edge for k, edge in zip(kernel_vox, edges, strict=True)):
            found[name] = edges

    shapes = weightless(network)
    for name, part in shapes.named_modules():
        if isinstance(part, CONVOLUTIONS):
            part.register_forward_pre_hook(
                lambda layer, given, name=name: looked_at(name, layer.kernel_size, given[0])
            )
    with torch.no_grad():
        follow(shapes, weightless_patch(n_channels, patch_vox))
    return found
