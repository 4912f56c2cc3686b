"""Sources with one integer mask a case: MSD, nnU-Net's own layout, KiTS, and many challenges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas_nnunet.convert.account import Account
from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.convert.templates import CaseFiles
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import SourceError
from atlas_nnunet.images import as_integers
from atlas_nnunet.labelstatus import Status
from atlas_nnunet.nifti import Nifti
from atlas_nnunet.registry import DatasetCard


def inputs(card: DatasetCard, own: CaseFiles, structures: Sequence[str], case: str) -> list:
    """The label map.

    Raises:
        SourceError: there is none, or there are several.
    """
    del structures
    if len(own.masks) != 1:
        told = f"{len(own.masks)} label maps: {[str(f) for f in own.masks]}" if own.masks else (
            f"no label map: nothing matches {card.layout.masks}")  # fmt: skip
        raise SourceError(told, where=case, do=card.obtain)
    return own.masks


def read_codes(
    card: DatasetCard, own: CaseFiles, structures: Sequence[str], place: Placer, account: Account
) -> np.ndarray:  # fmt: skip
    """The codes of a case, uint8 on the CT's grid, by what the card says the integers stand for.

    Raises:
        LabelMapError: a value is no integer, or the card does not name it.
    """
    return coded(card, read_labels(card, own.masks[0], place), structures, account)


def read_labels(card: DatasetCard, file: SourceFile, place: Placer) -> np.ndarray:
    """The integers of a label map on the CT's grid, uint16, each of them named by the card."""
    where = str(file)
    with file.open() as stream:
        nifti = Nifti(stream, where)
        in_place = place.is_in_place(nifti.grid, file.base)
        labels = np.empty(int(np.prod(nifti.shape)), np.uint16)
        start = 0
        for piece in nifti.pieces():
            labels[start : start + len(piece)] = as_integers(nifti.scaled(piece), where)
            start += len(piece)
        labels = labels.reshape(nifti.shape, order="F")
    check_values(card, labels, where)
    return labels if in_place else place.moved(labels, nifti.grid, where)


def check_values(card: DatasetCard, labels: np.ndarray, where: str) -> None:
    """Raise LabelMapError if the card does not name a value."""
    values = np.flatnonzero(np.bincount(labels.ravel(order="K")))
    card.values.check(values.tolist(), where)


def coded(
    card: DatasetCard, labels: np.ndarray, structures: Sequence[str], account: Account
) -> np.ndarray:  # fmt: skip
    """Codes for integers, by a table: an integer's set of structures has a code of its own."""
    coding = card.coding(tuple(structures))
    number = {members: code for code, members in enumerate(coding.codes)}
    table = np.zeros(max(card.values.sets, default=0) + 1, np.uint8)
    for value, members in card.values.sets.items():
        table[value] = number[members & frozenset(structures)]
    codes = table[labels]
    there = np.bincount(codes.ravel(order="K"), minlength=len(coding.codes))
    present = frozenset().union(*(coding.codes[c] for c in np.flatnonzero(there)))
    for name in structures:
        if name in card.pseudo_structures and name in present:
            account.status[name] = Status.PSEUDO.value
        elif name not in present and card.missing_value != Status.ANNOTATED:
            account.status[name] = card.missing_value
    return codes
