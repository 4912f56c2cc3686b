"""How much a network holds for its backward pass, in the unit of nnU-Net's own estimate.

nnU-Net counts elements of feature maps, one for each that a convolution writes, and knows how many
fill a GB (`UNet_reference_val_3d`, default_experiment_planner.py, nnunetv2 2.8.1). Norms,
nonlinearities and concatenations are in its reference numbers, not in the count. Attention and
linear layers have no place in such a count, so ours asks torch: it runs the network without memory
and adds up what autograd keeps, each storage once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from atlas_nnunet.networks.shapes import follow, weightless, weightless_patch

FLOAT_BYTES = 4
# Elements that autograd keeps for each that nnU-Net counts, in nnU-Net's own PlainConvUNet
# of six stages (tests/test_networks_memory.py measures it again).
KEPT_PER_COUNTED = 1.97


def kept_for_backward(network: nn.Module, n_channels: int, patch_vox: Sequence[int]) -> float:
    """Elements (of four bytes) that one training pass of one patch keeps, beside the parameters.

    Nothing is computed: shapes alone are followed, on torch's meta device.
    """
    shapes, image = weightless(network), weightless_patch(n_channels, patch_vox)
    held = (*shapes.parameters(), *shapes.buffers(), image)
    given = {tensor.untyped_storage()._cdata for tensor in held}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = follow(shapes, image)
    del output
    return sum(storage.nbytes() for storage in kept.values()) / FLOAT_BYTES


def feature_elements(network: nn.Module, n_channels: int, patch_vox: Sequence[int]) -> float:
    """The same in the unit of nnU-Net's `compute_conv_feature_map_size`."""
    return kept_for_backward(network, n_channels, patch_vox) / KEPT_PER_COUNTED
