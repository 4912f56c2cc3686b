"""Score a folder of predictions and describe the result: the content of evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import without_nan, write_json
from atlas_nnunet.errors import AtlasError, EvaluationError
from atlas_nnunet.execution import Workers, map_cases
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.labelstatus import (
    Conversion,
    Status,
    find_conversion,
    read_conversion,
    status_of,
    structures_with,
)
from atlas_nnunet.scoring.cases import Job, score_case
from atlas_nnunet.scoring.means import leakage_of, summary
from atlas_nnunet.scoring.tolerances import published_for, tolerances

# 2: label status is looked up without being asked for; tolerances by structure; references that
# are pseudo-labels. An evaluation of schema 1 may count unlabelled structures as absent.
SCHEMA = 2
NAME = "evaluation.json"
ENDING = ".nii.gz"
EMPTY_POLICY = "reference and prediction empty: not scored; one of them empty: 0 for Dice and NSD"


@dataclass(frozen=True)
class Task:
    """What to score.

    Attributes:
        predictions: Folder of predicted masks, CASE.nii.gz.
        references: Case -> reference mask.
        folder: The folder that the references belong to, for the tolerances of their data set.
        coding: Coding of predictions and references.
        structures: Names to score.
        conversion: Content of the references' conversion.json, for label status; None where
            every structure of every case counts as annotated.
        fallback_mm: Tolerance of structures for which the dataset card publishes none.
    """

    predictions: Path
    references: Mapping[str, Path]
    folder: Path
    coding: Coding
    structures: tuple[str, ...]
    conversion: Conversion | None
    fallback_mm: float


@dataclass(frozen=True)
class Evaluation:
    """The result.

    Attributes:
        content: Content of evaluation.json, with nan where a number is not known.
        refused: Case -> why it could not be scored.
    """

    content: dict[str, Any]
    refused: dict[str, AtlasError]

    def write(self, path: Path) -> None:
        """Write evaluation.json, whole or not at all."""
        write_json(path, without_nan(self.content))


def references_in(folder: Path) -> dict[str, Path]:
    """Case -> reference mask, for every mask of a folder.

    Raises:
        EvaluationError: there is none.
    """
    folder = folder.absolute()
    found = {p.name.removesuffix(ENDING): p for p in sorted(folder.glob("*" + ENDING))}
    if not found:
        raise EvaluationError(
            f"no *{ENDING}", where=str(folder), do="name the folder of reference masks"
        )
    return found


def conversion_of(references: Path) -> dict[str, Any] | None:
    """Content of the conversion.json that belongs to a folder of references; None for a data set
    that somebody else converted.

    Raises:
        SourceError: the file is broken, or missing although dataset.json promises it.
    """
    path = find_conversion(references)
    return None if path is None else read_conversion(path, "convert the data set again")


def evaluate(
    task: Task, workers: Workers, *, describe: str = "evaluate", shown: bool = True
) -> Evaluation:
    """Score all cases of a task.

    Args:
        task: What to score.
        workers: Who scores.
        describe: Title of the progress bar.
        shown: Whether there is a progress bar.
    """
    found = tolerances(
        task.structures, published_for(task.conversion, task.folder), task.fallback_mm
    )
    unknown_cases: dict[str, AtlasError] = {}
    jobs: dict[str, Job] = {}
    for case, reference in task.references.items():
        try:
            known = tuple(
                name
                for name in task.structures
                if status_of(task.conversion, case, name) is not Status.UNLABELLED
            )
        except AtlasError as error:
            unknown_cases[case] = error
            continue
        prediction = task.predictions / reference.name
        jobs[case] = Job(case, reference, prediction, task.coding, known, found.mm)
    scores, refused = map_cases(score_case, jobs, workers=workers, describe=describe, shown=shown)
    refused = dict(sorted({**unknown_cases, **refused}.items()))
    not_scored, pseudo = (_with(task, jobs, s) for s in (Status.UNLABELLED, Status.PSEUDO))
    content = {
        "schema": SCHEMA,
        "tolerance_mm": task.fallback_mm,
        "tolerances_mm": dict(found.mm),
        "tolerance_sources": dict(found.source),
        "empty_policy": EMPTY_POLICY,
        "label_status": _origin(task.conversion),
        "structures": list(task.structures),
        "cases": scores,
        "not_scored": not_scored,
        "pseudo": pseudo,
        "refused": {case: error.what for case, error in refused.items()},
        **summary(scores, task.structures, pseudo),
        **leakage_of(task.conversion or {}, scores, task.structures),
    }
    return Evaluation(content, refused)


def table(content: Mapping[str, Any]) -> str:
    """Means by structure, for the console; columns without pseudo-labels where there are any."""
    has_pseudo = bool(content["pseudo"])
    rows = [_line("structure", ("n", "Dice", "NSD", "mm"), has_pseudo, ("pseudo", "Dice*", "NSD*"))]
    for name, mean in content["mean"].items():
        other = content["mean_without_pseudo"][name]
        cells = (f"{mean['n']}", *_numbers(mean), f"{content['tolerances_mm'][name]:.4g}")
        rows.append(_line(name, cells, has_pseudo, (f"{mean['n_pseudo']}", *_numbers(other))))
    overall = content["mean_of_structures"], content["mean_of_structures_without_pseudo"]
    cells = ("", *_numbers(overall[0]), "")
    rows.append(_line("mean", cells, has_pseudo, ("", *_numbers(overall[1]))))
    if has_pseudo:
        rows.append("pseudo: cases of n whose reference is a model's prediction; *: without these")
    return "\n".join(rows)


def sentences(content: Mapping[str, Any], where: Path) -> list[str]:
    """What a reader must know of label status, for the console."""
    origin = content["label_status"]
    if origin is None:
        return ["label status: none found, every structure of every case counts as annotated"]
    lines = [f"label status: from the conversion.json of {origin}"]
    unscored = sum(map(len, content["not_scored"].values()))
    if unscored:
        lines.append(
            f"{unscored} references are unlabelled and not scored, see not_scored in {where}"
        )
    return lines


def _with(task: Task, cases: Mapping[str, Job], status: Status) -> dict[str, list[str]]:
    found = {
        case: structures_with(task.conversion, case, task.structures, status) for case in cases
    }
    return {case: names for case, names in found.items() if names}


def _origin(conversion: Conversion | None) -> str | None:
    if conversion is None:
        return None
    return str(conversion.get("dataset", "a data set without a name"))


def _numbers(mean: Mapping[str, Any]) -> tuple[str, str]:
    return f"{mean['dice']:.4f}", f"{mean['nsd']:.4f}"


def _line(name: str, cells: tuple[str, ...], wide: bool, more: tuple[str, ...]) -> str:
    n, dice, nsd, mm = cells
    line = f"{name:32}{n:>5}{dice:>9}{nsd:>9}{mm:>7}"
    return line + ("{:>8}{:>9}{:>9}".format(*more) if wide else "")
