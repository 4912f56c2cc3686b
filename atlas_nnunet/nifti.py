"""Read and write NIfTI piece by piece, so that no volume need be held that nobody asked for.

Decompression is ISA-L's (package isal), the fastest reader we found that is well kept: see
docs/decisions/0009-conversion.md.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from atlas_nnunet.errors import GeometryError, SourceError
from atlas_nnunet.geometry import Grid

GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 4 << 20  # fits a core's cache, and hides what a call costs
ErrorKinds = tuple[type[Exception], ...]


def _gzip_errors() -> ErrorKinds:
    """nibabel reads gzip through indexed_gzip where that is installed, and it has its own."""
    if find_spec("indexed_gzip") is None:
        return ()
    from indexed_gzip import ZranError

    return (ZranError,)


# What nibabel says of files that are no NIfTI, or broken ones.
NO_IMAGE: ErrorKinds = (ImageFileError, HeaderDataError, WrapStructError, *_gzip_errors())
ISAL: ErrorKinds = (IsalError,)  # type: ignore[assignment]
UNREADABLE: ErrorKinds = (EOFError, OSError, ValueError, *ISAL, *NO_IMAGE)


class Nifti:
    """One NIfTI-1 volume in a stream, read from front to end once.

    Args:
        stream: At its first byte; content decides whether it is gzip.
        where: For messages.

    Attributes:
        shape: As the header says, trailing axes of length 1 beyond the third dropped.
        affine: (4, 4) float64, voxel indices -> RAS mm.
        dtype: Of the stored values.
        slope, intercept: value = stored * slope + intercept; 1 and 0 where the header has none.

    Raises:
        SourceError: empty, or no NIfTI-1.
        GeometryError: its sform and qform disagree, or its affine has no spacing.
    """

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.where = where
        try:
            self._stream = unpacked(stream)
            header = nib.Nifti1Header.from_fileobj(self._stream)
            slope, intercept = header.get_slope_inter()
            self._stream.seek(int(header.get_data_offset()))
        except UNREADABLE as error:
            raise unreadable(error, where) from error
        shape = tuple(int(n) for n in header.get_data_shape())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        self.shape = shape
        self.dtype = header.get_data_dtype()
        self.slope = 1.0 if slope is None else float(slope)
        self.intercept = 0.0 if intercept is None else float(intercept)
        if self.dtype.kind not in "iuf":
            raise SourceError(f"voxels are {self.dtype}, not numbers", where=where,
                              do="export the volume with one number a voxel")  # fmt: skip
        _check_forms(header, shape, where)
        self.affine = np.asarray(header.get_best_affine(), np.float64)

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def grid(self) -> Grid:
        """Where a 3-D volume lies.

        Raises:
            SourceError: it is not 3-D.
            GeometryError: the affine has no spacing.
        """
        if len(self.shape) != 3:
            raise SourceError(
                f"{len(self.shape)}-D, shape {self.shape}; a 3-D volume is needed",
                where=self.where, do="split it into one file a channel or time point",
            )  # fmt: skip
        return grid_of(self.shape, self.affine, self.where)

    def pieces(self) -> Iterator[np.ndarray]:
        """Stored values in file order (first axis fastest), 1-D, PIECE_BYTES at a time.

        Raises:
            SourceError: the file ends early, or its checksum is wrong.
        """
        step = PIECE_BYTES // self.dtype.itemsize
        count = int(np.prod(self.shape))
        yield from stored_values(self._stream, self.dtype, count, step, self.where)

    def scaled(self, stored: np.ndarray) -> np.ndarray:
        """Values as the header means them; the same array where it says nothing."""
        return stored * self.slope + self.intercept if self.is_scaled else stored

    def array(self) -> np.ndarray:
        """The whole volume as the header means it, in the header's shape."""
        stored = np.concatenate([np.empty(0, self.dtype), *self.pieces()])
        return self.scaled(stored).reshape(self.shape, order="F")


def grid_of(shape: tuple[int, ...], affine: np.ndarray, where: str) -> Grid:
    """A grid with a spacing above zero on each axis.

    Raises:
        GeometryError: it has none.
    """
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    if not np.isfinite(affine).all() or (grid.spacing_mm <= 0).any():
        raise GeometryError("the affine has no valid spacing", where=where,
                            do="mend the header, or leave the case out")  # fmt: skip
    return grid


def unpacked(stream: BinaryIO) -> Any:
    """The same stream, or what is in it where it is gzip; at its first byte.

    Raises:
        EOFError: it is empty.
    """
    magic = stream.read(2)
    if not magic:
        raise EOFError("the file is empty")
    stream.seek(0)
    return igzip.IGzipFile(fileobj=stream) if magic == GZIP_MAGIC else stream


def stored_values(
    stream: Any, dtype: np.dtype, count: int, step: int, where: str
) -> Iterator[np.ndarray]:
    """The next `count` values of a stream, 1-D, `step` at a time.

    Raises:
        SourceError: it ends early, or its checksum is wrong.
    """
    try:
        for first in range(0, count, step):
            data = _read_all(stream, min(step, count - first) * dtype.itemsize)
            yield np.frombuffer(data, dtype)
        while stream.read(PIECE_BYTES):  # to the end, where gzip keeps its checksum
            pass
    except UNREADABLE as error:
        raise unreadable(error, where) from error


def unreadable(error: Exception, where: str) -> SourceError:
    return SourceError(
        f"cannot be read as NIfTI: {error}", where=where, do="fetch the file again"
    )  # fmt: skip


def _read_all(stream: Any, size: int) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        got = stream.readinto(view[filled:])
        if not got:
            raise EOFError(f"the file ends {size - filled} bytes or more too early")
        filled += got
    return data


def _check_forms(header: nib.Nifti1Header, shape: tuple[int, ...], where: str) -> None:
    """Two transforms in one header must agree: tools differ in which one they believe."""
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = header.get_qform(coded=True)
    if not (s_code and q_code):
        return
    last = [n - 1 for n in shape[:3]]
    corner = np.array([[0] * len(last) + [1], [*last, 1]]).T
    apart_mm = float(np.abs((sform - qform)[:, [*range(len(last)), 3]] @ corner).max())
    if apart_mm > 0.5:
        raise GeometryError(
            f"sform and qform place the volume {apart_mm:.2f} mm apart", where=where,
            do="set both to the one that is right (nibabel: set_sform, set_qform)",
        )  # fmt: skip


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI with no name and no time in it, so that equal content is equal bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)
