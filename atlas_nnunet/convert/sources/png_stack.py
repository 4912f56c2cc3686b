"""Sources with one PNG of integers a slice beside a DICOM series: CHAOS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas_nnunet.convert.account import Account
from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.convert.sources.label_map import check_values, coded
from atlas_nnunet.convert.templates import CaseFiles, natural_key
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import GeometryError, SourceError
from atlas_nnunet.registry import DatasetCard


def inputs(card: DatasetCard, own: CaseFiles, structures: Sequence[str], case: str) -> list:
    """The slices, in the order of their names' numbers.

    Raises:
        SourceError: there is none.
    """
    del structures
    slices = [f for f in own.masks if f.name.lower().endswith(".png")]
    if not slices:
        raise SourceError(f"no label map: no PNG in {card.layout.masks}", where=case,
                          do=card.obtain)  # fmt: skip
    return sorted(slices, key=lambda f: natural_key(f.base))


def read_codes(
    card: DatasetCard, own: CaseFiles, structures: Sequence[str], place: Placer, account: Account
) -> np.ndarray:  # fmt: skip
    """The codes of a case, uint8 on the CT's grid.

    A picture's rows run along the CT's second axis and its columns along the first, as in the
    DICOM slice it was drawn on; `slices` of the layout says whether names run up the patient.

    Raises:
        GeometryError: the pictures are not the CT's slices, by number or by size.
    """
    slices = inputs(card, own, structures, place.case)
    rows = [_picture(file) for file in slices]
    n_i, n_j, n_k = place.ct.shape_vox
    sizes = {picture.shape for picture in rows}
    if len(rows) != n_k or sizes != {(n_j, n_i)}:
        raise GeometryError(
            f"{len(rows)} pictures of {sorted(sizes)} pixels; the CT: {place.ct}",
            where=place.case, do="fetch the case again, or leave it out",
        )  # fmt: skip
    runs_up = place.ct.affine[2, 2] > 0
    if runs_up != (card.layout.slices == "up"):
        rows.reverse()
    labels = np.asfortranarray(np.stack(rows, axis=-1).transpose(1, 0, 2))
    check_values(card, labels, place.case)
    return coded(card, labels, structures, account)


def _picture(file: SourceFile) -> np.ndarray:
    """(row, column) uint16."""
    from PIL import Image, UnidentifiedImageError

    try:
        with file.open() as stream, Image.open(stream) as picture:
            array = np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise SourceError(f"cannot be read as PNG: {error}", where=str(file),
                          do="fetch the file again") from error  # fmt: skip
    if array.ndim != 2 or array.dtype.kind not in "bu":
        raise SourceError(f"a picture of {array.shape} {array.dtype}, not of integers",
                          where=str(file), do="export it in grey levels")  # fmt: skip
    return array.astype(np.uint16)
