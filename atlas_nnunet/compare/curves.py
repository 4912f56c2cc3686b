"""Dice against the number of training cases and against iterations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from atlas_nnunet.compare.folds import Curve
from atlas_nnunet.compare.matching import LEVELS
from atlas_nnunet.compare.runs import Run
from atlas_nnunet.statistics.paired_difference import PairedDifference
from atlas_nnunet.statistics.pairing import PairedRuns, Scores, averaged, mean, over_cases


def levels(arms: Mapping[str, Sequence[Run]], field: str) -> list[dict[str, Any]]:
    """Mean Dice of each arm at each value of `field`, over what all points were scored on.

    Args:
        arms: Name -> runs.
        field: "cases" or "iterations"; the other one, where it is known, keeps points apart.

    Returns:
        One row per point: arm, cases, iterations, runs, n, mean, low, high (95 % interval within
        [0, 1], over cases, and over runs where all runs of the point have all cases), seeds (runs
        that the interval covers); n is 0 where the points share no case. No row where no arm has
        two values.
    """
    points: dict[tuple, list[Run]] = {}
    for name, runs in arms.items():
        for run in runs:
            if getattr(run.facts, field) is not None:
                points.setdefault((name, run.facts.cases, run.facts.iterations), []).append(run)
    values: dict[str, set[int]] = {}
    for name, cases, iterations in points:
        values.setdefault(name, set()).add(cases if field == "cases" else iterations)
    if all(len(own) < 2 for own in values.values()):
        return []
    scores = {key: averaged(run.evaluation.scores["dice"] for run in runs)
              for key, runs in points.items()}  # fmt: skip
    names = set.intersection(
        *(set(run.evaluation.structures) for runs in points.values() for run in runs)
    )
    # What every point has a number for: one false alarm, a Dice of 0, is no structure more.
    cells = set.intersection(*(_cells(own, names) for own in scores.values()))
    rows = []
    for key in sorted(points, key=lambda k: (list(arms).index(k[0]), k[1] or 0, k[2] or 0)):
        d = _against_zero(scores[key], [run.evaluation.scores["dice"] for run in points[key]],
                          cells)  # fmt: skip
        low, high = (min(max(end, 0.0), 1.0) if d.n > 1 else end for end in (d.low, d.high))
        rows.append(dict(zip(("arm", *LEVELS), key, strict=True)) | {
            "runs": len(points[key]), "n": d.n, "mean": d.mean_b, "low": low, "high": high,
            "seeds": list(d.seeds),
        })  # fmt: skip
    return rows


def _against_zero(
    point: Scores, runs: Sequence[Scores], cells: Collection[tuple[str, str]]
) -> PairedDifference:
    """The point's mean Dice with its interval, as a difference to 0."""
    wanted: dict[str, list[str]] = {}
    for case, name in sorted(cells):
        wanted.setdefault(case, []).append(name)
    pairs = {c: {s: (0.0, point[c][s]) for s in names} for c, names in wanted.items()}
    return over_cases(PairedRuns(pairs, (tuple(runs),) if len(runs) > 1 else ()))


def _cells(scores: Scores, names: Collection[str]) -> set[tuple[str, str]]:
    return {
        (case, name)
        for case, own in scores.items()
        for name, value in own.items()
        if name in names and math.isfinite(value)
    }


def mean_curve(runs: Sequence[Run]) -> Curve:
    """Mean over runs at the iterations that all of them were measured at."""
    curves = [dict(run.facts.curve) for run in runs]
    common = set.intersection(*(set(own) for own in curves)) if curves else set()
    return tuple((n, mean(own[n] for own in curves)) for n in sorted(common))


def reaching(baseline: Curve, arm: Curve) -> dict[str, Any] | None:
    """When each arm first is where the baseline ends.

    Returns:
        The baseline's last Dice, the first iterations at which a curve is at or above it (None:
        never), and how many times fewer the arm needs; None without both curves.
    """
    if not baseline or not arm:
        return None
    last = baseline[-1][1]
    first = [next((n for n, dice in own if dice >= last), None) for own in (baseline, arm)]
    return {
        "final_dice": last,
        "baseline_iterations": first[0],
        "arm_iterations": first[1],
        "ratio": first[0] / first[1] if first[0] is not None and first[1] else None,
    }
