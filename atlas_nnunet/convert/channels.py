"""The images of a case: checked from end to end, and written with as little work as they allow."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_nnunet.artefacts import link_or_copy
from atlas_nnunet.convert.templates import is_litter
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import GeometryError, SourceError
from atlas_nnunet.geometry import Grid, Relation, relate
from atlas_nnunet.images import check_axes, check_finite, read_dicom
from atlas_nnunet.nifti import Nifti, grid_of, nifti_bytes
from atlas_nnunet.registry import DatasetCard


@dataclass(frozen=True)
class Channel:
    """One image of a case.

    Attributes:
        grid: Where it lies.
        voxels: sha256 of its shape and stored values, whatever the header and the gzip.
        source: The NIfTI whose bytes are the image; None where it must be written anew.
        array: The values then, (i, j, k).
    """

    grid: Grid
    voxels: str
    source: SourceFile | None
    array: np.ndarray | None = None

    def write(self, path: Path) -> None:
        """The source's own bytes where nnU-Net can read them; a hard link where the disk allows
        it, for a second copy of 700 GB helps nobody, and nnU-Net never writes to its raw data."""
        if self.array is not None:
            path.write_bytes(nifti_bytes(self.array, self.grid.affine))
        elif self.source is not None and self.source.is_gzip:
            _as_it_is(self.source, path)
        elif self.source is not None:  # a plain NIfTI, whatever its name says
            with (
                self.source.open() as plain,
                path.open("wb") as out,
                gzip.GzipFile("", "wb", 1, out, mtime=0) as packed,
            ):
                shutil.copyfileobj(plain, packed)


def _as_it_is(source: SourceFile, path: Path) -> None:
    if source.member is None:
        link_or_copy(source.path, path)
        return
    with source.open() as stream, path.open("wb") as out:
        shutil.copyfileobj(stream, out)


def read_channels(
    card: DatasetCard, templates: Sequence[str], images: Sequence[Sequence[SourceFile]], case: str
) -> list[Channel]:
    """The images of a case, every voxel of them read once.

    Args:
        card: The data set's.
        templates: Of the images, one a channel, or one for all.
        images: What matches each of them.
        case: For messages.

    Raises:
        SourceError: one is missing, cannot be read, or holds NaN or infinities.
        GeometryError: they lie on different grids, or on none that nnU-Net can use.
    """
    for template, files in zip(templates, images, strict=True):
        if not files:
            raise SourceError(f"no CT: nothing matches {template}", where=case, do=card.obtain)
        if len(files) > 1 and not template.endswith("/"):
            raise SourceError(f"several files match {template}: {[str(f) for f in files]}",
                              where=case, do="keep the one that is right")  # fmt: skip
    if card.layout.channels_in_file:
        channels = _split(images[0][0], len(card.channels))
    else:
        channels = [
            _dicom(files, case) if template.endswith("/") else _nifti(files[0])
            for template, files in zip(templates, images, strict=True)
        ]
    for one in channels:
        check_axes(one.grid, case)
        if relate(channels[0].grid, one.grid) is not Relation.SAME:
            raise GeometryError(
                f"channels lie on different grids: {channels[0].grid}; {one.grid}",
                where=case, do="resample them to one grid",
            )  # fmt: skip
        if card.refuses_identity_affine and np.array_equal(np.abs(one.grid.affine), np.eye(4)):
            raise GeometryError("the affine is the identity: the spacing is lost", where=case,
                                do="take the case from another release of the set")  # fmt: skip
    return channels


def _nifti(file: SourceFile) -> Channel:
    with file.open() as stream:
        nifti = Nifti(stream, str(file))
        grid = nifti.grid
        digest = _digest(grid.shape_vox)
        for piece in nifti.pieces():
            check_finite(piece, str(file))
            digest.update(piece.data)
    if not np.isfinite([nifti.slope, nifti.intercept]).all():
        raise SourceError("the scale of its header is NaN or infinite", where=str(file),
                          do="fetch the file again, or leave the case out")  # fmt: skip
    return Channel(grid, digest.hexdigest(), file)


def _split(file: SourceFile, n: int) -> list[Channel]:
    """The channels along the fourth axis of one file."""
    with file.open() as stream:
        nifti = Nifti(stream, str(file))
        if len(nifti.shape) != 4 or nifti.shape[3] != n:
            raise SourceError(f"shape {nifti.shape}; {n} channels are to lie along a fourth axis",
                              where=str(file), do="compare the file with its card")  # fmt: skip
        array = nifti.array()
        check_finite(array, str(file))
        grid = grid_of(nifti.shape[:3], nifti.affine, str(file))
    return [_of_array(array[..., c], grid) for c in range(n)]


def _dicom(files: Sequence[SourceFile], case: str) -> Channel:
    with _in_a_folder(files) as folder:
        volume = read_dicom(folder)
    check_finite(volume.array, case)
    return _of_array(volume.array, volume.grid)


def _of_array(array: np.ndarray, grid: Grid) -> Channel:
    digest = _digest(grid.shape_vox)
    digest.update(array.ravel(order="F").data)
    return Channel(grid, digest.hexdigest(), None, array)


def _digest(shape_vox: tuple[int, ...]) -> hashlib._Hash:
    return hashlib.sha256(f"{shape_vox}".encode())


@contextmanager
def _in_a_folder(files: Sequence[SourceFile]) -> Iterator[Path]:
    """A folder with these files: their own, or a temporary one for an archive's members."""
    if all(f.member is None for f in files):
        yield files[0].path.parent
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            if not is_litter(file.name):
                with file.open() as stream, Path(folder, f"{number:06d}").open("wb") as out:
                    shutil.copyfileobj(stream, out)
        yield Path(folder)
