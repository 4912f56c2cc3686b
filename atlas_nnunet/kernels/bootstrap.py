"""Is b better than a? The paired difference over cases, with its bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedDifference:
    """Mean of b - a over the cases that have both.

    Attributes:
        n: Cases that count; a pair with a nan on either side does not.
        mean_a: Over those cases.
        mean_b: Over those cases.
        difference: mean_b - mean_a.
        low: Lower end of the interval; nan for fewer than two cases.
        high: Upper end.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 0:
            return "gain"
        return "loss" if self.high < 0 else "cannot be told apart"


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> PairedDifference:
    """Percentile bootstrap over cases (Efron 1979, Annals of Statistics 7:1).

    Pairs are sorted before they are drawn from, so the result does not depend on their order.

    Args:
        a: Scores of one arm, one a case; nan where the case does not count.
        b: Scores of the other, in the same order.
        seed: Of the resampling.
        resamples: How many.
        level: Of the interval, two-sided.
    """
    pairs = np.array([a, b], np.float64).T.reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(1)]
    n = len(pairs)
    if n == 0:
        return PairedDifference(0, *(math.nan,) * 5)
    mean_a, mean_b = (float(m) for m in pairs.mean(0))
    differences = np.sort(pairs[:, 1] - pairs[:, 0])
    difference = float(differences.mean())
    if n < 2:
        return PairedDifference(n, mean_a, mean_b, difference, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    tail = (1 - level) / 2
    low, high = np.quantile(differences[drawn].mean(1), [tail, 1 - tail])
    return PairedDifference(n, mean_a, mean_b, difference, float(low), float(high))
