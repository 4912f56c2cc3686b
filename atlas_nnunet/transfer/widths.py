"""Channel maps: how feature maps of one number start from those of another.

The map of a level depends on its two widths alone, so every parameter that writes or reads those
feature maps follows the same one: convolution, norm, skip path, up-convolution, concatenation.

Growing keeps the function (Net2WiderNet: Chen et al. 2016, arXiv 1511.05641, section 2.3): target
channel t is a copy of source channel t mod S, and whoever reads the copies reads shares of them
that add up to the old weight. Instance norm works channel by channel, so copies stay copies.
"""

from __future__ import annotations

import torch
from torch import Tensor


def copied_from(have: int, want: int) -> list[int]:
    """Source channel of each target channel: round and round; the first ones where fewer."""
    return [channel % have for channel in range(want)]


def share_of_copies(have: int, want: int, readers: int) -> Tensor:
    """(readers, want): which part of the old weight each reader puts on each copy.

    Parts of a source channel's n copies are 1/N, 2/N, ... n/N with N = n(n+1)/2, in another order
    from reader to reader. Equal parts would give copies equal gradients, and they would stay copies
    for ever (the paper adds noise for that; unequal parts keep the function).
    """
    copy = torch.arange(want) // have
    total = torch.tensor([want // have + (c % have < want % have) for c in range(want)])
    turned = (copy + torch.arange(readers)[:, None]) % total
    return (turned + 1) / (total * (total + 1) / 2)


def resize_outputs(weight: Tensor, axis: int, want: int) -> Tensor:
    """Write `want` channels along `axis`: copies, or the first ones."""
    have = weight.shape[axis]
    index = torch.tensor(copied_from(have, want), device=weight.device)
    return weight.index_select(axis, index)


def resize_inputs(weight: Tensor, axis: int, want: int, parts: int = 1) -> Tensor:
    """Read `want` channels along `axis`, 0 or 1; the other one of the two counts the readers.

    Args:
        weight: Of a convolution (axis 1), an up-convolution (axis 0) or a head (axis 1).
        axis: Of the channels read.
        want: Their number.
        parts: Feature maps that were concatenated; each has its own copies.
    """
    pieces = []
    for piece in weight.chunk(parts, axis):
        have, new = piece.shape[axis], want // parts
        grown = resize_outputs(piece, axis, new)
        if new > have:
            share = share_of_copies(have, new, weight.shape[1 - axis]).to(weight)
            share = share if axis == 1 else share.T
            grown = grown * share[(...,) + (None,) * (weight.ndim - 2)]
        pieces.append(grown)
    return torch.cat(pieces, axis)
