"""A source opened: its layout known, its cases found and parted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from atlas_nnunet.convert.selection import PARTS, Selection, parts_of
from atlas_nnunet.convert.sources.structure_masks import structure_of
from atlas_nnunet.convert.templates import CaseFiles, find_cases, stem_pattern
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import RegistryError, SourceError
from atlas_nnunet.registry import DatasetCard
from atlas_nnunet.structures import canonical


@dataclass(frozen=True)
class Source:
    """The cases of a source.

    Attributes:
        card: With the layout that the files have, and the structures they tell.
        cases: Name -> files, in natural order, for training or to be chosen from.
        held_out: Those that the set itself holds out.
    """

    card: DatasetCard
    cases: Mapping[str, CaseFiles]
    held_out: Mapping[str, CaseFiles]


def open_source(card: DatasetCard, files: Sequence[SourceFile], where: str) -> Source:
    """The layout of the card in which most cases are whole; the card's first among equals.

    Raises:
        SourceError: the files have none of its layouts.
    """
    layouts = (card.layout, *card.other_layouts)
    candidates = [replace(card, layout=layout) for layout in layouts]
    found = [find_cases(one, files, held_out=False) for one in candidates]
    whole = [sum(own.is_whole for own in cases.values()) for cases in found]
    best = max(range(len(layouts)), key=lambda n: (whole[n], len(found[n]), -n))
    if found[best]:
        chosen = candidates[best]
        if not chosen.structures:
            chosen = chosen.with_structures(_told(chosen, [*found[best].values()]))
        return Source(chosen, found[best], find_cases(chosen, files, held_out=True))
    templates = [t for one in (card.layout, *card.other_layouts) for t in (*one.images, one.masks)]
    raise SourceError(
        f"no case of {card.key}: nothing matches {', '.join(templates)}", where=where,
        do=card.obtain,
    )  # fmt: skip


def _told(card: DatasetCard, cases: Sequence[CaseFiles]) -> set[str]:
    """The structures that mask files name."""
    pattern = stem_pattern(card.layout.masks)
    stems = {
        matched.group("structure")
        for own in cases
        for file in own.masks
        if (matched := pattern.fullmatch(file.base))
    }
    if not stems:
        raise SourceError(f"no mask: nothing matches {card.layout.masks}", where=card.key,
                          do=card.obtain)  # fmt: skip
    return {structure_of(card, stem)[0] for stem in stems}


def chosen_structures(card: DatasetCard, names: Sequence[str] | None) -> tuple[str, ...]:
    """Those asked for, in the card's order; all where none is asked for.

    Raises:
        RegistryError: the card has no such structure.
    """
    wanted = {canonical(name) for name in names or card.structures}
    unknown = sorted(wanted - set(card.structures))
    if unknown:
        raise RegistryError(f"{card.key} has no {unknown}", where="--structures",
                            do=f"choose among {list(card.structures)}")  # fmt: skip
    return tuple(s for s in card.structures if s in wanted)


@dataclass(frozen=True)
class Parted:
    """Cases by what becomes of them.

    Attributes:
        train: For training, the validation part of a split among them.
        held_out: To imagesTs and labelsTs.
        val: The validation part of a split, if it has one.
    """

    train: Mapping[str, CaseFiles]
    held_out: Mapping[str, CaseFiles]
    val: list[str] = field(default_factory=list)


def part(source: Source, selection: Selection) -> Parted:
    """By numbers: some for training, some held out, and what the set itself holds out.

    Raises:
        SourceError: as `Selection.of`; or a case is both for training and held out.
    """
    train, held_out = selection.of(list(source.cases))
    both = [case for case in source.held_out if case in {*train, *held_out}]
    if both:
        raise SourceError(f"cases both for training and held out: {both[:5]}",
                          do="rename one of them")  # fmt: skip
    own = source.held_out if not selection.cases else {}
    return Parted({c: source.cases[c] for c in train},
                  {**{c: source.cases[c] for c in held_out}, **own})  # fmt: skip


def part_by_split(
    source: Source, name: str, files: Sequence[SourceFile], lists: Path | None
) -> Parted:  # fmt: skip
    """As the set's authors part it; "val" trains, as one fold's validation.

    Raises:
        SourceError: as `parts_of`; or nothing is left to train on.
    """
    cases = {**source.cases, **source.held_out}
    parts = parts_of(source.card, name, list(cases), files, lists)
    train = [c for c in cases if c in {*parts[PARTS[0]], *parts[PARTS[1]]}]
    if not train:
        raise SourceError(f"none of {len(cases)} cases is for training", where=f"split {name}",
                          do="compare the names of the cases with the split's")  # fmt: skip
    return Parted({c: cases[c] for c in train}, {c: cases[c] for c in parts[PARTS[2]]},
                  parts[PARTS[1]])  # fmt: skip
