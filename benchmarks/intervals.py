"""Error rates of the intervals that `compare` prints, by simulation (docs/decisions/0022).

Usage:
    python benchmarks/intervals.py                # all four tables, about three minutes
    python benchmarks/intervals.py --experiments 1000

Four tables: comparisons without a true difference that are called one, by interval; the same with
several trainings; experiments of the planned size that decide; verdicts on two equal runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from atlas_nnunet.statistics.paired_difference import MIN_CASES, paired_difference
from atlas_nnunet.statistics.power import cases_lacking
from atlas_nnunet.statistics.verdict import UNDECIDED, Margins, verdict

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
PATIENTS = (6, 8, 12, 20, 40)
RATIOS = (0.0, 0.1, 0.5, 1.0, 2.0)  # variance of trainings / variance of patients
RESAMPLES = 500


def mostly_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Differences near 0 but for 15 % of about +0.3, of which the mean is taken off."""
    small, large = rng.normal(0, 0.01, shape), rng.normal(0.3, 0.1, shape)
    share = 0.15
    return np.where(rng.random(shape) < share, small + large, small) - share * 0.3


DRAWS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 3 df)": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed (log-normal, 0.5)": lambda rng, s: rng.lognormal(0, 0.5, s) - math.exp(0.125),
    "very skewed (log-normal, 1)": lambda rng, s: rng.lognormal(0, 1, s) - math.exp(0.5),
    "mostly 0, 15 % large": mostly_zero,
}


def percentile_bootstrap_errs(rng: np.random.Generator, d: np.ndarray) -> float:
    """Share of rows (experiments, patients) whose percentile interval excludes 0."""
    wrong = 0
    for row in d:
        means = row[rng.integers(0, len(row), (RESAMPLES, len(row)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        wrong += not low <= 0 <= high
    return wrong / len(d)


def t_errs(d: np.ndarray) -> float:
    """The same for the t interval."""
    t = d.mean(1) / (d.std(1, ddof=1) / math.sqrt(d.shape[1]))
    return float((abs(t) > stats.t.ppf(0.975, d.shape[1] - 1)).mean())


def one_training(experiments: int) -> None:
    print("| differences | patients | percentile bootstrap | t | t with skewness (ours) "
          "| with a caution | errs without a caution |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, draw in DRAWS.items():
        for n in PATIENTS:
            rng = np.random.default_rng(n)
            d = draw(rng, (experiments, n))
            found = [paired_difference([0.0] * n, row) for row in d.tolist()]
            wrong = [f.beyond() != 0 for f in found]
            silent = [w and not f.caution for w, f in zip(wrong, found, strict=True)]
            cautious = [bool(f.caution) for f in found]
            shares = (percentile_bootstrap_errs(rng, d[:2000]), t_errs(d),
                      *map(np.mean, (wrong, cautious, silent)))  # fmt: skip
            print(f"| {name} | {n} | " + " | ".join(f"{s:.1%}" for s in shares) + " |", flush=True)


def trainings(
    rng: np.random.Generator, experiments: int, n: int, s: int, ratio: float
) -> np.ndarray:
    """Differences, shape (experiments, patients, trainings): variance of patients 1, of the rest
    0.5, of trainings `ratio`; the true mean is 0."""
    return (
        rng.normal(size=(experiments, n, 1))
        + math.sqrt(ratio) * rng.normal(size=(experiments, 1, s))
        + math.sqrt(0.5) * rng.normal(size=(experiments, n, s))
    )


def satterthwaite_errs(d: np.ndarray) -> float:
    """Share of experiments whose crossed random-effects t interval excludes 0."""
    _, n, s = d.shape
    grand, patient, seed = d.mean((1, 2)), d.mean(2), d.mean(1)
    ms_p, ms_s = s * patient.var(1, ddof=1), n * seed.var(1, ddof=1)
    off = d - patient[:, :, None] - seed[:, None, :] + grand[:, None, None]
    ms_e = (off**2).sum((1, 2)) / ((n - 1) * (s - 1))
    total = np.maximum(ms_p, ms_p + ms_s - ms_e)
    parts = ms_p**2 / (n - 1) + ms_s**2 / (s - 1) + ms_e**2 / ((n - 1) * (s - 1))
    free = np.clip(total**2 / parts, 1, n - 1)
    return float((abs(grand) > stats.t.ppf(0.975, free) * np.sqrt(total / (n * s))).mean())


def two_level_bootstrap_errs(rng: np.random.Generator, d: np.ndarray) -> float:
    """Patients and trainings resampled, percentile interval."""
    _, n, s = d.shape
    wrong = 0
    for table in d:
        p, q = rng.integers(0, n, (RESAMPLES, n)), rng.integers(0, s, (RESAMPLES, s))
        means = table[p[:, :, None], q[:, None, :]].mean((1, 2))
        low, high = np.quantile(means, [0.025, 0.975])
        wrong += not low <= 0 <= high
    return wrong / len(d)


def several_trainings(experiments: int) -> None:
    print("\n| trainings | patients | variance of trainings / of patients "
          "| over patients only | two-level bootstrap | Satterthwaite | ours |\n"
          "|---|---|---|---|---|---|---|")  # fmt: skip
    for s in (2, 3, 5):
        for n in (8, 12, 20):
            for ratio in RATIOS:
                rng = np.random.default_rng(100 * s + n)
                d = trainings(rng, experiments, n, s, ratio)
                ours = np.mean([
                    paired_difference([0.0] * n, np.mean(table, 1).tolist(),
                                      trainings=[table.tolist()]).beyond() != 0
                    for table in d
                ])  # fmt: skip
                shares = (t_errs(d.mean(2)), two_level_bootstrap_errs(rng, d[:1000]),
                          satterthwaite_errs(d), float(ours))  # fmt: skip
                cells = " | ".join(f"{share:.1%}" for share in shares)
                print(f"| {s} | {n} | {ratio:g} | {cells} |", flush=True)


def planned(experiments: int) -> None:
    print("\n| true effect / deviation | planned patients | decide | by (1.96 sd / mean)^2 "
          "| decide |\n|---|---|---|---|---|")  # fmt: skip
    for effect in (1.5, 1.0, 0.7, 0.5, 0.3):
        pilot = paired_difference([0.0, 0.0], [effect - math.sqrt(0.5), effect + math.sqrt(0.5)])
        sizes = [2 + (cases_lacking(pilot) or 0), max(math.ceil((1.96 / effect) ** 2), MIN_CASES)]
        shares = []
        for n in sizes:
            d = np.random.default_rng(n).normal(effect, 1, (experiments, n)).tolist()
            shares.append(np.mean([paired_difference([0.0] * n, row).beyond() == 1 for row in d]))
        print(f"| {effect:g} | {sizes[0]} | {shares[0]:.1%} | {sizes[1]} | {shares[1]:.1%} |")


def equal_runs(rng: np.random.Generator, n: int) -> dict[str, dict]:
    """Two runs of the same quality on n patients: each finds 80 % of the tumours and has a false
    component in 25 % of the scans without one, of a log-normal volume with median 1 ml."""
    cases = [f"case_{i}" for i in range(n)]
    found = rng.random((n, 2)) < 0.8
    ml = (rng.random((n, 2)) < 0.25) * rng.lognormal(0, 1, (n, 2))
    dice = rng.normal(0.6, 0.1, (n, 1)) + rng.normal(0, 0.05, (n, 2))
    values = {"dice": dice, "detected": found, "false_positive_ml": ml, "false_scans": ml > 0.5}
    return {
        name: {c: {"tumour": (float(a), float(b))} for c, (a, b) in zip(cases, v, strict=True)}
        for name, v in values.items()
    }


def verdicts(experiments: int) -> None:
    no_margins = Margins(0.0, 0.0, 0.0, 0.0)
    print("\n| patients | verdicts on equal runs, default margins | without margins |")
    print("|---|---|---|")
    for n in (8, 12, 20, 40):
        rng = np.random.default_rng(n)
        runs = [equal_runs(rng, n) for _ in range(experiments)]
        shares = [
            np.mean([verdict(own, margins=m).answer != UNDECIDED for own in runs])
            for m in (Margins(), no_margins)
        ]
        print(f"| {n} | " + " | ".join(f"{s:.1%}" for s in shares) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000, help="for each cell")
    experiments = parser.parse_args().experiments
    one_training(experiments)
    several_trainings(min(experiments, 4000))
    planned(experiments)
    verdicts(min(experiments, 4000))


if __name__ == "__main__":
    main()
