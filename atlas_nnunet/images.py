"""Volumes, and what may be in them: CTs of finite numbers, masks of yes and no, integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_nnunet.errors import GeometryError, LabelMapError, SourceError
from atlas_nnunet.geometry import Grid
from atlas_nnunet.nifti import Nifti

INTEGER_TOLERANCE = 0.01  # slope-scaled masks read 1.99996948 for 2; 0.4 is no label


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
        stream = path.open("rb")
    except OSError as error:
        raise SourceError(f"cannot be read as NIfTI: {error}", where=str(path),
                          do="fetch the file again") from error  # fmt: skip
    with stream:
        nifti = Nifti(stream, str(path))
        return Volume(grid=nifti.grid, array=nifti.array())


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


def check_axes(grid: Grid, where: str) -> None:
    """Raise GeometryError unless the axes are at right angles."""
    if not grid.is_orthonormal:
        raise GeometryError(
            f"axes are not at right angles: {grid.directions.round(4).tolist()}",
            where=where, do="resample the CT to a rectangular grid, or leave the case out",
        )  # fmt: skip


def check_finite(values: np.ndarray, where: str, what: str = "voxels") -> None:
    """Raise SourceError if a value is NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise SourceError(f"{bad} {what} or more are NaN or infinite", where=where,
                          do="fetch the file again, or leave the case out")  # fmt: skip


def as_mask(array: np.ndarray, where: str) -> np.ndarray:
    """A structure's mask: above 0.5, as the authors of AbdomenAtlas combine theirs.

    Raises:
        SourceError: a voxel is NaN or infinite: neither in nor out.
        LabelMapError: a voxel is negative.
    """
    if array.dtype == bool:
        return array
    if array.dtype.kind == "u":
        return array != 0
    check_finite(array, where, "voxels of the mask")
    lowest = array.min(initial=0)
    if lowest <= -0.5:
        raise LabelMapError(
            f"the mask holds {lowest:g}, as after an int8 overflow", where=where,
            do="a mask is 0 or 1; -1 is often 255 that overflowed int8: write it as uint8",
        )  # fmt: skip
    return array > 0.5


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


def values_in(labels: np.ndarray) -> list[int]:
    """The values of a label map, ascending; in one pass, where `np.unique` sorts all voxels."""
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if highest - lowest > np.iinfo(np.uint16).max:
        return np.unique(labels).tolist()
    met = np.zeros(highest - lowest + 1, bool)
    flat = labels.reshape(-1)
    for start in range(0, len(flat), 1 << 20):
        met[flat[start : start + (1 << 20)] - np.int64(lowest)] = True
    return (np.flatnonzero(met) + lowest).tolist()
