"""Label status: what is known about a structure in a case. The only place that looks it up.

Losses, the final validation, `evaluate`, `compare` and the pilot all ask the functions below.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.errors import SourceError
from atlas_nnunet.structures import canonical

FILE = "conversion.json"  # written by `convert`, copied by `preprocess`
SECTION = "atlas_nnunet"  # in dataset.json: `convert` made this data set

Conversion = Mapping[str, Any]  # content of conversion.json


class Status(StrEnum):
    """What a zero or a one in a structure's mask is worth."""

    ANNOTATED = "annotated"  # drawn or reviewed by a person
    PSEUDO = "pseudo"  # predicted by a model: counts by its confidence weight
    UNLABELLED = "unlabelled"  # nothing is known: 0 is not background
    ABSENT = "absent"  # known not to be there (a removed gall bladder): 0 is true


WEIGHT = {Status.ANNOTATED: 1.0, Status.UNLABELLED: 0.0, Status.ABSENT: 1.0}  # PSEUDO: the card's


def status_of(conversion: Conversion | None, case: str, structure: str) -> Status:
    """The label status of one structure in one case.

    Args:
        conversion: Content of conversion.json; `cases[case]["status"]` holds what differs from
            "annotated". None for a data set that somebody else converted, where nnU-Net's own
            rule holds: everything is annotated.
        case: nnU-Net's case identifier.
        structure: Its canonical name, or a synonym.

    Raises:
        SourceError: conversion.json does not know the case or the structure, or holds a status
            that does not exist.
    """
    if conversion is None:
        return Status.ANNOTATED
    if case not in conversion["cases"]:
        raise SourceError(
            f"{FILE} does not know this case, so its label status is unknown",
            where=case,
            do="convert the case with its data set, or name the right file with --conversion",
        )
    known = conversion.get("structures")
    if known is not None and canonical(structure) not in {canonical(s) for s in known}:
        raise SourceError(
            f"{FILE} does not know the structure {structure!r}; it has {list(known)}",
            where=case,
            do="use the dataset.json and the conversion.json of one conversion",
        )
    own = conversion["cases"][case]["status"]
    found = own.get(structure, own.get(canonical(structure), Status.ANNOTATED.value))
    try:
        return Status(found)
    except ValueError:
        raise SourceError(
            f"no such label status: {found!r} of {structure}",
            where=case,
            do=f"one of {[s.value for s in Status]}: convert again",
        ) from None


def structures_with(
    conversion: Conversion | None, case: str, structures: Sequence[str], status: Status
) -> list[str]:
    """Those of some structures that have a given status in a case; errors as `status_of`."""
    return [name for name in structures if status_of(conversion, case, name) is status]


def counts(conversion: Conversion) -> Counter[str]:
    """Status -> number of (case, structure) pairs; "annotated" is not counted."""
    return Counter(
        status for entry in conversion["cases"].values() for status in entry["status"].values()
    )


def weight_of(status: str, pseudo_weight: float) -> float:
    """How much a structure of this status counts in a loss, in [0, 1]."""
    return WEIGHT.get(Status(status), pseudo_weight)


def case_weights(conversion: Conversion, case: str, structures: Sequence[str]) -> list[float]:
    """The weight of each structure in one case, in the order of `structures`.

    Args:
        conversion: As in `status_of`; `pseudo_weight` is what a pseudo-label is worth.
        case: nnU-Net's case identifier.
        structures: Canonical names, or synonyms.

    Raises:
        SourceError: as `status_of`.
    """
    pseudo = float(conversion["pseudo_weight"])
    return [weight_of(status_of(conversion, case, name), pseudo) for name in structures]


def read_conversion(path: Path, do: str) -> dict[str, Any]:
    """The content of a conversion.json.

    Args:
        path: The file.
        do: What a user should do if it is missing or broken.

    Raises:
        SourceError: there is no such file, or it is not one of `convert`'s.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise SourceError("no such file", where=str(path), do=do) from None
    except ValueError as error:
        raise SourceError(f"not JSON: {error}", where=str(path), do=do) from error
    if not isinstance(content, dict) or not isinstance(content.get("cases"), dict):
        raise SourceError("not a conversion.json: it lists no cases", where=str(path), do=do)
    return content


def find_conversion(references: Path) -> Path | None:
    """The conversion.json that belongs to a folder of references.

    It is in the parent folder: beside labelsTr and labelsTs in nnUNet_raw, and beside
    gt_segmentations in nnUNet_preprocessed.

    Args:
        references: Folder of label maps.

    Returns:
        Its path; None for a data set that somebody else converted.

    Raises:
        SourceError: dataset.json says that `convert` made the data set, but the file is missing.
    """
    parents = dict.fromkeys((references.absolute().parent, references.resolve().parent))
    for folder in parents:
        if (folder / FILE).is_file():
            return folder / FILE
    for folder in parents:
        _refuse_lost(folder)
    return None


def find_by_name(name: str) -> Path | None:
    """conversion.json of a data set by nnU-Net's name, in nnUNet_preprocessed, then nnUNet_raw;
    None where neither has it or the variables are not set."""
    dataset = Dataset(name)
    places = {
        "nnUNet_preprocessed": "conversion_for_training",
        "nnUNet_raw": "conversion",
    }
    for variable, attribute in places.items():
        if os.environ.get(variable):
            path: Path = getattr(dataset, attribute)
            if path.is_file():
                return path
    return None


def _refuse_lost(folder: Path) -> None:
    description = folder / "dataset.json"
    if not description.is_file():
        return
    try:
        content = json.loads(description.read_text())
    except ValueError as error:
        raise SourceError(
            f"not JSON: {error}", where=str(description), do="convert the data set again"
        ) from error
    if isinstance(content, dict) and SECTION in content:
        raise SourceError(
            f"dataset.json says that atlas-nnunet converted this data set, but there is no {FILE} "
            "and so no label status",
            where=str(folder),
            do="convert or preprocess the data set again, or copy the file there",
        )
