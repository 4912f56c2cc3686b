"""Read CTs and masks with their grids, and write NIfTI whose bytes depend on its content alone."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from atlas_nnunet.errors import GeometryError, LabelMapError, SourceError
from atlas_nnunet.geometry import Grid

GZIP_MAGIC = b"\x1f\x8b"
INTEGER_TOLERANCE = 0.01  # slope-scaled masks read 1.99996948 for 2; 0.4 is no label
NO_IMAGE = (ImageFileError, HeaderDataError, WrapStructError)  # what nibabel says of other files
UNREADABLE = (EOFError, OSError, zlib.error, ValueError, *NO_IMAGE)


@dataclass(frozen=True)
class Volume:
    """An array on its grid: (i, j, k) in file order."""

    array: np.ndarray
    grid: Grid


def read_nifti(path: Path) -> Volume:
    """A 3-D NIfTI, scaled as its header says; content decides whether it is gzip.

    Raises:
        SourceError: missing, empty, truncated, or no 3-D NIfTI.
        GeometryError: its sform and qform disagree.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise EOFError("the file is empty")
        if data[:2] == GZIP_MAGIC:
            data = gzip.decompress(data)
        image = nib.Nifti1Image.from_bytes(data)
        array = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise SourceError(
            f"cannot be read as NIfTI: {error}", where=str(path), do="fetch the file again"
        ) from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise SourceError(
            f"{array.ndim}-D, shape {array.shape}; a 3-D volume is needed", where=str(path),
            do="split it into one file a channel or time point",
        )  # fmt: skip
    _check_forms(image, path)
    shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
    grid = Grid(shape, np.asarray(image.affine, np.float64))
    if not np.isfinite(grid.affine).all() or (grid.spacing_mm <= 0).any():
        raise GeometryError("the affine has no valid spacing", where=str(path),
                            do="mend the header, or leave the case out")  # fmt: skip
    return Volume(array, grid)


def _check_forms(image: nib.Nifti1Image, path: Path) -> None:
    """Two transforms in one header must agree: tools differ in which one they believe."""
    sform, s_code = image.header.get_sform(coded=True)
    qform, q_code = image.header.get_qform(coded=True)
    if not (s_code and q_code):
        return
    last = [n - 1 for n in image.shape[:3]]
    corner = np.array([[0, 0, 0, 1], [*last, 1]]).T
    apart_mm = float(np.abs((sform - qform) @ corner).max())
    if apart_mm > 0.5:
        raise GeometryError(
            f"sform and qform place the volume {apart_mm:.2f} mm apart", where=str(path),
            do="set both to the one that is right (nibabel: set_sform, set_qform)",
        )  # fmt: skip


def read_dicom(folder: Path) -> Volume:
    """The one DICOM series of a folder, in Hounsfield units.

    Raises:
        SourceError: no series, several series, or slices that do not make a volume.
    """
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise SourceError(
            f"{len(series)} DICOM series: {list(series)}", where=str(folder),
            do="put one series into a folder of its own",
        )  # fmt: skip
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(names)
    warned = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise SourceError(
            f"DICOM series cannot be read: {error}", where=str(folder), do="fetch the series again"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warned)
    to_ras = np.diag([-1.0, -1.0, 1.0])  # DICOM and ITK count to left and posterior
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = to_ras @ directions @ np.diag(image.GetSpacing())
    affine[:3, 3] = to_ras @ np.array(image.GetOrigin())
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    _check_slices(folder, names)
    return Volume(array, Grid(tuple(image.GetSize()), affine))


def _check_slices(folder: Path, names: tuple[str, ...]) -> None:
    """Slices at equal distances: ITK stacks what is there and only warns of a gap."""
    import SimpleITK as sitk

    positions = []
    for name in names:
        one = sitk.ImageFileReader()
        one.SetFileName(name)
        one.ReadImageInformation()
        positions.append([float(x) for x in one.GetMetaData("0020|0032").split("\\")])
    steps = np.linalg.norm(np.diff(np.array(positions), axis=0), axis=1)
    if len(steps) and steps.max() - steps.min() > 0.05 * steps.mean():
        raise GeometryError(
            f"slices lie {steps.min():.2f} to {steps.max():.2f} mm apart", where=str(folder),
            do="fetch the missing slices",
        )  # fmt: skip


def read_ct(path: Path) -> Volume:
    """A CT from a NIfTI file or a folder with one DICOM series.

    Raises:
        SourceError, GeometryError: unreadable, sheared, or holding NaN or infinities.
    """
    volume = read_dicom(path) if path.is_dir() else read_nifti(path)
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        bad = int((~np.isfinite(volume.array)).sum())
        raise SourceError(f"{bad} voxels are NaN or infinite", where=str(path),
                          do="fetch the file again, or leave the case out")  # fmt: skip
    if not volume.grid.is_orthonormal:
        raise GeometryError(
            f"axes are not at right angles: {volume.grid.directions.round(4).tolist()}",
            where=str(path), do="resample the CT to a rectangular grid, or leave the case out",
        )  # fmt: skip
    return volume


def as_mask(array: np.ndarray, where: str) -> np.ndarray:
    """A structure's mask: above 0.5, as the authors of AbdomenAtlas combine theirs.

    Raises:
        LabelMapError: a voxel is NaN: neither in nor out.
    """
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise LabelMapError(f"{int(np.isnan(array).sum())} voxels of the mask are NaN", where=where,
                            do="fetch the mask again, or leave the case out")  # fmt: skip
    return array if array.dtype == bool else array > 0.5


def as_integers(array: np.ndarray, where: str) -> np.ndarray:
    """A label map's integers, where floats or a scale slope hide them.

    Raises:
        LabelMapError: a value is further than INTEGER_TOLERANCE from an integer, or negative.
    """
    if array.dtype.kind in "ui":
        whole = array
    else:
        whole = np.rint(array)
        off = ~(np.abs(array - whole) <= INTEGER_TOLERANCE)
        if off.any():
            raise LabelMapError(f"{float(array[off].flat[0]):.6g} is not a label", where=where,
                                do="export the label map without interpolation")  # fmt: skip
    if whole.min(initial=0) < 0 or whole.max(initial=0) > np.iinfo(np.uint16).max:
        raise LabelMapError(
            f"labels from {whole.min():g} to {whole.max():g}", where=where,
            do="labels are 0 to 65535; a negative one is often an int8 overflow",
        )  # fmt: skip
    return whole.astype(np.uint16)


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI with no name and no time in it, so that equal content is equal bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)
