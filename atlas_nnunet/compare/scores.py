"""What an evaluation says of each case: ours (evaluation.json) or nnU-Net's (summary.json)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import ComparisonError
from atlas_nnunet.host import read_json
from atlas_nnunet.kernels.pairing import Scores

# nan everywhere: does not count. False positives have a number only where the reference is empty.
MEASURES = ("dice", "nsd", "false_positive_ml", "false_positives")
# The first that is there, in a folder as in a fold's. Ours before nnU-Net's: it says more.
PLACES = ("evaluation.json", "summary.json",
          "validation/evaluation.json", "validation/summary.json")  # fmt: skip
SCHEMA = 1  # of evaluation.json


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        scores: Measure -> case -> structure -> number.
        structures: In the order of the evaluation.
        tolerance_mm: Of the surface distance; None where there is none.
        refused: Cases that could not be scored.
    """

    scores: Mapping[str, Scores]
    structures: tuple[str, ...]
    tolerance_mm: float | None = None
    refused: int = 0

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
        ComparisonError: it is neither kind, or its labels have no names.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ComparisonError(f"not JSON: {error}", where=str(path), do="evaluate again") from error
    if isinstance(content, dict) and "metric_per_case" in content:
        return _stock(content, path)
    if isinstance(content, dict) and content.get("schema") == SCHEMA and "cases" in content:
        return _ours(content)
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
        _by_measure(rows), tuple(content["structures"]), content["tolerance_mm"],
        len(content.get("refused", {})),
    )  # fmt: skip


def _row(own: Mapping[str, float | None]) -> dict[str, float]:
    number = {key: math.nan if value is None else float(value) for key, value in own.items()}
    found_ml = number.get("volume_prediction_ml", math.nan)
    return {
        "dice": number["dice"],
        "nsd": number.get("nsd", math.nan),
        **_false_positives(number.get("volume_reference_ml", math.nan) == 0, found_ml, found_ml),
    }


def _stock(content: Mapping[str, Any], path: Path) -> Evaluation:
    """nnU-Net's (evaluate_predictions.py, 2.8.1): Dice and voxels by label or region.

    It knows no millimetres, so of false positives it says how many, not how large.
    """
    dataset_json = _dataset_json(path)
    names = {
        frozenset(v if isinstance(v, list | tuple) else [v]): name
        for name, v in dataset_json["labels"].items()
    }
    ending = dataset_json.get("file_ending", ".nii.gz")
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for entry in content["metric_per_case"]:
        case = Path(entry["reference_file"]).name.removesuffix(ending)
        if case in rows:
            raise ComparisonError(f"case {case} twice", where=str(path), do="evaluate again")
        rows[case] = {
            _name(key, names, path): {
                "dice": float(own["Dice"]),
                "nsd": math.nan,
                **_false_positives(own["n_ref"] == 0, math.nan, own["n_pred"]),
            }
            for key, own in entry["metrics"].items()
        }
    structures = tuple(_name(key, names, path) for key in content["mean"])
    declared = [name for name in dataset_json["labels"] if name in structures]
    return Evaluation(_by_measure(rows), tuple(declared))


def _name(key: str, names: Mapping[frozenset[int], str], path: Path) -> str:
    """`3` and `(1, 2)` are how nnU-Net writes a label and a region."""
    values = frozenset(int(n) for n in re.findall(r"\d+", key))
    if values not in names:
        raise ComparisonError(
            f"label {key} has no name in dataset.json, which names {sorted(names.values())}",
            where=str(path), do="put the data set's own dataset.json beside it",
        )  # fmt: skip
    return names[values]


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
