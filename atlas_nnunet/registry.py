"""The data sets we know: datasets.json, checked as a whole before anything is used."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from atlas_nnunet.errors import AtlasError, CollectedError, LabelMapError, RegistryError
from atlas_nnunet.labelmap import Coding, ValueMap
from atlas_nnunet.structures import PARENTS, canonical, overlaps

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
        CollectedError: of RegistryErrors, everything in it that does not belong together.
    """
    problems = [RegistryError(what, where=key, do=do) for law in LAWS for what, do in law(entry)]
    if problems:
        raise CollectedError(problems)
    layout = dict(entry["layout"])
    for field in ("images", "held_out_images"):
        layout[field] = tuple(layout.get(field, ()))
    values = {int(v): frozenset(names) for v, names in entry.get("values", {}).items()}
    return DatasetCard(
        key=key, structures=tuple(entry["structures"]), layout=Layout(**layout),
        values=ValueMap(key, values), channels=tuple(entry["channels"]),
        groups={name: tuple(own) for name, own in entry.get("groups", {}).items()},
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


Broken = Iterator[tuple[str, str]]  # what is wrong, and what to do


def _names(entry: Mapping[str, Any]) -> Broken:
    listed = entry["structures"]
    renamed = {s: canonical(s) for s in listed if canonical(s) != s}
    if renamed:
        yield f"not canonical: {list(renamed)}", f"write {list(renamed.values())}"
    mentioned = {
        *(s for own in entry.get("values", {}).values() for s in own), *entry.get("files", {}),
        *(s for own in entry.get("groups", {}).values() for s in own),
        *(s for pair in entry.get("overlaps", ()) for s in pair if s != "*"),
        *entry.get("pseudo_structures", ()),
    }  # fmt: skip
    if mentioned - set(listed):
        yield (f"structures mentioned but not listed: {sorted(mentioned - set(listed))}",
               'list them under "structures", or correct their spelling')  # fmt: skip


def _order(entry: Mapping[str, Any]) -> Broken:
    """Stock nnU-Net paints regions in this order: an organ painted last would hide its tumour."""
    place = {s: i for i, s in enumerate(entry["structures"])}
    for part in place:
        wholes = [w for w in PARENTS.get(part, ()) if place.get(w, -1) > place[part]]
        if wholes:
            yield f"{part} stands before {wholes}, in which it lies", "put the part last"


def _files(entry: Mapping[str, Any]) -> Broken:
    claims = [(stem, s) for s, stems in entry.get("files", {}).items() for stem in stems]
    claims += [(s, s) for s in entry["structures"]]
    owners: dict[str, set[str]] = {}
    for stem, structure in claims:
        owners.setdefault(canonical(stem), set()).add(structure)
    for stem, own in owners.items():
        if len(own) > 1:
            yield f"files called {stem} would be {sorted(own)}", "give a stem to one structure"


def _templates(entry: Mapping[str, Any]) -> Broken:
    layout, n = entry["layout"], len(entry["channels"])
    mask_fields = {"case", "structure"} if layout["kind"] == MASKS else {"case"}
    rows = [("images", {"case"}), ("held_out_images", {"case"}),
            ("masks", mask_fields), ("held_out_masks", mask_fields)]  # fmt: skip
    for field, wanted in rows:
        given = layout.get(field, [])
        if field.endswith("images") and given and len(given) != n:
            yield f"{n} channels, {len(given)} templates in {field}", "give one for each channel"
        for template in [given] if isinstance(given, str) else given:
            try:
                found = {part[1:] for part in Formatter().parse(template) if part[1] is not None}
            except ValueError:
                found = set()
            if found != {(name, "", None) for name in wanted}:
                yield (f"{field}: {template!r} does not hold just {sorted(wanted)}",
                       "write each as {name}, and no other brace")  # fmt: skip


def _values(entry: Mapping[str, Any]) -> Broken:
    structures, values = entry["structures"], entry.get("values", {})
    if (entry["layout"]["kind"] == LABEL_MAP) != bool(values):
        yield ("a label map needs values, masks have none",
               'give "values" with layout kind "label_map" only')  # fmt: skip
    try:
        coding = Coding.of(structures, overlaps(structures, entry.get("overlaps", ())))
    except LabelMapError as error:
        yield error.what, error.do
        return
    never = set(structures) - {s for own in values.values() for s in own}
    if values and never:
        yield f"no value stands for {sorted(never)}", "name it in values, or do not list it"
    for value, own in values.items():
        if set(own) <= set(structures) and frozenset(own) not in coding.codes:
            yield (f"value {value} stands for {own}, which may not share voxels",
                   'give the pair under "overlaps"')  # fmt: skip


LAWS = (_names, _order, _files, _templates, _values)  # all are read, so their order is for the eye


def read_registry(path: Path | None = None) -> dict[str, DatasetCard]:
    """Every card, or every problem with every card.

    Raises:
        CollectedError: of RegistryErrors, `where` naming the card, or the file if it is no JSON.
    """
    package = files("atlas_nnunet")
    source = path or package / "datasets.json"
    entries = _parsed(source.read_text(encoding="utf-8"), str(path or "datasets.json"))
    schema = json.loads((package / "registry_schema.json").read_text(encoding="utf-8"))
    cards: dict[str, DatasetCard] = {}
    problems: list[AtlasError] = []
    taken: dict[str, str] = {}
    for key, entry in entries.items():
        wrong = _against_schema(key, entry, schema)
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


def _against_schema(key: str, entry: Any, schema: Mapping[str, Any]) -> list[RegistryError]:
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
