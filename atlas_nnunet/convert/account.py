"""What is to be told of a case: filled while it is converted, kept in conversion.json."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Account:
    """The entry of one case, in the making.

    Attributes:
        status: Structure -> label status, for what is not "annotated".
        geometry: Masks that lay on a grid of their own, and how they came to the CT's.
        notes: What was seen and not used.
        conflicts: (loser, winner) -> voxels that both claimed.
        images: Hash of the voxels of each channel, by which duplicates are found.
    """

    status: dict[str, str] = field(default_factory=dict)
    geometry: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    images: list[str] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        return {
            "status": dict(sorted(self.status.items())),
            "geometry": self.geometry,
            "notes": self.notes,
            "conflicts": {
                f"{a} gave way to {b}": n for (a, b), n in sorted(self.conflicts.items())
            },
            "images": self.images,
        }
