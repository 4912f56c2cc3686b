"""Scores of two runs, paired by case and structure; patients and trainings are kept apart.

A structure of a patient is not another patient, so structures are averaged within a case. Repeated
trainings are averaged as well, and their spread is a source of chance of its own (PairedRuns).
All sums are exact (`math.fsum`): the order of runs, cases and structures does not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from atlas_nnunet.statistics.paired_difference import PairedDifference, paired_difference

Scores = Mapping[str, Mapping[str, float]]  # case -> structure -> number; nan: does not count
Pairs = Mapping[str, Mapping[str, tuple[float, float]]]  # case -> structure -> (a, b)
Reduce = Callable[[Iterable[float]], float]  # values of a case's structures -> value of the case


@dataclass(frozen=True)
class PairedRuns:
    """Pairs averaged over trainings, and the trainings themselves.

    Attributes:
        pairs: Case -> structure -> (a, b), each the mean over trainings.
        trainings: Independent sets of trainings, each as one Scores per training: differences b - a
            of trainings that are paired by seed, or scores of repeated trainings of one run.
    """

    pairs: Pairs
    trainings: tuple[tuple[Scores, ...], ...] = ()


def mean(values: Iterable[float]) -> float:
    """Mean of the finite ones; nan where there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def averaged(runs: Iterable[Scores]) -> dict[str, dict[str, float]]:
    """Several runs as one: the mean over those that have a number for a structure."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for case, own in run.items():
            for name, value in own.items():
                found[case][name].append(value)
    return {case: {name: mean(v) for name, v in own.items()} for case, own in found.items()}


def paired(a: Scores, b: Scores) -> dict[str, dict[str, tuple[float, float]]]:
    """What both runs have a number for: a mean over more would compare different things."""
    return {
        case: {
            name: (a[case][name], b[case][name])
            for name in a[case]
            if name in b[case] and math.isfinite(a[case][name]) and math.isfinite(b[case][name])
        }
        for case in a
        if case in b
    }


def pooled(several: Iterable[Pairs]) -> dict[str, dict[str, tuple[float, float]]]:
    """Pairs of several seeds as one: the mean of each side over the seeds that have the pair."""
    several = list(several)
    sides = [
        averaged(
            {c: {s: pair[side] for s, pair in own.items()} for c, own in pairs.items()}
            for pairs in several
        )
        for side in (0, 1)
    ]
    return paired(*sides)


def differences(pairs: Pairs) -> dict[str, dict[str, float]]:
    """Case -> structure -> b - a."""
    return {case: {s: b - a for s, (a, b) in own.items()} for case, own in pairs.items()}


def case_means(
    pairs: Pairs, structure: str | None = None, reduce: Reduce = mean
) -> dict[str, tuple[float, float]]:
    """Case -> (a, b): of one structure, or reduced over the case's pairs. Others do not count."""
    chosen = {
        case: [pair for name, pair in own.items() if structure in (None, name)]
        for case, own in pairs.items()
    }
    return {
        case: (reduce(a for a, _ in own), reduce(b for _, b in own))
        for case, own in chosen.items()
        if own
    }


def over_cases(
    runs: PairedRuns | Pairs, structure: str | None = None, reduce: Reduce = mean
) -> PairedDifference:
    """b - a over patients, with its interval.

    The interval covers the trainings as well where each of them has a number for every patient;
    where trainings were scored on different cases (folds), it covers patients only.
    """
    runs = runs if isinstance(runs, PairedRuns) else PairedRuns(runs)
    rows = case_means(runs.pairs, structure, reduce)
    tables = [_table(runs.pairs, own, list(rows), structure, reduce) for own in runs.trainings]
    complete = [table for table in tables if table is not None]
    return paired_difference(
        [a for a, _ in rows.values()],
        [b for _, b in rows.values()],
        trainings=complete if len(complete) == len(tables) else (),
    )


def _table(
    pairs: Pairs,
    trainings: tuple[Scores, ...],
    cases: list[str],
    structure: str | None,
    reduce: Reduce,
) -> list[list[float]] | None:
    """Rows of cases, columns of trainings, over the structures that all trainings have.

    None where a case has no structure in all of them.
    """
    rows = []
    for case in cases:
        names = [
            name
            for name in pairs[case]
            if structure in (None, name)
            and all(math.isfinite(own.get(case, {}).get(name, math.nan)) for own in trainings)
        ]
        if not names:
            return None
        rows.append([reduce(own[case][name] for name in names) for own in trainings])
    return rows or None
