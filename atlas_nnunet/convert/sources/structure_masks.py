"""Sources with one mask file a structure: AbdomenAtlas, TotalSegmentator, a hospital's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atlas_nnunet.convert.account import Account
from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.convert.sources.label_map import read_labels
from atlas_nnunet.convert.templates import CaseFiles, stem_pattern
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import SourceError
from atlas_nnunet.images import as_mask
from atlas_nnunet.labelmap import Layers
from atlas_nnunet.labelstatus import Status
from atlas_nnunet.nifti import Nifti
from atlas_nnunet.registry import DatasetCard
from atlas_nnunet.structures import canonical


@dataclass(frozen=True)
class Found:
    """The mask files of one case.

    Attributes:
        masks: Structure -> file.
        predicted: Structures whose file is a model's prediction (by its prefix).
        notes: What was seen and not used.
    """

    masks: dict[str, SourceFile]
    predicted: frozenset[str]
    notes: tuple[str, ...]


def structure_of(card: DatasetCard, stem: str) -> tuple[str, bool]:
    """Canonical name of the structure that a file's stem means, and whether it is predicted."""
    prefix = card.layout.pseudo_prefix
    is_pseudo = bool(prefix) and stem.startswith(prefix)
    stem = stem.removeprefix(prefix) if is_pseudo else stem
    by_alias = {alias: s for s, stems in card.files.items() for alias in stems}
    return by_alias.get(stem, canonical(stem)), is_pseudo


def find_masks(card: DatasetCard, files: Sequence[SourceFile], case: str) -> Found:
    """Which file holds which structure.

    Raises:
        SourceError: two files for one structure, or a missing one that the card requires.
    """
    reviewed: dict[str, list[SourceFile]] = {}
    pseudo: dict[str, list[SourceFile]] = {}
    notes: list[str] = []
    pattern = stem_pattern(card.layout.masks)
    for file in files:
        last = file.base
        matched = pattern.fullmatch(last)
        if matched is None:
            notes.append(f"not read: {last}")
            continue
        name, is_pseudo = structure_of(card, matched.group("structure"))
        if name not in card.structures:
            notes.append(f"not a structure of the card: {last}")
            continue
        (pseudo if is_pseudo else reviewed).setdefault(name, []).append(file)
    for kind in (reviewed, pseudo):
        for name, own in kind.items():
            own[:] = _preferred(card, name, own, notes)
            if len(own) > 1:
                raise SourceError(f"several files for {name}: {[str(f) for f in own]}",
                                  where=case, do="keep the one that is right")  # fmt: skip
    for name in sorted(reviewed.keys() & pseudo.keys()):
        last = pseudo[name][0].base
        notes.append(f"{name}: the reviewed file is taken, {last} is not")
    masks = {name: own[0] for name, own in (pseudo | reviewed).items()}
    missing = [s for s in card.structures if s not in masks]
    if card.missing_file == "refuse" and missing:
        raise SourceError(
            f"no mask for {missing[:5]}", where=case,
            do="fetch the case again, or choose structures with --structures",
        )  # fmt: skip
    return Found(masks, frozenset(pseudo.keys() - reviewed.keys()), tuple(notes))


def _preferred(
    card: DatasetCard, name: str, files: list[SourceFile], notes: list[str]
) -> list[SourceFile]:
    """Of several files for one structure the one whose stem the card names first."""
    ranks = {stem: rank for rank, stem in enumerate(card.files.get(name, ()))}
    pattern, prefix = stem_pattern(card.layout.masks), card.layout.pseudo_prefix

    def rank(file: SourceFile) -> int:
        found = pattern.fullmatch(file.base)
        return ranks.get(found.group("structure").removeprefix(prefix), len(ranks)) if found else 0

    best = min(map(rank, files))
    kept = [file for file in files if rank(file) == best]
    taken = kept[0].base
    others = [file.base for file in files if file not in kept]
    notes += [f"{name}: {taken} is taken, {other} is not" for other in others]
    if ranks and best:  # not by the first of its names: a reader should know
        notes.append(f"{name}: read from {taken}")
    return kept


def inputs(card: DatasetCard, own: CaseFiles, structures: Sequence[str], case: str) -> list:
    """The files that decide what a case becomes.

    Raises:
        SourceError: there is none, or `find_masks` refuses.
    """
    found = find_masks(card, own.masks, case)
    chosen = [found.masks[s] for s in structures if s in found.masks]
    combined = own.combined if _in_combined(card, found, structures) else []
    if not chosen and not combined:
        raise SourceError("no mask of any structure", where=case, do=card.obtain)
    return chosen + combined


def _in_combined(card: DatasetCard, found: Found, structures: Sequence[str]) -> bool:
    """Whether the combined map may hold a structure that has no file of its own."""
    return any(s not in found.masks and s in card.values.structures for s in structures)


def read_codes(
    card: DatasetCard, own: CaseFiles, structures: Sequence[str], place: Placer, account: Account
) -> np.ndarray:  # fmt: skip
    """The codes of a case, uint8 on the CT's grid.

    A structure without a file is taken from the combined label map where that has a voxel of it;
    the map's zero says nothing, for where masks overlap only the last one is in it.
    """
    found = find_masks(card, own.masks, place.case)
    account.notes += found.notes
    layers = Layers(card.coding(tuple(structures)), place.ct.shape_vox)
    wanted = bool(own.combined) and _in_combined(card, found, structures)
    combined = read_labels(card, own.combined[0], place) if wanted else None
    for name in structures:
        layers.begin(name)
        if name in found.masks:
            is_empty = not _lay(layers, found.masks[name], place)
            predicted = name in found.predicted or (name in card.pseudo_structures and not is_empty)
            if predicted:
                account.status[name] = Status.PSEUDO.value
            elif is_empty:  # reviewed, and there is none
                account.status[name] = Status.ABSENT.value
            continue
        mask = combined is not None and name in card.values.structures and (
            card.values.mask_of(combined, name))  # fmt: skip
        if mask is False or not mask.any():
            account.status[name] = Status.UNLABELLED.value
            continue
        account.notes.append(f"{name}: no file of its own, taken from the combined label map")
        if name in card.pseudo_structures:
            account.status[name] = Status.PSEUDO.value
        layers.lay(mask.ravel(order="F"))
    account.conflicts = layers.conflicts
    return layers.codes


def _lay(layers: Layers, file: SourceFile, place: Placer) -> bool:
    """Lay a file's mask, piece by piece where its voxels are the CT's; whether it had any."""
    where = str(file)
    with file.open() as stream:
        nifti = Nifti(stream, where)
        if not place.is_in_place(nifti.grid, file.base):
            mask = place.moved(as_mask(nifti.array(), where), nifti.grid, where).ravel(order="F")
            layers.lay(mask)
            return bool(mask.any())
        start, some = 0, False
        zero_is_out = nifti.intercept <= 0.5 and not np.isnan(nifti.slope)
        for piece in nifti.pieces():
            if not (zero_is_out and not piece.any()):
                mask = as_mask(nifti.scaled(piece), where)
                some = some or bool(mask.any())
                layers.lay(mask, start)
            start += len(piece)
    return some
