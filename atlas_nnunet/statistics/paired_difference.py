"""Is b better than a? The paired difference over cases, with its bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Below this no paired test can tell two arms apart at 5 %, two-sided: 2 * 0.5**n > 0.05, the sign
# test where all cases agree. A bootstrap of so few does not know that.
MIN_CASES = 6


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
        """What interval and number of cases allow to say."""
        if self.n < MIN_CASES:
            return "cannot be told apart"
        if self.low > 0:
            return "gain"
        return "loss" if self.high < 0 else "cannot be told apart"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """n, both means, difference with interval, for a row of a table."""
        a, b = (f"{m:.3f}" if self.n else "-" for m in (self.mean_a, self.mean_b))
        return str(self.n), a, b, self.interval

    @property
    def interval(self) -> str:
        """Difference and interval, as they are printed; a single case has no interval."""
        if self.n < 2:
            return f"{self.difference:+.3f}" if self.n else "-"
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> PairedDifference:
    """Percentile bootstrap over cases (Efron 1979, Annals of Statistics 7:1).

    The order of the cases does not matter, and swapping the arms negates the result, both to the
    last bit: what is drawn from is sorted, in the direction that does not depend on the arms.

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
    differences = pairs[:, 1] - pairs[:, 0]
    mean_a, mean_b, mean = (math.fsum(x) / n for x in (pairs[:, 0], pairs[:, 1], differences))
    low = high = math.nan
    if n > 1:
        low, high = _interval(differences, seed, resamples, level)
    return PairedDifference(n, mean_a, mean_b, mean, low, high)


def _interval(
    differences: np.ndarray, seed: int, resamples: int, level: float
) -> tuple[float, float]:
    drawn = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    up, down = np.sort(differences), np.sort(-differences)
    turned = tuple(down) > tuple(up)
    tail = (1 - level) / 2
    means = (down if turned else up)[drawn].mean(1)
    low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
    if (up == down).all():  # the arms mirror each other, and so must the interval
        high = (high - low) / 2
        low = 0 - high  # -high would print a zero as -0.000
    return (-high, -low) if turned else (low, high)
