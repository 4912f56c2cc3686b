"""How many more patients would decide: planned for 80 % power at two-sided 5 %."""

from __future__ import annotations

import math

from scipy.special import nctdtr

from atlas_nnunet.statistics.paired_difference import MIN_CASES, PairedDifference, t_quantile

POWER = 0.8
SMALLEST = 1e-6  # an effect below this is zero with rounding errors
MOST = 100_000  # patients in all; beyond this the answer is "no number"
# The interval is wider than that of the t test where the sample happens to be skewed. One more
# patient makes up for it (measured on normal differences: benchmarks/intervals.py, third table).
SKEW_PRICE = 1


def cases_lacking(d: PairedDifference, margin: float = 0.0) -> int | None:
    """Number of further patients with which 80 % of such experiments would decide.

    The difference and the deviation that were found are taken for the true ones: an estimate from
    few patients is rough, and it changes with each patient that is added.

    Args:
        d: The difference found.
        margin: Difference that the interval has to exceed.

    Returns:
        At least 1, and at least MIN_CASES in all. None where there are fewer than two patients,
        where the difference is not beyond the margin, or where no number decides, since the chance
        of the trainings remains.
    """
    if d.n < 2 or abs(d.difference) - margin < SMALLEST:
        return None
    least = max(MIN_CASES, d.n + 1)
    if power(d, MOST, margin) < POWER:
        return None
    low, high = least - 1, least
    while power(d, high, margin) < POWER:
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(d, middle, margin) < POWER else (low, middle)
    return high - d.n


def power(d: PairedDifference, n: int, margin: float = 0.0) -> float:
    """Probability that the interval over n patients is beyond the margin, on the side of d.

    Noncentral t; over patients alone that of the paired t test with SKEW_PRICE patient fewer.
    With trainings the degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2:110).

    Args:
        d: The difference and its deviations, taken for the true ones.
        n: Patients in all, at least MIN_CASES.
        margin: Difference that the interval has to exceed.
    """
    n -= SKEW_PRICE
    effect = abs(d.difference) - margin
    parts = [(d.deviation**2 / n, n - 1)]
    parts += [(error**2, s - 1) for error, s in zip(d.seed_errors, d.seeds, strict=True)]
    variance = math.fsum(v for v, _ in parts)
    if variance == 0:
        return float(effect > 0)
    degrees = variance**2 / math.fsum(v**2 / free for v, free in parts)
    half = math.sqrt(math.fsum(t_quantile(free) ** 2 * v for v, free in parts))
    noncentrality = effect / math.sqrt(variance)
    if noncentrality > 30:
        return 1.0
    return 1 - float(nctdtr(degrees, noncentrality, half / math.sqrt(variance)))
