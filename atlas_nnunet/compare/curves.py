"""Dice against the number of training cases and against iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_nnunet.compare.folds import Curve
from atlas_nnunet.compare.matching import FIELDS
from atlas_nnunet.compare.runs import Run
from atlas_nnunet.kernels.bootstrap import paired_difference
from atlas_nnunet.kernels.pairing import averaged, mean


def levels(arms: Mapping[str, Sequence[Run]], field: str) -> list[dict[str, Any]]:
    """Mean Dice of each arm at each value of `field`, over the cases that all points share.

    Args:
        arms: Name -> runs.
        field: "cases" or "iterations"; the other one, where it is known, keeps points apart.

    Returns:
        One row a point: arm, cases, iterations, runs, n, mean, low, high (95 %, bootstrap over
        cases); n is 0 where the points share no case. No row where no arm has two values.
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
    means = {key: _case_means(runs, points) for key, runs in points.items()}
    common = set.intersection(*(set(own) for own in means.values()))
    rows = []
    for key in sorted(means, key=lambda k: (list(arms).index(k[0]), k[1] or 0, k[2] or 0)):
        scores = [means[key][case] for case in sorted(common)]
        d = paired_difference([0.0] * len(scores), scores)
        rows.append(dict(zip(("arm", *FIELDS[:2]), key, strict=True)) | {
            "runs": len(points[key]), "n": d.n, "mean": d.mean_b, "low": d.low, "high": d.high,
        })  # fmt: skip
    return rows


def _case_means(runs: Sequence[Run], points: Mapping[tuple, Sequence[Run]]) -> dict[str, float]:
    """Case -> mean Dice over structures and runs; structures of all points only."""
    every = [set(run.evaluation.structures) for own in points.values() for run in own]
    names = set.intersection(*every)
    scores = averaged(run.evaluation.scores["dice"] for run in runs)
    found = {c: mean(v for name, v in own.items() if name in names) for c, own in scores.items()}
    return {case: value for case, value in found.items() if math.isfinite(value)}


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
