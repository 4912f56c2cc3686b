"""What an evaluation says of each case: ours (evaluation.json) or nnU-Net's (summary.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import ComparisonError, SourceError
from atlas_nnunet.host import read_json
from atlas_nnunet.labelstatus import (
    SECTION,
    Conversion,
    Status,
    find_by_name,
    find_conversion,
    read_conversion,
    status_of,
    structures_with,
)
from atlas_nnunet.scoring.evaluation import SCHEMA
from atlas_nnunet.scoring.stock_summary import Names, case_of
from atlas_nnunet.statistics.pairing import Scores

# nan everywhere: does not count. False positives have a number only where the reference is empty,
# `detected` (1 or 0: a voxel of the structure was found) only where it is not.
MEASURES = ("dice", "nsd", "false_positive_ml", "false_positives", "false_component_ml",
            "detected")  # fmt: skip
# The first that is there, in a folder as in a fold's. Ours before nnU-Net's: it says more.
PLACES = ("evaluation.json", "validation/evaluation.json",
          "summary.json", "validation/summary.json")  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        scores: Measure -> case -> structure -> number.
        structures: In the order of the evaluation. What is unlabelled in a case is not among the
            case's scores.
        tolerances_mm: Structure -> tolerance of the surface distance; empty where there is none.
        refused: Cases that could not be scored.
        pseudo: Case -> structures whose reference is a model's prediction.
    """

    scores: Mapping[str, Scores]
    structures: tuple[str, ...]
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    refused: int = 0
    pseudo: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def tolerance_mm(self) -> float | None:
        """The tolerance that all structures share; None where they differ or there is none."""
        found = set(self.tolerances_mm.values())
        return found.pop() if len(found) == 1 else None

    @property
    def cases(self) -> frozenset[str]:
        return frozenset(self.scores["dice"])


def find(place: Path) -> Path:
    """The evaluation at a path, which may be the file itself.

    Raises:
        ComparisonError: there is none.
    """
    if place.is_file():
        return place
    for name in PLACES:
        if (place / name).is_file():
            return place / name
    raise ComparisonError(
        f"no evaluation: none of {', '.join(PLACES)}", where=str(place),
        do="atlas-nnunet evaluate PREDICTIONS REFERENCES, and name the predictions' folder",
    )  # fmt: skip


def read(path: Path) -> Evaluation:
    """An evaluation, whoever wrote it.

    Raises:
        ComparisonError: it is neither kind, an older release wrote it, its labels have no names,
            or it is nnU-Net's and the label status of its data set cannot be found.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ComparisonError(f"not JSON: {error}", where=str(path), do="evaluate again") from error
    if isinstance(content, dict) and "metric_per_case" in content:
        return _stock(content, path)
    if isinstance(content, dict) and content.get("schema") == SCHEMA and "cases" in content:
        return _ours(content)
    if isinstance(content, dict) and "schema" in content and "cases" in content:
        raise ComparisonError(
            f"an evaluation of schema {content['schema']}, and this release reads {SCHEMA}: in an "
            "older one, structures that nobody labelled may have been scored as absent",
            where=str(path), do="atlas-nnunet evaluate PREDICTIONS REFERENCES writes it again",
        )  # fmt: skip
    raise ComparisonError(
        "neither an evaluation.json of this release nor nnU-Net's summary.json", where=str(path),
        do="atlas-nnunet evaluate PREDICTIONS REFERENCES writes one",
    )  # fmt: skip


def _ours(content: Mapping[str, Any]) -> Evaluation:
    rows = {
        case: {name: _row(own) for name, own in structures.items()}
        for case, structures in content["cases"].items()
    }
    return Evaluation(
        _by_measure(rows), tuple(content["structures"]), content["tolerances_mm"],
        len(content.get("refused", {})),
        {case: frozenset(names) for case, names in content.get("pseudo", {}).items()},
    )  # fmt: skip


def _row(own: Mapping[str, float | None]) -> dict[str, float]:
    number = {key: math.nan if value is None else float(value) for key, value in own.items()}
    found_ml = number.get("volume_prediction_ml", math.nan)
    return {
        "dice": number["dice"],
        "nsd": number.get("nsd", math.nan),
        **_false_positives(number.get("volume_reference_ml", math.nan) == 0, found_ml, found_ml),
        "false_component_ml": number.get("false_component_ml", math.nan),
        "detected": number.get("detected", math.nan),
    }


def _stock(content: Mapping[str, Any], path: Path) -> Evaluation:
    """nnU-Net's (evaluate_predictions.py, 2.8.1): Dice and voxels by label or region.

    It knows no millimetres, so of false positives it says how many, not how large. It does not
    know label status either: that is looked up here by case name.
    """
    dataset_json = _dataset_json(path)
    names = Names(dataset_json)
    ending = dataset_json.get("file_ending", ".nii.gz")
    conversion = _conversion(content, path, dataset_json)
    structures = tuple(names.of(key, str(path)) for key in content["mean"])
    declared = tuple(name for name in dataset_json["labels"] if name in structures)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for entry in content["metric_per_case"]:
        case = case_of(entry, ending)
        if case in rows:
            raise ComparisonError(f"case {case} twice", where=str(path), do="evaluate again")
        named = {names.of(key, str(path)): own for key, own in entry["metrics"].items()}
        rows[case] = {
            name: _stock_row(own)
            for name, own in named.items()
            if status_of(conversion, case, name) is not Status.UNLABELLED
        }
    pseudo = {
        case: frozenset(structures_with(conversion, case, declared, Status.PSEUDO)) for case in rows
    }
    return Evaluation(_by_measure(rows), declared, pseudo=pseudo)


def _stock_row(own: Mapping[str, float]) -> dict[str, float]:
    return {
        "dice": float(own["Dice"]),
        "nsd": math.nan,
        **_false_positives(own["n_ref"] == 0, math.nan, own["n_pred"]),
        "false_component_ml": math.nan,
        "detected": float(own["TP"] > 0) if own["n_ref"] > 0 and "TP" in own else math.nan,
    }


def _conversion(
    content: Mapping[str, Any], path: Path, dataset_json: Mapping[str, Any]
) -> Conversion | None:
    """The conversion.json of the references that nnU-Net scored; None where somebody else
    converted the data set.

    It is looked for beside the references, then by the data set's name in nnU-Net's folders.
    """
    again = "atlas-nnunet evaluate PREDICTIONS REFERENCES, and name its evaluation.json"
    references = {Path(e["reference_file"]).parent for e in content["metric_per_case"]}
    found = {p for p in map(_beside, references) if p is not None}
    if not found and SECTION in dataset_json:
        name = _dataset_name(path, dataset_json)
        by_name = find_by_name(name) if name else None
        found = set() if by_name is None else {by_name}
        if not found:
            raise ComparisonError(
                "nnU-Net's summary counts unlabelled structures as absent, and the conversion.json "
                f"with the label status of {name or 'its data set'} was not found beside "
                f"{', '.join(sorted(map(str, references)))} nor in nnUNet_preprocessed or "
                "nnUNet_raw", where=str(path),
                do=f"set nnU-Net's folders (atlas-nnunet env), or {again}",
            )  # fmt: skip
    if len(found) > 1:
        raise ComparisonError(
            f"references of several data sets: {sorted(map(str, found))}", where=str(path),
            do="evaluate each data set by itself",
        )  # fmt: skip
    return read_conversion(next(iter(found)), again) if found else None


def _beside(references: Path) -> Path | None:
    try:
        return find_conversion(references)
    except SourceError:  # dataset.json promises it: nnU-Net's other folder may have it
        return None


def _dataset_name(path: Path, dataset_json: Mapping[str, Any]) -> str | None:
    """By nnU-Net's results folder (DatasetNNN_Name/Trainer__Plans__configuration/fold_N), else as
    `convert` writes it to dataset.json."""
    for folder in path.absolute().parents:
        if folder.name.startswith("fold_") and folder.parent.name.count("__") == 2:
            return folder.parent.parent.name
    name = dataset_json.get("name")
    return str(name) if name else None


def _dataset_json(path: Path) -> dict[str, Any]:
    """Beside predictions, and beside the folds of a training: there nnU-Net leaves it."""
    tried = [path.parent / "dataset.json"]
    if path.parent.parent.name.startswith("fold_"):
        tried.append(path.parent.parent.parent / "dataset.json")
    for place in tried:
        if place.is_file():
            return read_json(place, "put the data set's own dataset.json there")
    raise ComparisonError(
        f"labels without names: no dataset.json at {[str(p) for p in tried]}",
        where=str(path), do=f"copy the data set's dataset.json to {tried[0]}",
    )  # fmt: skip


def _false_positives(empty: bool, found_ml: float, found: float) -> dict[str, float]:
    """`found` in any unit: it only matters whether it is more than nothing."""
    known = empty and math.isfinite(found)
    return {
        "false_positive_ml": found_ml if known else math.nan,
        "false_positives": float(found > 0) if known else math.nan,
    }


def _by_measure(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Scores]:
    return {
        measure: {
            case: {name: row[measure] for name, row in structures.items()}
            for case, structures in rows.items()
        }
        for measure in MEASURES
    }
