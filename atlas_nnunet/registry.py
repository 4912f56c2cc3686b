"""The data sets we know: datasets.json, checked as a whole before anything is used."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import AtlasError, CollectedError, RegistryError
from atlas_nnunet.labelmap import Coding, ValueMap
from atlas_nnunet.structures import canonical, overlaps

MASKS = "structure_masks"
LABEL_MAP = "label_map"


@dataclass(frozen=True)
class Layout:
    """Where a source keeps what; templates hold `{case}` (and `{structure}`).

    Attributes:
        kind: MASKS, one file a structure; or LABEL_MAP, one file of integers.
        images: One template a channel; a template may name a folder, a DICOM series.
        masks: Template of a structure's mask, or of the label map.
        held_out_images: Like `images`, for cases that are only predicted and scored.
        held_out_masks: Like `masks`, for those.
        pseudo_prefix: A mask whose file name starts so is a model's prediction.
    """

    kind: str
    images: tuple[str, ...]
    masks: str
    held_out_images: tuple[str, ...] = ()
    held_out_masks: str = ""
    pseudo_prefix: str = ""


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
        structures: Canonical names in order of priority (labelmap.Coding).
        files: Structure -> file stems, where they are neither its name nor a synonym.
        values: What a label map's integers stand for.
        extra_overlaps: Pairs that may share voxels beside anatomy's own; "*" is any other.
        missing_file: "unlabelled" (nothing is known) or "refuse" (the case is broken).
        pseudo_structures: Structures whose labels are predictions by the card.
        pseudo_weight: What a predicted label is worth in a loss, 0 to 1.
        groups: Named subsets of structures.
        licence, source, obtain, label_provenance: For people; `obtain` ends in what to type.
        inside_abdomenatlas: {"overlap": all|part|none|unknown, "evidence": ...}.
        allows_external_pretraining: Whether the challenge's rules allow it; None is unknown.
        quirks: What is odd about the set, and what we do about it.
    """

    key: str
    title: str
    nnunet_dataset: str
    role: str
    channels: tuple[str, ...]
    layout: Layout
    structures: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    values: ValueMap
    extra_overlaps: tuple[tuple[str, str], ...]
    missing_file: str
    pseudo_structures: frozenset[str]
    pseudo_weight: float
    groups: Mapping[str, tuple[str, ...]]
    licence: str
    source: str
    obtain: str
    label_provenance: str
    inside_abdomenatlas: Mapping[str, str]
    allows_external_pretraining: bool | None
    quirks: tuple[Mapping[str, str], ...]

    def coding(self, structures: tuple[str, ...] | None = None) -> Coding:
        """The codes of the converted masks, for all structures or for some of them."""
        chosen = tuple(s for s in self.structures if structures is None or s in structures)
        return Coding.of(chosen, overlaps(chosen, self.extra_overlaps))


def read_card(key: str, entry: Mapping[str, Any]) -> DatasetCard:
    """A card from its JSON, which the schema has checked already.

    Raises:
        RegistryError, LabelMapError: names that do not belong together.
    """
    structures = tuple(entry["structures"])
    renamed = [s for s in structures if canonical(s) != s]
    if renamed:
        raise RegistryError(
            f"not canonical: {renamed}", where=key,
            do=f"write {[canonical(s) for s in renamed]}",
        )  # fmt: skip
    values = {int(v): frozenset(names) for v, names in entry.get("values", {}).items()}
    groups = {name: tuple(own) for name, own in entry.get("groups", {}).items()}
    mentioned = {
        *frozenset().union(*values.values()), *entry.get("files", {}),
        *entry.get("pseudo_structures", ()), *(s for own in groups.values() for s in own),
        *(s for pair in entry.get("overlaps", ()) for s in pair if s != "*"),
    }  # fmt: skip
    if mentioned - set(structures):
        raise RegistryError(
            f"structures mentioned but not listed: {sorted(mentioned - set(structures))}",
            where=key, do='list them under "structures", or correct their spelling',
        )  # fmt: skip
    layout = dict(entry["layout"])
    if (layout["kind"] == LABEL_MAP) != bool(values):
        raise RegistryError("a label map needs values, masks have none", where=key,
                            do='give "values" with layout kind "label_map" only')  # fmt: skip
    for field in ("images", "held_out_images"):
        layout[field] = tuple(layout.get(field, ()))
    card = DatasetCard(
        key=key, structures=structures, layout=Layout(**layout), values=ValueMap(key, values),
        channels=tuple(entry["channels"]), groups=groups,
        files={s: tuple(stems) for s, stems in entry.get("files", {}).items()},
        extra_overlaps=tuple((a, b) for a, b in entry.get("overlaps", ())),
        missing_file=entry.get("missing_file", "unlabelled"),
        pseudo_structures=frozenset(entry.get("pseudo_structures", ())),
        pseudo_weight=entry.get("pseudo_weight", 0.5),
        quirks=tuple(entry.get("quirks", ())),
        **{name: entry[name] for name in (
            "title", "nnunet_dataset", "role", "licence", "source", "obtain", "label_provenance",
            "inside_abdomenatlas", "allows_external_pretraining")},
    )  # fmt: skip
    card.coding()
    return card


def read_registry(path: Path | None = None) -> dict[str, DatasetCard]:
    """Every card, or every problem with every card.

    Raises:
        CollectedError: of RegistryErrors, `where` naming the card.
    """
    package = files("atlas_nnunet")
    text = path.read_text() if path else (package / "datasets.json").read_text()
    schema = json.loads((package / "registry_schema.json").read_text())
    cards: dict[str, DatasetCard] = {}
    problems: list[AtlasError] = []
    taken: dict[str, str] = {}
    for key, entry in json.loads(text).items():
        wrong = _against_schema(key, entry, schema)
        problems += wrong
        if wrong:
            continue
        try:
            card = read_card(key, entry)
        except AtlasError as problem:
            problems.append(RegistryError(problem.what, where=key, do=problem.do))
            continue
        number = card.nnunet_dataset[7:10]
        if number in taken:
            problems.append(RegistryError(f"number {number} already belongs to {taken[number]}",
                                          where=key, do="choose a free number"))  # fmt: skip
        taken[number], cards[key] = key, card
    if problems:
        raise CollectedError(problems)
    return cards


def _against_schema(key: str, entry: Any, schema: Mapping[str, Any]) -> list[AtlasError]:
    from jsonschema import Draft202012Validator

    return [
        RegistryError(
            f"{'/'.join(map(str, error.absolute_path)) or 'card'}: {error.message[:200]}",
            where=key, do="see registry_schema.json for what a card holds",
        )
        for error in sorted(Draft202012Validator(schema).iter_errors(entry), key=str)
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
