"""What a conversion leaves beside its cases: conversion.json, dataset.json, and words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_nnunet import leakage
from atlas_nnunet.artefacts import write_json
from atlas_nnunet.convert.case import recipe, record_path
from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.execution import print_refused
from atlas_nnunet.host import READER
from atlas_nnunet.labelstatus import Status
from atlas_nnunet.registry import DatasetCard

SCHEMA = 2


@dataclass(frozen=True)
class Outcome:
    """A data set's conversion.

    Attributes:
        card: With the structures that were found.
        structures: The chosen ones.
        entries: Case -> its entry.
        refused: Case, or archive, -> why.
        val: Cases that the set's authors validate on.
    """

    card: DatasetCard
    structures: tuple[str, ...]
    entries: dict[str, dict[str, Any]]
    refused: dict[str, AtlasError]
    val: list[str] = field(default_factory=list)

    @property
    def training(self) -> list[str]:
        return [case for case, entry in self.entries.items() if not entry["held_out"]]

    def conversion(self) -> dict[str, Any]:
        card = self.card
        return {
            "schema": SCHEMA,
            "key": card.key,
            "dataset": card.nnunet_dataset,
            "recipe": recipe(card, self.structures),
            "structures": list(self.structures),
            "codes": [sorted(members) for members in card.coding(self.structures).codes],
            "pseudo_weight": card.pseudo_weight,
            **_tolerances(card),
            "inside_abdomenatlas": dict(card.inside_abdomenatlas),
            "status_totals": status_totals(self.structures, self.entries),
            "cases": self.entries,
            "refused": {case: error.what for case, error in self.refused.items()},
        }

    def dataset_json(self) -> dict[str, Any]:
        card = self.card
        return {
            "name": card.nnunet_dataset,
            "description": card.title,
            "reference": card.source,
            "licence": card.licence,
            "channel_names": {str(i): name for i, name in enumerate(card.channels)},
            **card.coding(self.structures).as_dataset_json(),
            "numTraining": len(self.training),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": READER,
            "atlas_nnunet": {"key": card.key, "schema": SCHEMA},
        }

    def write(self, raw: Path) -> None:
        """dataset.json last: where it stands, nnU-Net may begin."""
        path, content = raw / "conversion.json", self.conversion()
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("cases") == content["cases"] and leakage.KEY in known:
            content[leakage.KEY] = known[leakage.KEY]  # the verdict is on these very cases
        write_json(path, content)
        val = [case for case in self.val if case in self.entries]
        if val:
            train = [case for case in self.training if case not in val]
            write_json(raw / "splits_final.json", [{"train": train, "val": val}])
        else:
            (raw / "splits_final.json").unlink(missing_ok=True)
        if self.training:
            write_json(raw / "dataset.json", self.dataset_json(), sort_keys=False)

    def write_check(self, raw: Path) -> None:
        write_json(raw / "conversion_check.json", self.conversion())


def _tolerances(card: DatasetCard) -> dict[str, Any]:
    """What the card publishes of tolerances: `evaluate` cannot see a user's own card."""
    if not card.nsd_tolerance_mm:
        return {}
    return {
        "nsd_tolerance_mm": dict(card.nsd_tolerance_mm),
        "nsd_tolerance_source": card.nsd_tolerance_source,
    }


def status_totals(
    structures: tuple[str, ...], entries: dict[str, dict[str, Any]]
) -> dict[str, dict[str, int]]:
    """Structure -> label status -> in how many cases."""
    totals = {name: Counter[str]() for name in structures}
    for entry in entries.values():
        for name in structures:
            totals[name][entry["status"].get(name, Status.ANNOTATED.value)] += 1
    return {name: dict(sorted(found.items())) for name, found in totals.items()}


def refuse_duplicates(entries: dict[str, dict[str, Any]], refused: dict[str, AtlasError]) -> None:
    """Of cases with the same voxels under several names the first stays.

    Two names for one patient put the same CT on both sides of a fold.
    """
    first: dict[tuple[str, ...], str] = {}
    for case in sorted(entries):
        owner = first.setdefault(tuple(entries[case]["images"]), case)
        if owner != case:
            del entries[case]
            refused[case] = SourceError(
                f"its images are those of {owner}, voxel by voxel", where=case,
                do="leave one of them out of the source, if this is the better one",
            )  # fmt: skip


def forget_another_recipe(raw: Path, card: DatasetCard, chosen: tuple[str, ...]) -> None:
    """Masks of two codings must not stand under one dataset.json, not even after a crash."""
    conversion = raw / "conversion.json"
    if conversion.is_file():
        known = json.loads(conversion.read_text())
        if known.get("recipe") != recipe(card, chosen):
            (raw / "dataset.json").unlink(missing_ok=True)
            conversion.unlink(missing_ok=True)


def forget_cases(raw: Path, kept: set[str]) -> None:
    """Remove what an earlier run converted and this one did not; only what our records name."""
    for record in sorted((raw / "atlas_nnunet" / "records").glob("*.json")):
        case = record.name.removesuffix(".json")
        if case not in kept and not case.startswith(".partial~"):
            for name in json.loads(record.read_text())["bytes"]:
                (raw / name).unlink(missing_ok=True)
            record_path(raw, case).unlink(missing_ok=True)


def tell(outcome: Outcome, where: str) -> None:
    """In words, and what needs a look first."""
    entries = outcome.entries
    if outcome.card.unverified:
        print(f"nobody has held this against the release of {outcome.card.key}: "
              f"{outcome.card.unverified}; compare before you train")  # fmt: skip
    moved = [case for case, entry in entries.items() if entry["geometry"]]
    in_conflict = [case for case, entry in entries.items() if entry["conflicts"]]
    if moved:
        print(f"{len(moved)} case(s) with masks on a grid of their own: {', '.join(moved[:5])}")
    if in_conflict:
        print(f"{len(in_conflict)} case(s) with overlaps settled by priority, see conversion.json")
    print_refused(outcome.refused)
    n = len(outcome.training)
    print(f"{n} training and {len(entries) - n} held-out cases; written: {where}")
