"""Score one predicted label map against its reference, structure by structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atlas_nnunet.errors import EvaluationError
from atlas_nnunet.geometry import Relation, relate
from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.scoring.overlap import detected, dice, false_component_ml
from atlas_nnunet.scoring.surface import normalised_surface_distance


@dataclass(frozen=True)
class Job:
    """One case to score.

    Attributes:
        case: Identifier.
        reference: Mask of codes.
        prediction: Mask of codes, on the same grid.
        coding: Coding of both masks.
        structures: Structures to score: those whose reference is known.
        tolerances_mm: Structure -> tolerance of the surface distance.
    """

    case: str
    reference: Path
    prediction: Path
    coding: Coding
    structures: tuple[str, ...]
    tolerances_mm: Mapping[str, float]


def score_case(job: Job) -> dict[str, dict[str, float]]:
    """Structure -> scores (`dice`, `nsd`, `detected`) and volumes in ml.

    Raises:
        EvaluationError: no prediction, or one on another grid.
    """
    if not job.prediction.is_file():
        raise EvaluationError(
            "no prediction", where=job.case, do=f"predict it to {job.prediction.parent}"
        )
    reference, prediction = read_nifti(job.reference), read_nifti(job.prediction)
    if relate(reference.grid, prediction.grid) is not Relation.SAME:
        raise EvaluationError(
            f"the prediction lies on another grid: {prediction.grid}; "
            f"the reference: {reference.grid}",
            where=job.case,
            do="predict the very images that the references belong to",
        )
    codes = [as_integers(v.array, job.case) for v in (reference, prediction)]
    known = codes[0] != job.coding.ignore  # as nnU-Net: evaluate_predictions.py, 2.8.1
    spacing_mm = tuple(float(s) for s in reference.grid.spacing_mm)
    voxel_ml = reference.grid.voxel_ml
    scores = {}
    for name in job.structures:
        truth, found = (job.coding.mask_of(c, name) & known for c in codes)
        tolerance_mm = job.tolerances_mm[name]
        scores[name] = {
            "dice": dice(truth, found),
            "nsd": normalised_surface_distance(truth, found, spacing_mm, tolerance_mm),
            "detected": detected(truth, found),
            "volume_reference_ml": float(truth.sum()) * voxel_ml,
            "volume_prediction_ml": float(found.sum()) * voxel_ml,
            "false_component_ml": false_component_ml(truth, found, voxel_ml),
        }
    return scores
