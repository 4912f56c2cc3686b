"""Which runs of an arm are compared with which runs of the baseline.

By number of training cases, iterations and seed, of these by what all runs state and what tells
runs of an arm apart: one scratch run of 1000 epochs and one transfer run of 200 may be compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from atlas_nnunet.compare.runs import Run
from atlas_nnunet.compare.scores import MEASURES
from atlas_nnunet.errors import ComparisonError
from atlas_nnunet.statistics.paired_difference import PairedDifference
from atlas_nnunet.statistics.pairing import (
    PairedRuns,
    Scores,
    averaged,
    differences,
    paired,
    pooled,
)

LEVELS = ("cases", "iterations")
FIELDS = (*LEVELS, "seed")
WORDS = {"cases": "training cases", "iterations": "iterations", "seed": "seed"}


@dataclass(frozen=True)
class Setting:
    """Runs of two arms that were trained alike, but for what the arms differ in.

    Attributes:
        cases: Training cases, where both arms have the same number.
        iterations: The same.
        groups: (baseline's runs, arm's runs), one a seed where seeds are stated.
        notes: What a reader must know of the matching.
    """

    cases: int | None
    iterations: int | None
    groups: tuple[tuple[tuple[Run, ...], tuple[Run, ...]], ...]
    notes: tuple[str, ...]

    @property
    def sides(self) -> tuple[list[Run], list[Run]]:
        """All runs of the baseline, and all of the arm."""
        first = [run for own, _ in self.groups for run in own]
        return first, [run for _, own in self.groups for run in own]

    @property
    def words(self) -> str:
        """For headings; empty where there is one setting only and nothing is known of it."""
        said = [f"{getattr(self, f)} {WORDS[f]}" for f in LEVELS
                if getattr(self, f) is not None]  # fmt: skip
        return ", ".join(said)

    @property
    def tolerance_mm(self) -> float | None:
        """Of the surface distance; None where no run has one."""
        found = [run.evaluation.tolerance_mm for side in self.sides for run in side]
        return next((value for value in found if value is not None), None)

    @property
    def tolerances_mm(self) -> dict[str, float]:
        """Structure -> tolerance of the surface distance, for those that have one."""
        found: dict[str, float] = {}
        for run in (run for side in self.sides for run in side):
            found |= run.evaluation.tolerances_mm
        return {name: found[name] for name in self.structures if name in found}

    @property
    def structures(self) -> list[str]:
        """Those of all runs, in the baseline's order."""
        runs = [run for side in self.sides for run in side]
        common = set.intersection(*(set(run.evaluation.structures) for run in runs))
        return [name for name in self.sides[0][0].evaluation.structures if name in common]

    def scores(self, component_ml: float) -> dict[str, PairedRuns]:
        """Measure -> scores of the baseline and the arm; MEASURES and two that are made of them.

        `false_scans` is 1 for a case with a false component of more than `component_ml`, else 0;
        `any_false_scans` is 1 for a case with any false positive. Both are for cases that lack a
        structure, under the name "scan".

        Args:
            component_ml: Volume above which a false component counts.

        Raises:
            ComparisonError: no common case, no common structure, or unequal tolerances.
        """
        names = self.structures
        _check(self, names)
        found = {m: self._paired(partial(_chosen, measure=m, names=names)) for m in MEASURES}
        for name, measure, above in (
            ("false_scans", "false_component_ml", component_ml),
            ("any_false_scans", "false_positives", 0.0),
        ):
            found[name] = self._paired(partial(_scans, measure=measure, names=names, above=above))
        return found

    def _paired(self, scores_of: Callable[[Run], Scores]) -> PairedRuns:
        """Scores averaged over runs, and the trainings as sources of chance (decision 0022).

        Several groups are trainings paired by seed: one set of differences. In a single group the
        runs of each side are a set of their own.
        """
        groups = [[[scores_of(run) for run in side] for side in group] for group in self.groups]
        pairs = [paired(*(averaged(side) for side in group)) for group in groups]
        sets = (
            [tuple(differences(own) for own in pairs)]
            if len(groups) > 1
            else [tuple(side) for side in groups[0] if len(side) > 1]
        )
        return PairedRuns(pooled(pairs), tuple(sets))

    def covers(self, d: PairedDifference) -> str:
        """Which sources of chance the interval of a difference covers, in words."""
        first, second = (len(side) for side in self.sides)
        names = [side[0].name for side in self.sides]
        if d.seeds and len(self.groups) > 1:
            return f"over patients and {len(self.groups)} seeds"
        if len(d.seeds) == 2:
            return (
                f"over patients and seeds ({first} trainings of {names[0]}, {second} of {names[1]})"
            )
        if d.seeds:
            several, once = (names[0], names[1]) if first > 1 else (names[1], names[0])
            return f"over patients and {d.seeds[0]} seeds of {several}, but {once} was trained once"
        if first == second == 1:
            return "over patients only: one training each"
        if d.n < 2:
            return "over patients only: fewer than two of them"
        return "over patients only: the trainings were not all scored on the same cases"


def settings(baseline: Sequence[Run], arm: Sequence[Run]) -> list[Setting]:
    """Every setting in which both arms have runs, fewest cases first.

    Raises:
        ComparisonError: there is none.
    """
    by, notes = _told_apart_by(baseline, arm)
    groups: dict[tuple, tuple[list[Run], list[Run]]] = defaultdict(lambda: ([], []))
    for side, runs in enumerate((baseline, arm)):
        for run in runs:
            groups[tuple(getattr(run.facts, field) for field in by)][side].append(run)
    lacking = [key for key, sides in groups.items() if not all(sides)]
    for key in sorted(lacking):
        there = next(side for side in groups[key] if side)
        notes.append(f"{len(there)} run(s) of {there[0].name} left out, without counterpart at "
                     f"{_told(by, key)}")  # fmt: skip
    alike: dict[tuple, list[tuple]] = defaultdict(list)
    for key in sorted(groups.keys() - set(lacking)):
        place = tuple(v for field, v in zip(by, key, strict=True) if field != "seed")
        alike[place].append(tuple(tuple(side) for side in groups[key]))
    if not alike:
        raise ComparisonError(
            f"no run of {arm[0].name} matches one of {baseline[0].name}: " + "; ".join(notes),
            do=f"name runs of both arms with the same {', '.join(WORDS[f] for f in by)}",
        )
    return [
        Setting(_shared("cases", own), _shared("iterations", own), tuple(own), tuple(notes))
        for own in alike.values()
    ]


def _told_apart_by(baseline: Sequence[Run], arm: Sequence[Run]) -> tuple[list[str], list[str]]:
    """The fields to match by, and notes on those that cannot serve though arms differ in them."""
    by, notes = [], []
    for field in FIELDS:
        values = [{getattr(run.facts, field) for run in runs} for runs in (baseline, arm)]
        several = any(len(own) > 1 for own in values)
        unknown = any(None in own for own in values)
        if several and not unknown:
            by.append(field)
        elif several:
            notes.append(f"{WORDS[field]}: not stated by all runs, so runs are averaged over them")
        elif values[0] != values[1]:
            said = ["unknown" if v is None else f"{v}" for own in values for v in own]
            notes.append(f"{WORDS[field]}: {baseline[0].name} {said[0]}, {arm[0].name} {said[1]}")
    return by, notes


def _told(by: Sequence[str], key: Sequence[Any]) -> str:
    said = [f"{WORDS[field]} {value}" for field, value in zip(by, key, strict=True)]
    return ", ".join(said)


def _shared(field: str, groups: Sequence[tuple]) -> int | None:
    values = {getattr(run.facts, field) for group in groups for side in group for run in side}
    return values.pop() if len(values) == 1 else None


def _chosen(run: Run, measure: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        case: {name: own[name] for name in names if name in own}
        for case, own in run.evaluation.scores[measure].items()
    }


def _scans(
    run: Run, measure: str, names: Sequence[str], above: float
) -> dict[str, dict[str, float]]:
    """Case -> "scan" -> 1 if any value is above; cases without a value are left out."""
    scores = _chosen(run, measure, names)
    known = {case: [v for v in own.values() if math.isfinite(v)] for case, own in scores.items()}
    return {case: {"scan": float(max(own) > above)} for case, own in known.items() if own}


def _check(setting: Setting, names: Sequence[str]) -> None:
    runs = [run for side in setting.sides for run in side]
    arms = f"{setting.sides[0][0].name} and {setting.sides[1][0].name}"
    if not names:
        said = "; ".join(f"{r.source}: {', '.join(r.evaluation.structures)}" for r in runs)
        raise ComparisonError(
            f"no structure in all runs of {arms}: {said}",
            do="evaluate with one dataset.json, or by one set of names",
        )
    if not set.intersection(*(_held_out(side) for side in setting.sides)):
        said = "; ".join(f"{r.source}: {sorted(r.evaluation.cases)[:3]}" for r in runs)
        raise ComparisonError(
            f"no held-out case in both {arms}; the first are {said}",
            do="score both arms on the same cases",
        )
    tolerances = {r.evaluation.tolerance_mm for r in runs} - {None}
    if len(tolerances) > 1:
        raise ComparisonError(
            f"surface distances at different tolerances, in mm: {tolerances}",
            where=arms, do="evaluate all with one --tolerance-mm",
        )  # fmt: skip


def _held_out(side: Sequence[Run]) -> set[str]:
    return {case for run in side for case in run.evaluation.cases}


def left_out(setting: Setting) -> list[str]:
    """Notes on cases and structures that only one arm has, and on cases that were refused."""
    notes = []
    held_out = [_held_out(side) for side in setting.sides]
    for side, own, other in zip(setting.sides, held_out, held_out[::-1], strict=True):
        name = side[0].name
        if own - other:
            notes.append(f"{len(own - other)} of {len(own)} held-out cases of {name} are not in "
                         "the other arm: left out")  # fmt: skip
        found = {s for run in side for s in run.evaluation.structures} - set(setting.structures)
        if found:
            notes.append(f"structures not in all runs, left out: {', '.join(sorted(found))} "
                         f"({name})")  # fmt: skip
        refused = sum(run.evaluation.refused for run in side)
        if refused:
            notes.append(f"{refused} cases of {name} were refused by evaluate")
    return notes
