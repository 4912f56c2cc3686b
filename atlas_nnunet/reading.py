"""Images and label maps as nnU-Net's reader classes hand them out, in less time and memory.

NIfTI for the readers in TURNED is streamed by us, piece by piece: the same numbers, header words
and order in memory (sums depend on it) as the stock class gives (imageio/nibabel_reader_writer.py
and simpleitk_reader_writer.py, nnunetv2 2.8.1; nibabel's and ITK's own functions decide on header,
scaling and orientation). Every other reader and format goes through the stock class. Inside
nnU-Net arrays are (channel, z, y, x).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import OrientationError

from atlas_nnunet.errors import LabelMapError, SourceError
from atlas_nnunet.images import check_finite
from atlas_nnunet.itkheader import itk_header, itk_properties, same_grid
from atlas_nnunet.nifti import PIECE_BYTES, UNREADABLE, ErrorKinds, check_whole, unreadable
from atlas_nnunet.reoriented import Volume, volume_of

Properties = dict[str, Any]

ITK = "SimpleITKIO"
# Readers of NIfTI, and whether axes are brought to RAS.
TURNED = {"NibabelIO": False, "NibabelIOWithReorient": True, ITK: False}
STREAMED = (nib.Nifti1Image, nib.Nifti2Image)
# What stock's readers raise of input they do not take: asserts, and RuntimeErrors without words.
REFUSALS: ErrorKinds = (AssertionError, RuntimeError, OrientationError, *UNREADABLE)


def read_images(reader: str, files: Sequence[Path]) -> tuple[np.ndarray, Properties]:
    """A case's images, as `read_images` of nnU-Net's reader class.

    Args:
        reader: Name of the class.
        files: One a channel.

    Returns:
        (channel, z, y, x) float32, and the class's properties (spacing, affines).

    Raises:
        SourceError: a file is missing, broken or not 3-D, channels differ in shape or spacing, or
            a voxel is NaN or infinite, which no statistics survive (ITK reads 0 in a NIfTI).
    """
    found = _headers(reader, files)
    if found is None:
        images, properties = _stock(reader, files)
        check_finite(images, _names(files))
        return images, properties
    volumes, properties = found
    storage = np.empty((len(volumes), *volumes[0].proxy.shape[::-1]), np.float32)
    for channel, volume in zip(storage, volumes, strict=True):
        inlet = volume.inlet(channel)
        for planes, values in _slabs(reader, volume):
            with np.errstate(over="ignore"):  # of a float64: then it is infinite, and refused
                inlet[planes] = values
            if values.dtype.kind == "f":
                check_finite(inlet[planes], str(volume.path))
    return volumes[0].handed_out(storage), properties


def read_labels(reader: str, file: Path) -> tuple[np.ndarray, Properties]:
    """A label map, as `read_seg` of nnU-Net's reader class, but integers.

    Returns:
        (1, z, y, x) int16, or int32 where values do not fit; equal to stock's float32 in value.

    Raises:
        SourceError: the file is missing, broken or not 3-D.
        LabelMapError: a value is no integer, which nnU-Net would cut to another label.
    """
    found = _headers(reader, [file])
    if found is None:
        labels, properties = _stock(reader, [file])
        return _whole(labels, file), properties
    (volume,), properties = found
    storage = np.empty((1, *volume.proxy.shape[::-1]), np.int16)
    for planes, values in _slabs(reader, volume):
        whole = _whole(values, file)
        if whole.dtype.itemsize > storage.dtype.itemsize:
            storage = storage.astype(whole.dtype)
        volume.inlet(storage[0])[planes] = whole
    return volume.handed_out(storage), properties


def _slabs(reader: str, volume: Volume) -> Iterator[tuple[slice, np.ndarray]]:
    """`Volume.slabs`; ITK's NIfTI library puts 0 for NaN and infinity."""
    for planes, values in volume.slabs():
        if reader == ITK and values.dtype.kind == "f":
            values[~np.isfinite(values)] = 0
        yield planes, values


@dataclass(frozen=True)
class Header:
    """What a header says, in the file's order of axes.

    Attributes:
        shape: Parts of a voxel last, where it has several.
        spacing_mm: Of the first three axes, or fewer.
        item_bytes: Of one part of a voxel.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    item_bytes: int

    @classmethod
    def of(cls, path: Path) -> Header:
        """Without reading a voxel.

        Raises:
            SourceError: the file is missing or has no header that we know.
        """
        try:
            if path.name.endswith((".nii", ".nii.gz")):
                image: Any = nib.load(path)
                zooms = tuple(float(z) for z in image.header.get_zooms()[:3])
                shape = tuple(int(n) for n in image.shape)
                return cls(shape, zooms, image.get_data_dtype().itemsize)
            import SimpleITK as sitk

            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID())
        except REFUSALS as error:
            raise _refused(_last_line(error), [path]) from error
        parts = reader.GetNumberOfComponents()
        shape = (*reader.GetSize(), *([parts] if parts > 1 else []))
        return cls(shape, tuple(reader.GetSpacing()[:3]), one.GetSizeOfPixelComponent())


def peak_bytes(reader: str, files: Sequence[Path]) -> int:
    """The most memory that `read_images` takes, its result included; by headers alone.

    Raises:
        SourceError: a file is missing or has no header that we know.
    """
    header = Header.of(files[0])
    shape, item = header.shape, header.item_bytes
    voxels, channels = int(np.prod(shape)), len(files)
    found = _headers(reader, files)
    if found is not None:
        of_a_voxel = 2 * item + 7 + (24 if any(v.is_scaled for v in found[0]) else 0)
        piece = max(PIECE_BYTES // item, int(np.prod(shape[:2]))) * of_a_voxel
        return 4 * channels * voxels + piece
    if reader in TURNED and reader != ITK:
        item = 8  # nibabel's float64
    # Each channel as an array, one more as the reader's own image and while it is decoded.
    return (4 * channels + item * (channels + 2)) * voxels


def _headers(reader: str, files: Sequence[Path]) -> tuple[list[Volume], Properties] | None:
    """Headers of what we stream ourselves, and the reader's properties; None where the stock class
    is to read.

    Raises:
        SourceError: a file has no header, is not 3-D, or channels differ in shape or spacing.
    """
    if reader not in TURNED or not files:
        return None
    volumes, itk = [], []
    for path in files:
        if reader == ITK and not path.name.endswith((".nii", ".nii.gz")):
            return None
        try:
            image: Any = nib.load(path)
            if reader != ITK:
                _check_volume(image, path, reader)
            if not _is_plain(image):
                return None
            if reader == ITK and (header := itk_header(path, image)):
                itk.append(header)
            volumes.append(volume_of(path, image, to_ras=TURNED[reader]))
        except UNREADABLE as error:
            raise unreadable(error, str(path)) from error
    if reader == ITK:
        same_shape = len({v.proxy.shape for v in volumes}) == 1
        is_sure = len(itk) == len(volumes) and same_shape and same_grid(itk)
        return (volumes, itk_properties(itk[0])) if is_sure else None
    # Stock's order in memory follows the channels' orientation, where they have one.
    if not all((v.turn == volumes[0].turn).all() for v in volumes):
        return None
    return volumes, _properties(reader, volumes)


def _is_plain(image: Any) -> bool:
    """A 3-D volume of numbers in one file."""
    proxy = image.dataobj
    return (
        type(image) in STREAMED
        and isinstance(proxy, ArrayProxy)
        and len(image.shape) == 3
        and proxy.dtype.kind in "iuf"
        and proxy.dtype.itemsize <= 8
    )


def _check_volume(image: Any, path: Path, reader: str) -> None:
    if len(image.shape) != 3:
        raise SourceError(
            f"{len(image.shape)}-D, shape {image.shape}; {reader} takes 3-D volumes",
            where=str(path), do="split it into one file a channel or time point",
        )  # fmt: skip


def _properties(reader: str, volumes: Sequence[Volume]) -> Properties:
    """The dictionary of stock's class, by its own comparisons of the channels.

    Raises:
        SourceError: channels differ in shape or spacing.
    """
    first, files = volumes[0], [v.path for v in volumes]
    for what, of in _COMPARED.items():
        values = [of(v) for v in volumes]
        if not all(np.shape(v) == np.shape(values[0]) for v in values) or not all(
            np.allclose(values[0], v) for v in values
        ):
            raise _refused(f"channels differ in {what}: {values}", files)
    if not all(np.allclose(first.affine_out, v.affine_out) for v in volumes):
        print(f"note: channels with different affines, read as one grid: {_names(files)}")
    header = {"original_affine": first.affine}
    if TURNED[reader]:
        header["reoriented_affine"] = first.affine_out
    return {"nibabel_stuff": header, "spacing": first.spacing_mm}


_COMPARED: dict[str, Callable[[Volume], Any]] = {
    "shape": lambda v: v.shape_out, "spacing": lambda v: v.spacing_mm,
}  # fmt: skip


def _whole(values: np.ndarray, file: Path) -> np.ndarray:
    """Values as int16, or as int32 where they do not fit."""
    if np.can_cast(values.dtype, np.int16):
        return values.astype(np.int16, copy=False)
    read = values.astype(np.float32, copy=False)  # as stock
    with np.errstate(invalid="ignore"):
        short = read.astype(np.int16)
        if (short == read).all():
            return short
        whole = read.astype(np.int32)
    off = whole != read
    if off.any():
        value = float(read[off].flat[0])
        cut = f"nnU-Net would cut it to {int(value)}: " if np.isfinite(value) else ""
        raise LabelMapError(
            f"{value:.9g} is not a label", where=str(file),
            do=f"{cut}round the label map to integers, or take it through atlas-nnunet convert",
        )  # fmt: skip
    return whole


def _stock(reader: str, files: Sequence[Path]) -> tuple[np.ndarray, Properties]:
    """Through nnU-Net's own class.

    Raises:
        SourceError: in its words, which it prints where it raises without any.
    """
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    kind = recursive_find_reader_writer_by_name(reader)
    for path in files:
        check_whole(path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            images, properties = kind().read_images([str(path) for path in files])
    except REFUSALS as error:
        words = _last_line(error) or " ".join(printed.getvalue().split())
        raise _refused(f"{reader} does not take it: {words}", files) from error
    print(printed.getvalue(), end="")
    return images, properties


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _refused(what: str, files: Sequence[Path]) -> SourceError:
    return SourceError(what, where=_names(files), do="mend the files, or leave the case out")
