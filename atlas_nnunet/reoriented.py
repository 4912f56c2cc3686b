"""A NIfTI's voxels, streamed, on axes turned to RAS as nibabel turns them.

nibabel's own functions decide on header, scaling and orientation; only the way of the voxels from
the file into memory is ours, without a copy of the whole in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.volumeutils import apply_read_scaling

from atlas_nnunet.errors import GeometryError
from atlas_nnunet.nifti import PIECE_BYTES, UNREADABLE, stored_values, unpacked, unreadable

AS_IT_LIES = np.array([[0, 1], [1, 1], [2, 1]], float)  # nibabel's orientation: nothing to turn


@dataclass(frozen=True)
class Volume:
    """A NIfTI's header, as far as reading needs it.

    Attributes:
        path: Of the file.
        proxy: Shape (i, j, k), type, offset and scaling of what is stored.
        turn: (3, 2) nibabel's orientation, from the file's axes to those handed out.
        affine, affine_out: (4, 4) of the file, and of what is handed out.
        spacing_mm: (z, y, x) of what is handed out, by the header's pixdim as in stock.
    """

    path: Path
    proxy: ArrayProxy
    turn: np.ndarray
    affine: np.ndarray
    affine_out: np.ndarray
    spacing_mm: list[float]

    @property
    def is_scaled(self) -> bool:
        return (self.proxy.slope, self.proxy.inter) != (1, 0)

    @property
    def shape_out(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(self.proxy.shape[int(a)] for a in np.argsort(self.turn[:, 0])[::-1])

    def slabs(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Planes in file order: which ones, and their values (k, j, i) as the header means them.

        Raises:
            SourceError: the file ends early, or its checksum is wrong.
        """
        i, j, k = self.proxy.shape
        n = max(1, PIECE_BYTES // (i * j * self.proxy.dtype.itemsize))
        with self.path.open("rb") as raw:
            try:
                stream = unpacked(raw)
                stream.seek(self.proxy.offset)
            except UNREADABLE as error:
                raise unreadable(error, str(self.path)) from error
            values = stored_values(stream, self.proxy.dtype, i * j * k, n * i * j, str(self.path))
            for first, stored in zip(range(0, k, n), values, strict=True):
                if self.is_scaled:
                    stored = apply_read_scaling(stored, self.proxy.slope, self.proxy.inter)
                yield slice(first, first + n), stored.reshape(-1, j, i)

    def inlet(self, channel: np.ndarray) -> np.ndarray:
        """A view of (k, j, i) storage where the file's planes go, turned as what is handed out."""
        return channel[tuple(slice(None, None, -1 if f < 0 else 1) for f in self.turn[::-1, 1])]

    def handed_out(self, storage: np.ndarray) -> np.ndarray:
        """A view (channel, z, y, x) of storage (channel, k, j, i)."""
        axes = np.argsort(self.turn[:, 0])[::-1]
        return storage.transpose(0, *(3 - int(a) for a in axes))


def volume_of(path: Path, image: Any, *, to_ras: bool) -> Volume:
    """What `nibabel.load` found, as its `as_reoriented` would turn it, but no voxel is read.

    Raises:
        GeometryError: the affine leaves out an axis.
    """
    original, turn = image.affine, AS_IT_LIES
    if to_ras:
        turn = io_orientation(original)
        if np.isnan(turn).any():
            raise GeometryError("the affine leaves out an axis", where=str(path),
                                do="mend the header, or leave the case out")  # fmt: skip
    if not np.array_equal(turn, AS_IT_LIES):
        nothing = np.broadcast_to(image.dataobj.dtype.type(0), image.shape)
        affine = original.dot(inv_ornt_aff(turn, image.shape))
        turned = type(image)(apply_orientation(nothing, turn), affine, image.header)
    else:
        turned = image
    spacing_mm = [float(zoom) for zoom in turned.header.get_zooms()[::-1]]
    return Volume(path, image.dataobj, turn, original, turned.affine, spacing_mm)
