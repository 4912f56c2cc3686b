"""Means of scores over cases and structures; what is not known counts nowhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from atlas_nnunet.leakage import shared_cases

SCORES = ("dice", "nsd")

Scored = Mapping[str, Mapping[str, Mapping[str, float]]]  # case -> structure -> score -> number


def summary(
    scores: Scored, structures: Sequence[str], pseudo: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """Means over cases for each structure, and the mean of these means.

    Args:
        scores: Case -> structure -> scores; structures of unknown reference are left out.
        structures: All structures of the evaluation.
        pseudo: Case -> structures whose reference is a model's prediction.

    Returns:
        `mean` and `mean_without_pseudo` (structure -> scores and `n`, the number of cases that
        count; the first also has `n_pseudo`, how many of these have a pseudo-label for their
        reference), and `mean_of_structures` and `mean_of_structures_without_pseudo`. A case
        whose score is nan does not count. A mean of nothing is nan.
    """
    drawn = {
        case: {name: row for name, row in own.items() if name not in pseudo.get(case, ())}
        for case, own in scores.items()
    }
    means, without = (_means(rows, structures) for rows in (scores, drawn))
    for name in structures:
        means[name]["n_pseudo"] = means[name]["n"] - without[name]["n"]
    return {
        "mean": means,
        "mean_of_structures": _mean_of(means, structures),
        "mean_without_pseudo": without,
        "mean_of_structures_without_pseudo": _mean_of(without, structures),
    }


def leakage_of(
    conversion: Mapping[str, Any], scores: Scored, structures: Sequence[str]
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
            name: {"n": len(own), **_mean_of(_means(own, structures), structures)}
            for name, own in others.items()
        },
    }


def _means(scores: Scored, structures: Sequence[str]) -> dict[str, dict[str, Any]]:
    means: dict[str, dict[str, Any]] = {}
    for name in structures:
        columns = {
            score: np.array([own[name][score] for own in scores.values() if name in own], float)
            for score in SCORES
        }
        means[name] = {score: _mean(values) for score, values in columns.items()}
        means[name]["n"] = int(np.isfinite(columns["dice"]).sum())
    return means


def _mean_of(means: Mapping[str, Mapping[str, Any]], structures: Sequence[str]) -> dict[str, float]:
    return {s: _mean(np.array([means[n][s] for n in structures], float)) for s in SCORES}


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan
