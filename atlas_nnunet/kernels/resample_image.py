"""Images on another grid: nnU-Net's cubic spline, an order of magnitude faster.

nnU-Net 2.8.1 calls skimage's `resize`: a prefilter along each axis, then 64 taps a voxel. Both are
linear, and separable: along one axis the whole is a matrix, the same for every line. It is had by
resizing the unit vectors with skimage itself, so no spline is written down here. Its entries fall
off by 3.7 a voxel from the diagonal; what is below the rounding of the type that is worked in is
left out, and the band is applied in blocks, as products of small dense matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

from atlas_nnunet.kernels.arrays import Array, as_tensor, like
from atlas_nnunet.kernels.cells import Axis, separate_axis

ORDER = 3
NEGLIGIBLE = {torch.float32: 1e-9, torch.float64: 1e-18}  # beside a row's sum, which is 1
BLOCK = 32  # rows of the matrix applied at once; 16 to 128 were tried, it hardly matters


def resample_image(
    data: Array,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> Array:
    """nnU-Net's `resample_data_or_seg_to_shape` with is_seg=False, order=3, order_z=0,
    force_separate_z=None, to within 1e-5 of a channel's range.

    Args:
        data: (c, x, y, z) finite numbers, float32 or float64, and worked at as such: in float64 the
            result, rounded to float32, is stock's but for a last bit in about 10^8 voxels.
        new_shape: (x, y, z) to come to.
        current_spacing, new_spacing: (x, y, z) in mm; they decide only whether one axis is so
            coarse that it is resampled apart, by the nearest slice.

    Returns:
        (c, *new_shape) of the same dtype, within the range of the channel (of the slice, where
        slices are resampled apart); `data` itself where the shape is the same.

    Raises:
        TypeError: another type: rounding its result would not be stock's.
    """
    new = tuple(int(n) for n in new_shape)
    if tuple(data.shape[1:]) == new:
        return data
    image = as_tensor(data)
    if image.dtype not in NEGLIGIBLE:
        raise TypeError(f"float32 or float64, not {data.dtype}: images come here normalised")
    apart = separate_axis(current_spacing, new_spacing)
    out = torch.empty((len(image), *new), dtype=image.dtype, device=image.device)
    with _full_precision():
        for channel, target in zip(image, out, strict=True):
            if apart is None:
                _resize(channel, target)
            else:
                _resize_slices(channel.movedim(apart, 0), target.movedim(apart, 0))
    return like(out, data)


def _resize_slices(slices: torch.Tensor, out: torch.Tensor) -> None:
    """Each slice that is the nearest of some slice of `out`, resized in its plane."""
    axis = Axis.of(len(slices), len(out), is_apart=True, device=torch.device("cpu"))
    resized = out.new_empty(out.shape[1:])
    for number in torch.unique(axis.low).tolist():
        _resize(slices[number], resized)
        out[(axis.low == number).to(out.device)] = resized


def _resize(image: torch.Tensor, out: torch.Tensor) -> None:
    """Axes that shrink most come first: less is left to do for the others.

    Args:
        image: Any number of axes.
        out: As many, contiguous.
    """
    low, high = (float(x) for x in image.aminmax())
    middle = (low + high) / 2  # taken off, so that rounding errs by the range, not by the offset
    growth = {axis: n / image.shape[axis] for axis, n in enumerate(out.shape)}
    order = sorted((axis for axis in growth if growth[axis] != 1), key=lambda axis: growth[axis])
    if not order:
        out.copy_(image)
        return
    found, less = image, middle
    for axis in order:
        shape = [out.shape[a] if a == axis else n for a, n in enumerate(found.shape)]
        target = out if axis == order[-1] else found.new_empty(shape)
        _along(found, axis, target, less)
        found, less = target, 0.0
    out.add_(middle).clamp_(low, high)  # skimage clips to the input's range


def _along(image: torch.Tensor, axis: int, out: torch.Tensor, less: float) -> None:
    """Resize along one axis to the length it has in `out`, after `less` is taken off."""
    before, after = int(np.prod(image.shape[:axis])), int(np.prod(image.shape[axis + 1 :]))
    lines, target = image.reshape(before, -1, after), out.view(before, -1, after)
    for rows, columns, block in _blocks(
        image.shape[axis], out.shape[axis], NEGLIGIBLE[image.dtype]
    ):
        weights = torch.from_numpy(block).to(image)
        piece = lines[:, columns] - less
        if after == 1:  # the last axis: one product instead of one a line
            target[:, rows, 0] = piece[:, :, 0] @ weights.T
        else:
            torch.matmul(weights, piece, out=target[:, rows])


@lru_cache(maxsize=64)
def _blocks(n_in: int, n_out: int, negligible: float) -> list[tuple[slice, slice, np.ndarray]]:
    """The matrix of one axis, (n_out, n_in), as (rows, columns, entries) along its band."""
    from skimage.transform import resize

    columns = [
        resize(unit, (n_out,), ORDER, mode="edge", anti_aliasing=False, clip=False)
        for unit in np.eye(n_in)
    ]
    matrix = np.stack(columns, axis=1)
    matrix[np.abs(matrix) < negligible] = 0.0
    blocks = []
    for start in range(0, n_out, BLOCK):
        rows = slice(start, min(start + BLOCK, n_out))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        band = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((rows, band, np.ascontiguousarray(matrix[rows, band])))
    return blocks


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 on a GPU, whatever the training has asked for: it keeps 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
