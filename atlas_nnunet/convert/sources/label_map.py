"""Sources with one integer mask a case: MSD, nnU-Net's own layout, KiTS, and many challenges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.labelstatus import Status
from atlas_nnunet.registry import DatasetCard


def read_masks(
    card: DatasetCard, path: Path, structures: tuple[str, ...], place: Placer,
    status: dict[str, str],
) -> Iterator[tuple[str, np.ndarray]]:  # fmt: skip
    """Masks in order of `structures`, by what the card says the integers stand for.

    Raises:
        LabelMapError: a value is no integer, or the card does not name it.
    """
    volume = read_nifti(path)
    labels = as_integers(place(volume.array, volume.grid, path.name), str(path.name))
    values = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    card.values.check(values, str(path.name))
    present = frozenset().union(*(card.values.sets.get(v, frozenset()) for v in values))
    for name in structures:
        if name in card.pseudo_structures:
            status[name] = Status.PSEUDO.value
        if name in present:
            yield name, card.values.mask_of(labels, name)
