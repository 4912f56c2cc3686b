"""What must hold of a card beyond its schema: its parts belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from atlas_nnunet.errors import LabelMapError
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.structures import PARENTS, canonical, overlaps

MASKS = "structure_masks"
LABEL_MAP = "label_map"
PNG_STACK = "png_stack"
ANY = "*"  # among structures: whatever the files of the set tell

Broken = Iterator[tuple[str, str]]  # what is wrong, and what to do


def _names(entry: Mapping[str, Any]) -> Broken:
    listed = entry["structures"]
    if ANY in listed and (len(listed) > 1 or entry["layout"]["kind"] != MASKS):
        yield f"{ANY!r} stands beside others", "let files of structure masks tell all, or list all"
    renamed = {s: canonical(s) for s in listed if canonical(s) != s}
    if renamed:
        yield f"not canonical: {list(renamed)}", f"write {list(renamed.values())}"
    mentioned = {
        *(s for own in entry.get("values", {}).values() for s in own), *entry.get("files", {}),
        *(s for own in entry.get("groups", {}).values() for s in own),
        *(s for pair in entry.get("overlaps", ()) for s in pair if s != "*"),
        *entry.get("pseudo_structures", ()), *entry.get("nsd_tolerance_mm", {}),
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
    for layout in (entry["layout"], *entry.get("other_layouts", ())):
        n = 1 if layout.get("channels_in_file") else len(entry["channels"])
        for field in ("images", "held_out_images"):
            given = layout.get(field, [])
            if given and len(given) != n:
                yield (
                    f"{n} channels, {len(given)} templates in {field}",
                    "give one for each channel",
                )
            for template in given:
                yield from _template(field, template, {"case"})
        for field in ("masks", "held_out_masks", "combined"):
            needed = {"case", "structure"} if layout["kind"] == MASKS else {"case"}
            if field in layout:
                yield from _template(field, layout[field],
                                     {"case"} if field == "combined" else needed)  # fmt: skip
        if "combined" in layout and layout["kind"] != MASKS:
            yield "a combined map beside a label map", 'give "combined" with structure_masks only'


def _template(field: str, template: str, needed: set[str]) -> Broken:
    found = re.findall(r"\{(\w*)\}", template)
    rest = re.sub(r"\{\w*\}", "", template)
    last = template.rpartition("/")[2]
    wrong = set(found) - {"study"} != needed or "{" in rest or "}" in rest
    if wrong or ("structure" in needed and "{structure}" not in last):
        yield (f"{field}: {template!r} does not hold just {sorted(needed)}",
               "write each as {name}, {structure} in the last part; no other brace")  # fmt: skip


def _patterns(entry: Mapping[str, Any]) -> Broken:
    layouts = (entry["layout"], *entry.get("other_layouts", ()))
    given = [layout.get("case_pattern", "") for layout in layouts]
    given.append(entry["inside_abdomenatlas"].get("pattern", ""))
    given += [p for split in entry.get("splits", {}).values()
              for p in split.get("patterns", {}).values()]  # fmt: skip
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{pattern!r} is no regular expression: {error}", "correct it"


def _values(entry: Mapping[str, Any]) -> Broken:
    structures, values = entry["structures"], entry.get("values", {})
    is_masks = entry["layout"]["kind"] == MASKS
    has_map = not is_masks or "combined" in entry["layout"]
    if has_map != bool(values):
        yield ("a label map needs values, masks have none",
               'give "values" with a label map, alone or "combined", only')  # fmt: skip
    try:
        coding = Coding.of(structures, overlaps(structures, entry.get("overlaps", ())))
    except LabelMapError as error:
        yield error.what, error.do
        return
    never = set(structures) - {s for own in values.values() for s in own}
    if values and never and not is_masks:
        yield f"no value stands for {sorted(never)}", "name it in values, or do not list it"
    for value, own in values.items():
        if set(own) <= set(structures) and frozenset(own) not in coding.codes:
            yield (f"value {value} stands for {own}, which may not share voxels",
                   'give the pair under "overlaps"')  # fmt: skip


LAWS = (
    _names,
    _order,
    _files,
    _templates,
    _values,
    _patterns,
)  # all are read, so their order is for the eye
