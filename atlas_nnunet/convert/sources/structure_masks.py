"""Sources with one mask file a structure: AbdomenAtlas, TotalSegmentator, OpenKBP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.errors import SourceError
from atlas_nnunet.images import as_mask, read_nifti
from atlas_nnunet.labelstatus import Status
from atlas_nnunet.registry import DatasetCard
from atlas_nnunet.structures import canonical

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Found:
    """The mask files of one case.

    Attributes:
        masks: Structure -> file.
        predicted: Structures whose file is a model's prediction (by its prefix).
        notes: What was seen and not used.
    """

    masks: dict[str, Path]
    predicted: frozenset[str]
    notes: tuple[str, ...]


def find_masks(card: DatasetCard, folder: Path, case: str) -> Found:
    """Which file holds which structure.

    Raises:
        SourceError: two files for one structure, or a missing one that the card requires.
    """
    template = Path(card.layout.masks.format(case=case, structure="*"))
    by_alias = {stem: s for s, stems in card.files.items() for stem in stems}
    reviewed: dict[str, list[Path]] = {}
    pseudo: dict[str, list[Path]] = {}
    notes: list[str] = []
    for path in sorted((folder / template.parent).glob("*")):
        ending = next((e for e in ENDINGS if path.name.endswith(e)), None)
        if path.name.startswith("._") or ending is None:
            notes.append(f"not read: {path.name}")
            continue
        stem = path.name.removesuffix(ending)
        prefix = card.layout.pseudo_prefix
        is_pseudo = bool(prefix) and stem.startswith(prefix)
        stem = stem.removeprefix(prefix) if is_pseudo else stem
        name = by_alias.get(stem, canonical(stem))
        if name not in card.structures:
            notes.append(f"not a structure of the card: {path.name}")
            continue
        (pseudo if is_pseudo else reviewed).setdefault(name, []).append(path)
    for kind in (reviewed, pseudo):
        for name, paths in kind.items():
            if len(paths) > 1:
                raise SourceError(f"several files for {name}: {[p.name for p in paths]}",
                                  where=case, do="keep the one that is right")  # fmt: skip
    for name in sorted(reviewed.keys() & pseudo.keys()):
        notes.append(f"{name}: the reviewed file is taken, {pseudo[name][0].name} is not")
    masks = {name: paths[0] for name, paths in (pseudo | reviewed).items()}
    missing = [s for s in card.structures if s not in masks]
    if card.missing_file == "refuse" and missing:
        raise SourceError(
            f"no mask for {missing[:5]}", where=case,
            do="fetch the case again, or choose structures with --structures",
        )  # fmt: skip
    return Found(masks, frozenset(pseudo.keys() - reviewed.keys()), tuple(notes))


def read_masks(
    card: DatasetCard,
    found: Found,
    structures: tuple[str, ...],
    place: Placer,
    status: dict[str, str],
) -> Iterator[tuple[str, np.ndarray]]:
    """Masks in order of `structures`, one at a time; fills `status` as it learns.

    Args:
        card: Says which structures are predicted in the whole set.
        found: The case's files.
        structures: The chosen ones, in order of priority.
        place: Brings an array to the CT's grid, or refuses.
        status: Structure -> status, for what is not annotated.
    """
    for name in structures:
        path = found.masks.get(name)
        if path is None:
            status[name] = Status.UNLABELLED.value
            continue
        volume = read_nifti(path)
        mask = as_mask(place(volume.array, volume.grid, path.name), str(path))
        if name in found.predicted:
            status[name] = Status.PSEUDO.value
        elif not mask.any():  # reviewed, and there is none
            status[name] = Status.ABSENT.value
        elif name in card.pseudo_structures:
            status[name] = Status.PSEUDO.value
        yield name, mask
