"""The data sets we know: datasets.json, checked as a whole before anything is used."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import AtlasError, CollectedError, RegistryError
from atlas_nnunet.labelmap import Coding, ValueMap
from atlas_nnunet.registry_laws import ANY, LABEL_MAP, LAWS, MASKS, PNG_STACK
from atlas_nnunet.structures import overlaps, parts_last

__all__ = ["ANY", "LABEL_MAP", "MASKS", "PNG_STACK", "DatasetCard", "Layout", "card_of",
           "read_card", "read_custom_card", "read_registry"]  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where a source keeps what.

    Templates are relative to the source's folder. `{case}` stands for the case's name (with
    `{study}`, where a patient has several), `{structure}` for a mask's, `*` for any part of a
    name; one that ends in "/" means the files of that folder: a DICOM series, a stack of slices.

    Attributes:
        kind: MASKS, one file a structure; LABEL_MAP, one file of integers; PNG_STACK, the same
            as one PNG a slice.
        images: One template a channel.
        masks: Template of a structure's mask, or of the label map.
        held_out_images: Like `images`, for cases that are only predicted and scored.
        held_out_masks: Like `masks`, for those.
        combined: With MASKS: label map of what has no file of its own.
        pseudo_prefix: A mask whose file name starts so is a model's prediction.
        case_pattern: A regular expression for the names of the set's cases, of those there are.
        channels_in_file: The channels are the fourth axis of one file.
        slices: With PNG_STACK: whether names run "up" or "down" the patient.
    """

    kind: str
    images: tuple[str, ...]
    masks: str
    held_out_images: tuple[str, ...] = ()
    held_out_masks: str = ""
    combined: str = ""
    pseudo_prefix: str = ""
    case_pattern: str = ".*"
    channels_in_file: bool = False
    slices: str = "up"

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Layout:
        """A layout from its JSON."""
        fields = dict(entry)
        for name in ("images", "held_out_images"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


@dataclass(frozen=True)
class DatasetCard:
    """One data set: what it is called, what we may do with it, what its masks mean.

    Attributes:
        key: Name in the registry.
        title: Name for people.
        nnunet_dataset: DatasetNNN_Name.
        role: "pretraining" or "target".
        channels: nnU-Net's channel names, in order.
        layout: Where files lie.
        other_layouts: Where they lie in other releases of the same data.
        structures: Canonical names in order of priority (labelmap.Coding); none where the set's
            files tell them (`with_structures`).
        files: Structure -> file stems, where they are neither its name nor a synonym.
        values: What a label map's integers stand for.
        extra_overlaps: Pairs that may share voxels beside anatomy's own; "*" is any other.
        missing_file: What no file for a structure means: "unlabelled" (nothing is known) or
            "refuse" (the case is broken).
        missing_value: What a structure without a voxel in a label map is: "annotated" (looked
            for, and outside the field of view or not there), "absent" or "unlabelled".
        refuses_identity_affine: A CT with the identity for an affine has lost its spacing.
        pseudo_structures: Structures whose labels are predictions by the card.
        pseudo_weight: What a predicted label is worth in a loss, 0 to 1.
        groups: Named subsets of structures.
        nsd_tolerance_mm: Structure -> tolerance of the surface distance, in mm, where a challenge
            on this data publishes one.
        nsd_tolerance_source: Where these tolerances are published.
        splits: Name -> how the set's authors part its cases (convert/splits.py).
        unverified: What of the card nobody has held against the release itself, if anything.
        licence, source, obtain, label_provenance: For people; `obtain` ends in what to type.
        inside_abdomenatlas: {"overlap": itself|all|part|none|unknown, "evidence": ...}, and where
            the cases are known their names: "cases" (name -> AbdomenAtlas' name, or "" where
            that is not public), "pattern" (a regular expression of names) or "files" (one of
            the source's files).
        allows_external_pretraining: Whether the challenge's rules allow it; None is unknown.
        quirks: What is odd about the set, and what we do about it.
    """

    key: str
    title: str
    nnunet_dataset: str
    role: str
    channels: tuple[str, ...]
    layout: Layout
    other_layouts: tuple[Layout, ...]
    structures: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    values: ValueMap
    extra_overlaps: tuple[tuple[str, str], ...]
    missing_file: str
    missing_value: str
    refuses_identity_affine: bool
    pseudo_structures: frozenset[str]
    pseudo_weight: float
    groups: Mapping[str, tuple[str, ...]]
    nsd_tolerance_mm: Mapping[str, float]
    nsd_tolerance_source: str
    splits: Mapping[str, Mapping[str, Any]]
    licence: str
    source: str
    obtain: str
    unverified: str
    label_provenance: str
    inside_abdomenatlas: Mapping[str, Any]
    allows_external_pretraining: bool | None
    quirks: tuple[Mapping[str, str], ...]

    def coding(self, structures: tuple[str, ...] | None = None) -> Coding:
        """The codes of the converted masks, for all structures or for some of them."""
        chosen = tuple(s for s in self.structures if structures is None or s in structures)
        return Coding.of(chosen, overlaps(chosen, self.extra_overlaps))

    def with_structures(self, names: Iterable[str]) -> DatasetCard:
        """The card of a set whose files tell its structures: canonical names, in an order that
        depends on nothing but them."""
        return replace(self, structures=parts_last(sorted(set(names))))


def read_card(key: str, entry: Mapping[str, Any]) -> DatasetCard:
    """A card from its JSON, which the schema has checked already.

    Raises:
        CollectedError: of RegistryErrors, everything in it that does not belong together.
    """
    problems = [RegistryError(what, where=key, do=do) for law in LAWS for what, do in law(entry)]
    if problems:
        raise CollectedError(problems)
    values = {int(v): frozenset(names) for v, names in entry.get("values", {}).items()}
    return DatasetCard(
        key=key, structures=tuple(s for s in entry["structures"] if s != ANY),
        layout=Layout.of(entry["layout"]),
        other_layouts=tuple(Layout.of(one) for one in entry.get("other_layouts", ())),
        values=ValueMap(key, values), channels=tuple(entry["channels"]),
        groups={name: tuple(own) for name, own in entry.get("groups", {}).items()},
        files={s: tuple(stems) for s, stems in entry.get("files", {}).items()},
        extra_overlaps=tuple((a, b) for a, b in entry.get("overlaps", ())),
        missing_file=entry.get("missing_file", "unlabelled"),
        missing_value=entry.get("missing_value", "annotated"),
        refuses_identity_affine=entry.get("refuses_identity_affine", False),
        pseudo_structures=frozenset(entry.get("pseudo_structures", ())),
        pseudo_weight=entry.get("pseudo_weight", 0.5),
        nsd_tolerance_mm=entry.get("nsd_tolerance_mm", {}),
        nsd_tolerance_source=entry.get("nsd_tolerance_source", ""),
        splits=entry.get("splits", {}), unverified=entry.get("unverified", ""),
        quirks=tuple(entry.get("quirks", ())),
        **{name: entry[name] for name in (
            "title", "nnunet_dataset", "role", "licence", "source", "obtain", "label_provenance",
            "inside_abdomenatlas", "allows_external_pretraining")},
    )  # fmt: skip


def read_registry(path: Path | None = None) -> dict[str, DatasetCard]:
    """Every card, or every problem with every card.

    Raises:
        CollectedError: of RegistryErrors, `where` naming the card, or the file if it is no JSON.
    """
    source = path or files("atlas_nnunet") / "datasets.json"
    entries = _parsed(source.read_text(encoding="utf-8"), str(path or "datasets.json"))
    cards: dict[str, DatasetCard] = {}
    problems: list[AtlasError] = []
    taken: dict[str, str] = {}
    for key, entry in entries.items():
        wrong = _against_schema(key, entry)
        problems += wrong
        if wrong:
            continue
        try:
            cards[key] = read_card(key, entry)
        except CollectedError as several:
            problems += several.problems
        number = entry["nnunet_dataset"][7:10]
        if number in taken:
            problems.append(RegistryError(f"number {number} already belongs to {taken[number]}",
                                          where=key, do="choose a free number"))  # fmt: skip
        taken.setdefault(number, key)
    if problems:
        raise CollectedError(problems)
    return cards


def _parsed(text: str, where: str) -> dict[str, Any]:
    """An object of objects; JSON alone would let the second of two twins win, unsaid."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
        if twice:
            raise ValueError(f"given twice in one object: {twice}")
        return dict(pairs)

    try:
        entries = json.loads(text, object_pairs_hook=unique)
        if not isinstance(entries, dict):
            raise ValueError("not an object of cards")
    except ValueError as error:  # JSONDecodeError is one, and tells line and column
        problem = RegistryError(str(error), where=where, do="write JSON: key -> card, each once")
        raise CollectedError([problem]) from error
    return entries


@cache
def _schema() -> Any:
    text = (files("atlas_nnunet") / "registry_schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def _against_schema(key: str, entry: Any) -> list[RegistryError]:
    from jsonschema import Draft202012Validator

    return [
        RegistryError(
            f"{'/'.join(map(str, error.absolute_path)) or 'card'}: {error.message[:200]}",
            where=key, do="see registry_schema.json for what a card holds",
        )
        for error in sorted(Draft202012Validator(_schema()).iter_errors(entry), key=str)
    ]  # fmt: skip


def card_of(key: str) -> DatasetCard:
    """One card.

    Raises:
        RegistryError: there is none of that key; the message names the nearest.
    """
    cards = read_registry()
    if key not in cards:
        near = difflib.get_close_matches(key, cards, n=3, cutoff=0.4)
        raise RegistryError(
            f"no data set is called {key!r}" + (f"; near: {', '.join(near)}" if near else ""),
            do="atlas-nnunet datasets lists them",
        )
    return cards[key]


# What a hospital's own card may leave out; layout and structures it may not.
CUSTOM_DEFAULTS: Mapping[str, Any] = {
    "title": "A data set of your own",
    "nnunet_dataset": "Dataset600_Custom",
    "role": "target",
    "channels": ["CT"],
    "licence": "not stated",
    "source": "your own",
    "obtain": "Compare your folder with the layout of your card.",
    "label_provenance": "your own",
    "inside_abdomenatlas": {"overlap": "unknown", "evidence": "your own data"},
    "allows_external_pretraining": True,
}


def read_custom_card(path: Path) -> DatasetCard:
    """A card that a user wrote: "layout" and "structures" are enough.

    Raises:
        RegistryError: no such file.
        CollectedError: of RegistryErrors, everything that is wrong with it.
    """
    if not path.is_file():
        raise RegistryError("no such file", where=str(path),
                            do='write {"layout": {...}, "structures": [...]} there')  # fmt: skip
    entry = {**CUSTOM_DEFAULTS, **_parsed(path.read_text(encoding="utf-8"), str(path))}
    problems = _against_schema(str(path), entry)
    if problems:
        raise CollectedError(problems)
    return read_card(path.stem, entry)
