"""Scores of two arms, paired by case and structure. Cases are the units of every interval.

A patient is drawn from a population; a structure of his, or another training that met him, is
not another patient. So runs and structures are averaged within a case before cases are resampled.
All sums are exact (`math.fsum`): the order of runs, cases and structures does not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from atlas_nnunet.statistics.paired_difference import PairedDifference, paired_difference

Scores = Mapping[str, Mapping[str, float]]  # case -> structure -> number; nan: does not count
Pairs = Mapping[str, Mapping[str, tuple[float, float]]]  # case -> structure -> (a, b)


def mean(values: Iterable[float]) -> float:
    """Mean of the finite ones; nan where there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def averaged(runs: Iterable[Scores]) -> dict[str, dict[str, float]]:
    """Several runs of one arm as one: the mean over those that have a number for a structure."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for case, own in run.items():
            for name, value in own.items():
                found[case][name].append(value)
    return {case: {name: mean(v) for name, v in own.items()} for case, own in found.items()}


def paired(a: Scores, b: Scores) -> dict[str, dict[str, tuple[float, float]]]:
    """What both arms have a number for: a mean over more would compare different things."""
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
    """Pairs of several seeds as one: each side's mean over the seeds that have the pair."""
    several = list(several)
    sides = [
        averaged({c: {s: pair[side] for s, pair in own.items()} for c, own in pairs.items()}
                 for pairs in several)
        for side in (0, 1)
    ]  # fmt: skip
    return paired(*sides)


def case_means(pairs: Pairs, structure: str | None = None) -> dict[str, tuple[float, float]]:
    """Case -> (a, b): of one structure, or the mean over the case's pairs. Others do not count."""
    chosen = {
        case: [pair for name, pair in own.items() if structure in (None, name)]
        for case, own in pairs.items()
    }
    return {
        case: (mean(a for a, _ in own), mean(b for _, b in own))
        for case, own in chosen.items()
        if own
    }


def over_cases(pairs: Pairs, structure: str | None = None) -> PairedDifference:
    """b - a over cases, with its interval."""
    rows = list(case_means(pairs, structure).values())
    return paired_difference([a for a, _ in rows], [b for _, b in rows])
