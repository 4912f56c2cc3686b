"""Kernels of another size or number of axes, and other numbers of input channels.

Layouts: convolution (out, in, *kernel), up-convolution (in, out, *kernel) with stride = kernel, as
in nnU-Net (unet_decoder.py, dynamic_network_architectures 0.4.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

# nnU-Net's 2-D configuration works in the planes of the last two axes: axis 2 of a weight, the
# first of its kernel, is the one across slices (default_experiment_planner.py, nnunetv2 2.8.1).
ACROSS_SLICES = 2


def refit_conv(weight: Tensor, axis: int, want: int) -> Tensor:
    """A convolution's kernel along one axis: taps keep their distance from the middle one.

    Tap i of k looks i - (k-1)//2 voxels away (padding is (k-1)//2: simple_conv_blocks.py). Growing
    adds zeros outside: the answer is the same everywhere, since the padding grows with the kernel.
    Shrinking adds the taps that fall outside to the nearest that stays: the sum is kept, so the
    answer is the same where the input is constant along the axis, off the border.
    """
    have = weight.shape[axis]
    moved = torch.arange(have) - (have - 1) // 2 + (want - 1) // 2
    out = weight.new_zeros([*weight.shape[:axis], want, *weight.shape[axis + 1 :]])
    return out.index_add(axis, moved.clamp(0, want - 1).to(weight.device), weight)


def refit_upconv(weight: Tensor, axis: int, want: int) -> Tensor:
    """An up-convolution's kernel along one axis, when its stride changes with it.

    Each output voxel sees one tap; tap j of m covers the part [j/m, (j+1)/m] of what was one voxel
    below. It becomes the mean of the old taps over that part: 1 -> k repeats, k -> 1 averages. So
    the mean of what comes from one voxel is kept.
    """
    have = weight.shape[axis]
    new, old = torch.arange(want)[:, None], torch.arange(have)
    top = torch.minimum((new + 1) * have, (old + 1) * want)
    overlap = (top - torch.maximum(new * have, old * want)).clamp(min=0) / have
    part = overlap.to(weight)
    return torch.tensordot(weight, part, dims=([axis], [1])).movedim(-1, axis)


def refit_axes(weight: Tensor, ndim: int, *, upsampling: bool) -> Tensor:
    """3-D -> 2-D or 2-D -> 3-D: the axis across slices goes, or comes with one tap.

    A convolution's taps across slices are added, an up-convolution's are averaged.
    """
    if weight.ndim < ndim:
        return weight.unsqueeze(ACROSS_SLICES)
    return weight.mean(ACROSS_SLICES) if upsampling else weight.sum(ACROSS_SLICES)


def refit_images(weight: Tensor, want: int) -> Tensor:
    """The first convolution for another number of image channels n -> m: their sum, an m-th each.

    Alike where all channels are equal.
    """
    return weight.sum(1, keepdim=True).expand(-1, want, *weight.shape[2:]) / want
