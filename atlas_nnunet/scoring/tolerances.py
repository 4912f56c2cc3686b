"""The tolerance of the surface distance for each structure: the dataset card's, or one number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.labelstatus import SECTION, Conversion
from atlas_nnunet.registry import read_registry
from atlas_nnunet.structures import canonical

FALLBACK_MM = 2.0


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of the surface distance.

    Attributes:
        mm: Structure -> tolerance.
        source: Structure -> where the tolerance was published; empty for those that have the
            fallback.
    """

    mm: Mapping[str, float]
    source: Mapping[str, str]


def tolerances(
    structures: Sequence[str], card: Mapping[str, Any], fallback_mm: float
) -> Tolerances:
    """The tolerance of each structure.

    Args:
        structures: Names to look up, canonical or synonyms.
        card: `nsd_tolerance_mm` (canonical name -> mm) and `nsd_tolerance_source`, or nothing.
        fallback_mm: Tolerance of structures that the card does not name.
    """
    published = card.get("nsd_tolerance_mm", {})
    known = {s: float(published[canonical(s)]) for s in structures if canonical(s) in published}
    return Tolerances(
        {s: known.get(s, fallback_mm) for s in structures},
        dict.fromkeys(known, str(card.get("nsd_tolerance_source", ""))),
    )


def published_for(conversion: Conversion | None, references: Path) -> Mapping[str, Any]:
    """What the card of a data set publishes of tolerances, or nothing.

    A user's own card is not in the registry; `convert` copies its tolerances to conversion.json.

    Args:
        conversion: The data set's conversion.json, which names the card as `key`; None without.
        references: Folder of the references; the dataset.json in its parent folder is asked
            where there is no conversion.json.
    """
    if conversion is not None and "nsd_tolerance_mm" in conversion:
        return conversion
    key = conversion.get("key") if conversion is not None else _key_beside(references)
    card = read_registry().get(str(key))
    if card is None:
        return {}
    return {
        "nsd_tolerance_mm": card.nsd_tolerance_mm,
        "nsd_tolerance_source": card.nsd_tolerance_source,
    }


def in_words(mm: Mapping[str, float]) -> str:
    """`2 mm` where all structures have one tolerance, else each tolerance with its structures."""
    by_value: dict[float, list[str]] = {}
    for name, value in mm.items():
        by_value.setdefault(value, []).append(name)
    if len(by_value) == 1:
        return f"{next(iter(by_value)):g} mm"
    return "; ".join(f"{value:g} mm: {', '.join(by_value[value])}" for value in sorted(by_value))


def _key_beside(references: Path) -> str | None:
    for folder in (references.absolute().parent, references.resolve().parent):
        path = folder / "dataset.json"
        if path.is_file():
            section = json.loads(path.read_text()).get(SECTION, {})
            return section.get("key")
    return None
