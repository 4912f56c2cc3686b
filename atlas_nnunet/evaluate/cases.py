"""Score predicted label maps against references, case by case and structure by structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.errors import EvaluationError
from atlas_nnunet.evaluate.overlap import dice
from atlas_nnunet.evaluate.surface import normalised_surface_distance
from atlas_nnunet.geometry import Relation, relate
from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.leakage import shared_cases

SCHEMA = 1
SCORES = ("dice", "nsd")
EMPTY_POLICY = "reference and prediction empty: not scored; one of them empty: 0 for Dice and NSD"


@dataclass(frozen=True)
class Job:
    """One case to score.

    Attributes:
        case: Identifier.
        reference: Mask of codes.
        prediction: Mask of codes, on the same grid.
        coding: Of both.
        structures: To score, those of unknown reference left out.
        tolerance_mm: Of the surface distance.
    """

    case: str
    reference: Path
    prediction: Path
    coding: Coding
    structures: tuple[str, ...]
    tolerance_mm: float


def score_case(job: Job) -> dict[str, dict[str, float]]:
    """Structure -> scores and volumes.

    Raises:
        EvaluationError: no prediction, or one on another grid.
    """
    if not job.prediction.is_file():
        raise EvaluationError("no prediction", where=job.case,
                              do=f"predict it to {job.prediction.parent}")  # fmt: skip
    reference, prediction = read_nifti(job.reference), read_nifti(job.prediction)
    if relate(reference.grid, prediction.grid) is not Relation.SAME:
        raise EvaluationError(
            f"the prediction lies on another grid: {prediction.grid}; "
            f"the reference: {reference.grid}",
            where=job.case, do="predict the very images that the references belong to",
        )  # fmt: skip
    codes = [as_integers(v.array, job.case) for v in (reference, prediction)]
    known = codes[0] != job.coding.ignore  # as nnU-Net: evaluate_predictions.py, 2.8.1
    spacing_mm = tuple(float(s) for s in reference.grid.spacing_mm)
    scores = {}
    for name in job.structures:
        truth, found = (job.coding.mask_of(c, name) & known for c in codes)
        scores[name] = {
            "dice": dice(truth, found),
            "nsd": normalised_surface_distance(truth, found, spacing_mm, job.tolerance_mm),
            "volume_reference_ml": float(truth.sum()) * reference.grid.voxel_ml,
            "volume_prediction_ml": float(found.sum()) * reference.grid.voxel_ml,
        }
    return scores


def unknown_references(
    conversion: Mapping[str, Any] | None, case: str, structures: Sequence[str]
) -> list[str]:
    """Structures that nobody labelled in a case: there is nothing to score against."""
    status = conversion["cases"].get(case, {}).get("status", {}) if conversion else {}
    return [name for name in structures if status.get(name) == "unlabelled"]


def summary(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], structures: Sequence[str]
) -> dict[str, Any]:
    """Means over cases for each structure, and the mean of these means.

    Cases in which a structure is not scored (nan) do not count for it; `n` says how many do.
    """
    means: dict[str, Any] = {}
    for name in structures:
        columns = {
            score: np.array([case[name][score] for case in scores.values() if name in case])
            for score in SCORES
        }
        means[name] = {score: _mean(values) for score, values in columns.items()}
        means[name]["n"] = int(np.isfinite(columns["dice"]).sum())
    overall = {s: _mean(np.array([means[n][s] for n in structures], float)) for s in SCORES}
    return {"mean": means, "mean_of_structures": overall}


def leakage_of(
    conversion: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    structures: Sequence[str],
) -> dict[str, Any]:
    """Which scored cases a pre-training set holds as well, and the mean of the others."""
    shared = shared_cases(conversion, scores)
    others = {
        name: {case: own for case, own in scores.items() if case not in cases}
        for name, cases in shared.items()
        if cases
    }
    return {
        "overlap": shared,
        "mean_without_overlap": {
            name: {"n": len(own), **summary(own, structures)["mean_of_structures"]}
            for name, own in others.items()
        },
    }


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan
