"""Mean paired difference of two runs over patients, with its 95 % interval.

The interval is chosen by simulation (benchmarks/intervals.py, docs/decisions/0022-intervals.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95
# Below this no distribution-free paired test can reach 5 %, two-sided: the sign test, with all
# patients on one side, has p = 2 * 0.5**n.
MIN_CASES = 6
# Below these the simulation finds more than 5 % errors on skewed differences: fewer than FEW_CASES
# may contain none of the rare large differences; up to SKEW_CASES the skewness of the sample shows.
FEW_CASES = 20
SKEW_CASES = 60
# Bound on |skewness| * t / sqrt(n). Hall's transformation has a flat point where the product is
# near 1: beyond it, 10 of 12 equal gains would have an interval four times as long as that of t. At
# the bound the distance is 1.6 times that of t (error rates for other bounds: decision 0022).
SKEW_LIMIT = 0.8
ROUNDING = 1e-9  # a difference of scores below this is a rounding error


@dataclass(frozen=True)
class PairedDifference:
    """Mean of b - a over the patients that have both.

    Attributes:
        n: Number of patients; a pair with a nan on either side does not count.
        mean_a: Mean of a over these patients.
        mean_b: Mean of b over these patients.
        difference: mean_b - mean_a.
        low: Lower end of the 95 % interval; nan for fewer than two patients.
        high: Upper end.
        deviation: Standard deviation of the differences over patients; nan for fewer than two.
        skewness: Sample skewness G1 of the differences; 0 for fewer than three patients.
        seeds: Numbers of trainings whose chance the interval covers, one for each independent set
            of trainings; empty where it covers patients only.
        seed_errors: Standard error of `difference` due to each of these sets.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    deviation: float = math.nan
    skewness: float = 0.0
    seeds: Sequence[int] = ()
    seed_errors: Sequence[float] = ()

    def beyond(self, margin: float = 0.0) -> int:
        """1 where the interval is above `margin`, -1 where it is below -`margin`, else 0.

        Always 0 with fewer than MIN_CASES patients.
        """
        if self.n < MIN_CASES:
            return 0
        least = max(margin, ROUNDING)
        return int(self.low > least) - int(self.high < -least)

    @property
    def caution(self) -> str:
        """When the interval may err in more than 5 % of comparisons; empty otherwise."""
        if self.n < 2:
            return ""
        if self.n < FEW_CASES:
            return (
                f"{self.n} patients may include none of the rare large differences; where these "
                "exist, the interval errs in more than 5 % of comparisons"
            )
        if self.n < SKEW_CASES and abs(self.skewness) > 2 * skewness_error(self.n):
            return (
                f"the differences are skewed (skewness {self.skewness:+.1f}), so with {self.n} "
                "patients the interval errs in more than 5 % of comparisons"
            )
        return ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """n, both means, and the difference with its interval, for a row of a table."""
        a, b = (f"{m:.3f}" if self.n else "-" for m in (self.mean_a, self.mean_b))
        return str(self.n), a, b, self.interval

    @property
    def interval(self) -> str:
        """Difference and interval as printed; a single patient has no interval."""
        if self.n < 2:
            return f"{self.difference:+.3f}" if self.n else "-"
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    trainings: Sequence[Sequence[Sequence[float]]] = (),
) -> PairedDifference:
    """Mean of b - a with its 95 % interval.

    Over patients: the paired t interval, widened on one side where Hall's skewness-corrected
    interval reaches further (`skew_corrected`). With trainings: the distance of each end from the
    mean is sqrt(e**2 + sum_k t_k**2 * c_k), where e is the patients' distance, c_k the variance of
    the mean due to the k-th set of trainings (`training_variance`) and t_k the 97.5 % quantile of
    t with one degree of freedom less than there are trainings (Banerjee 1960, Sankhya 22:357).

    Sums are exact, so the order of patients and trainings does not change a bit, and swapping a
    and b negates the result exactly.

    Args:
        a: Scores of the first run, one value per patient; nan where the patient does not count.
        b: Scores of the second run, in the same order.
        trainings: Independent sets of trainings. Each is a table of shape (patients, trainings),
            rows in the order of `a`: the scores of repeated trainings of one run, or differences
            of trainings that are paired by seed. A set of one training says nothing.
    """
    rows = [i for i, pair in enumerate(zip(a, b, strict=True)) if all(map(math.isfinite, pair))]
    n = len(rows)
    if n == 0:
        return PairedDifference(0, *(math.nan,) * 5)
    differences = [b[i] - a[i] for i in rows]
    mean_a, mean_b, mean = (
        math.fsum(x) / n for x in ([a[i] for i in rows], [b[i] for i in rows], differences)
    )
    if n == 1:
        return PairedDifference(1, mean_a, mean_b, mean, math.nan, math.nan)
    deviation, skewness = moments(differences)
    below, above = patient_distances(n, deviation, skewness)
    tables = [[table[i] for i in rows] for table in trainings if len(table[0]) > 1]
    seeds = tuple(len(table[0]) for table in tables)
    variances = [training_variance(table) for table in tables]
    extra = math.fsum(
        t_quantile(s - 1) ** 2 * c for s, c in sorted(zip(seeds, variances, strict=True))
    )
    low, high = mean - math.sqrt(below**2 + extra), mean + math.sqrt(above**2 + extra)
    errors = tuple(math.sqrt(c) for c in variances)
    return PairedDifference(n, mean_a, mean_b, mean, low, high, deviation, skewness, seeds, errors)


def moments(differences: Sequence[float]) -> tuple[float, float]:
    """Standard deviation (n - 1) and adjusted skewness G1 (Joanes and Gill 1998).

    Values that agree up to rounding have deviation 0 and skewness 0.
    """
    n = len(differences)
    mean = math.fsum(differences) / n
    off = [d - mean for d in differences]
    if max(map(abs, off)) < ROUNDING * max(map(abs, differences), default=0.0):
        return 0.0, 0.0
    square = math.fsum(x * x for x in off)
    deviation = math.sqrt(square / (n - 1))
    if n < 3 or square == 0:
        return deviation, 0.0
    scale = max(map(abs, off))
    second, third = (math.fsum((x / scale) ** k for x in off) / n for k in (2, 3))
    return deviation, third / second**1.5 * math.sqrt(n * (n - 1)) / (n - 2)


def patient_distances(n: int, deviation: float, skewness: float) -> tuple[float, float]:
    """Distances of the lower and the upper end of the interval from the mean, over patients."""
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    low, high = skew_corrected(n, deviation, skewness)
    return max(half, -low), max(half, high)


def skew_corrected(n: int, deviation: float, skewness: float) -> tuple[float, float]:
    """Ends of Hall's interval relative to the mean (1992, J. R. Statist. Soc. B 54:221).

    His monotone transformation of the studentised mean W = (mean - mu) / deviation is
    g(W) = W + k W**2 / 3 + k**2 W**3 / 27 + k / (6 n) with skewness k; its inverse is taken at
    plus and minus t / sqrt(n), with the quantile of t in place of the normal one. The skewness is
    limited to SKEW_LIMIT * sqrt(n) / t.
    """
    quantile = t_quantile(n - 1) / math.sqrt(n)
    limit = SKEW_LIMIT / quantile
    skewness = min(max(skewness, -limit), limit)

    def inverse(y: float) -> float:
        z = y - skewness / (6 * n)
        root = math.cbrt(1 + skewness * z)
        return 3 * z / (root * root + root + 1)  # = 3 / k * (root - 1), defined at k = 0 as well

    return -deviation * inverse(quantile), -deviation * inverse(-quantile)


def training_variance(table: Sequence[Sequence[float]]) -> float:
    """Variance of the grand mean due to trainings, by the two-way layout without replication.

    (MS_trainings - MS_residual) / (patients * trainings), at least 0 (Searle, Casella and
    McCulloch 1992, Variance Components, section 4.4).

    Args:
        table: Scores, shape (patients, trainings), at least two of each.
    """
    n, s = len(table), len(table[0])
    columns = list(zip(*table, strict=True))
    grand = math.fsum(v for row in table for v in row) / (n * s)
    of_patient = [math.fsum(row) / s for row in table]
    of_training = [math.fsum(column) / n for column in columns]
    between = n * math.fsum((m - grand) ** 2 for m in of_training) / (s - 1)
    residual = math.fsum(
        (table[i][j] - of_patient[i] - of_training[j] + grand) ** 2
        for i in range(n)
        for j in range(s)
    ) / ((n - 1) * (s - 1))
    return max(0.0, between - residual) / (n * s)


def t_quantile(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def skewness_error(n: int) -> float:
    """Standard error of G1 for normal values (Joanes and Gill 1998), at least three of them."""
    return math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
