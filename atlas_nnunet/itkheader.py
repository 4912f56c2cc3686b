"""What ITK makes of a NIfTI's header, and whether it would hand out the voxels as they are stored.

So that nnU-Net's SimpleITKIO, its reader for every data set that names none, need not decode them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.nifti import unpacked


@dataclass(frozen=True)
class ItkHeader:
    """As SimpleITK words it: axes (x, y, z), positions in LPS mm."""

    path: Path
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


def itk_header(path: Path, image: Any) -> ItkHeader | None:
    """The header of a scalar volume without scaling; None where ITK must read it itself.

    Args:
        path: The file.
        image: What `nibabel.load` made of it, 3-D.
    """
    with path.open("rb") as raw:  # nibabel forgets the scaling of the header that it hands out
        header = image.header_class.from_fileobj(unpacked(raw))
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope not in (0, 1) or intercept != 0:
        return None
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # then its own class says why
        return None
    if reader.GetNumberOfComponents() != 1 or tuple(reader.GetSize()) != tuple(image.shape):
        return None
    return ItkHeader(path, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def itk_properties(header: ItkHeader) -> dict[str, Any]:
    """The dictionary of SimpleITKIO (imageio/simpleitk_reader_writer.py, nnunetv2 2.8.1)."""
    return {
        "sitk_stuff": {
            "spacing": header.spacing,
            "origin": header.origin,
            "direction": header.direction,
        },
        "spacing": list(np.abs(header.spacing[::-1])),
    }


def same_grid(headers: Sequence[ItkHeader]) -> bool:
    """Whether channels have one spacing, origin and direction, by stock's own tolerance."""
    first = headers[0]
    return all(
        np.allclose(getattr(first, of), getattr(other, of))
        for other in headers
        for of in ("spacing", "origin", "direction")
    )
