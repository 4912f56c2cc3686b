"""The runs to compare: NAME=DIR words, or a file that lists them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import file_hash
from atlas_nnunet.compare.folds import Facts, facts
from atlas_nnunet.compare.scores import Evaluation, find, read
from atlas_nnunet.errors import AtlasError, CollectedError, ComparisonError

KEYS = ("name", "evaluation", "cases", "iterations", "seed", "curve")


@dataclass(frozen=True)
class Run:
    """One training, scored.

    Attributes:
        name: Of its arm.
        source: The evaluation, as it was named.
        sha256: Of the evaluation.
        evaluation: Its scores.
        facts: What is known of the training.
    """

    name: str
    source: str
    sha256: str
    evaluation: Evaluation
    facts: Facts

    def as_json(self) -> dict[str, Any]:
        known = self.facts
        return {
            "evaluation": self.source, "sha256": self.sha256, "cases": known.cases,
            "iterations": known.iterations, "seed": known.seed, "curve": list(known.curve),
        }  # fmt: skip


def gather(words: Sequence[str], listed: Path | None) -> dict[str, list[Run]]:
    """Arm -> its runs, arms in the order they are first named.

    Raises:
        CollectedError: everything that is wrong with any of them.
        ComparisonError: a structure has different tolerances of the surface distance in two runs.
    """
    makers = [partial(_of_word, word) for word in words]
    if listed is not None:
        makers += [partial(_of_row, row, n, listed) for n, row in enumerate(_rows(listed), 1)]
    runs: list[Run] = []
    problems: list[AtlasError] = []
    for make in makers:
        try:
            runs.append(make())
        except AtlasError as error:
            problems.append(error)
    if problems:
        raise CollectedError(problems) if len(problems) > 1 else problems[0]
    _refuse_mixed_tolerances(runs)
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.name, []).append(run)
    return arms


def _refuse_mixed_tolerances(runs: Sequence[Run]) -> None:
    """Surface distances at different tolerances are different measures."""
    found: dict[str, dict[float, str]] = {}
    for run in runs:
        for structure, mm in run.evaluation.tolerances_mm.items():
            found.setdefault(structure, {}).setdefault(mm, f"{run.name} ({run.source})")
    mixed = {structure: own for structure, own in found.items() if len(own) > 1}
    if mixed:
        structure, own = next(iter(mixed.items()))
        said = ", ".join(f"{mm:g} mm in {who}" for mm, who in sorted(own.items()))
        others = f"; so are {', '.join([*mixed][1:])}" if len(mixed) > 1 else ""
        raise ComparisonError(
            f"surface distances of {structure} are at different tolerances: {said}{others}",
            do="evaluate all runs with one --tolerance-mm, against references of one data set",
        )  # fmt: skip


def _of_word(word: str) -> Run:
    name, separator, place = word.partition("=")
    if not (name and separator and place):
        raise ComparisonError(f"not NAME=DIR: {word!r}", do="for example scratch=predicted")
    return _run(name, place, Path(place), facts(Path(place)))


def _rows(listed: Path) -> list[Any]:
    try:
        rows = json.loads(listed.read_text())
    except (OSError, ValueError) as error:
        raise ComparisonError(f"cannot be read: {error}", where=str(listed),
                              do="name a JSON file with --runs") from error  # fmt: skip
    if not isinstance(rows, list):
        raise ComparisonError("not a list", where=str(listed), do=f"list objects of {list(KEYS)}")
    return rows


def _of_row(row: Any, number: int, listed: Path) -> Run:
    """What the row says goes before what the folder says."""
    wrong = _wrong(row)
    if wrong:
        raise ComparisonError("; ".join(wrong), where=f"{listed}, run {number}",
                              do=f"keys are {list(KEYS)}; the first two are needed")  # fmt: skip
    place = listed.parent / row["evaluation"]
    found = facts(place)
    curve = found.curve
    if "curve" in row:
        curve = tuple((n, float(dice)) for n, dice in row["curve"] if dice is not None)
        curve = tuple(point for point in curve if math.isfinite(point[1]))
    own = {key: row.get(key, getattr(found, key)) for key in ("cases", "iterations", "seed")}
    return _run(row["name"], row["evaluation"], place, Facts(**own, curve=curve))


def _wrong(row: Any) -> list[str]:
    """What is wrong with a row of the file, in words."""
    if not isinstance(row, Mapping):
        return [f"not an object: {row!r}"]
    wrong = [f"unknown key {key!r}" for key in row if key not in KEYS]
    for key in ("name", "evaluation"):
        if not isinstance(row.get(key), str) or not row[key]:
            wrong.append(f"{key} is a text, not {row.get(key)!r}")
    for key, least in (("cases", 1), ("iterations", 1), ("seed", 0)):
        if row.get(key) is not None and not _whole(row[key], least):
            wrong.append(f"{key} is a whole number from {least} on, not {row[key]!r}")
    points = row.get("curve", [])
    if not isinstance(points, list) or not all(_point(p) for p in points):
        wrong.append("curve is a list of [iterations, Dice]")
    elif any(a[0] >= b[0] for a, b in pairwise(points)):
        wrong.append("the iterations of curve ascend")
    return wrong


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _whole(value[0], 0)
        and (value[1] is None or isinstance(value[1], int | float))
    )


def _run(name: str, source: str, place: Path, known: Facts) -> Run:
    path = find(place)
    return Run(name, source, file_hash(path), read(path), known)
