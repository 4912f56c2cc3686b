"""NumPy arrays and torch tensors alike: a kernel gives back what it was given."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
import torch

Array = TypeVar("Array", bound=np.ndarray | torch.Tensor)

# Unsigned types that torch cannot compare and look up, and where they fit.
WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64}


class NanError(ValueError):
    """A network's output is NaN somewhere: a diverged training, or an overflow in float16."""

    def __init__(self) -> None:
        super().__init__("the network's output holds NaN")


def as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor; a copy where torch has no such type, strides or byte order."""
    if isinstance(array, torch.Tensor):
        return array
    array = array.astype(WIDER.get(array.dtype, array.dtype.newbyteorder("=")), copy=False)
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def like(result: torch.Tensor, given: Array) -> Array:
    """A result in the kind and type of what was given."""
    if isinstance(given, torch.Tensor):
        return cast(Array, result)
    return cast(Array, result.numpy().astype(given.dtype, copy=False))


def rounded(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float64 in another float type, rounded once, as NumPy does.

    Torch takes float64 to float16 by way of float32 and so rounds twice. A float32 that was rounded
    to odd (Boldo & Melquiond 2008, IEEE Transactions on Computers 57:462) does not spoil that.
    """
    if dtype != torch.float16:
        return exact.to(dtype)
    single = exact.float()
    missed = exact - single.double()
    is_even = (single.view(torch.int32) & 1) == 0
    odd = torch.nextafter(
        single, torch.copysign(torch.full_like(single, torch.inf), missed.float())
    )
    return torch.where((missed != 0) & is_even, odd, single).to(dtype)
