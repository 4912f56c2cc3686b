"""Does a run help against another? By Dice, sensitivity and false positives, each with a margin.

Where a structure is not in the reference, a run that rightly finds nothing has no Dice, so a false
positive drops out of every paired Dice. A published transfer gained 0.08 of lesion Dice and raised
the scans with a false positive from 7 to 201 (PanTS, SegResNet from SuPreM, one fold).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_nnunet.statistics.paired_difference import MIN_CASES, PairedDifference
from atlas_nnunet.statistics.pairing import PairedRuns, Pairs, mean, over_cases
from atlas_nnunet.statistics.power import cases_lacking

HELPS, HARMS, MIXED, UNDECIDED = "helps", "harms", "mixed", "undecided"

# Is a measure better beyond its margin? Is one worse? -> answer
ANSWERS = {
    (True, False): HELPS,
    (False, True): HARMS,
    (True, True): MIXED,
    (False, False): UNDECIDED,
}
# Measure -> 1 where more is better, -1 where less is better.
BETTER = {"dice": 1, "detected": 1, "false_positive_ml": -1, "false_scans": -1}


@dataclass(frozen=True)
class Margins:
    """Differences that do not matter yet. A measure decides if its interval is beyond its margin.

    Attributes:
        dice: Mean Dice of a case, in [0, 1].
        detected: Sensitivity: share of a case's reference structures that are found, in [0, 1].
        false_positive_ml: False positives in ml per scan.
        false_scans: Share of scans with a false component of more than `component_ml`.
        component_ml: Volume above which a false component counts. The default is a sphere of 10 mm
            diameter (0.52 ml), the smallest lesion that RECIST 1.1 measures on CT (Eisenhauer et
            al. 2009, Eur. J. Cancer 45:228, section 3.1).
    """

    dice: float = 0.0
    detected: float = 0.05
    false_positive_ml: float = 1.0
    false_scans: float = 0.05
    component_ml: float = 0.5


@dataclass(frozen=True)
class Verdict:
    """Answer and reason.

    Attributes:
        answer: HELPS, HARMS, MIXED or UNDECIDED.
        reason: The numbers that decided, in words.
        measures: Measure -> difference over patients, keys of BETTER.
        more_cases: Estimate of how many more cases would decide with 80 % power; 0 where it is
            decided, None where there is no estimate.
    """

    answer: str
    reason: str
    measures: Mapping[str, PairedDifference]
    more_cases: int | None


def verdict(
    scores: Mapping[str, PairedRuns | Pairs],
    *,
    names: tuple[str, str] = ("scratch", "transfer"),
    margins: Margins | None = None,
    false_scan: str = "a false component",
) -> Verdict:
    """What paired scores allow to conclude about the second run against the first.

    Args:
        scores: Measure (keys of BETTER) -> case -> structure -> (first, second); a measure that
            is missing is unknown. `false_positive_ml` has values where the structure is not in the
            reference, and is summed within a case. `false_scans` is 1 or 0 for each such case, and
            `detected` 1 or 0 for each structure of the reference.
        names: Names of the runs, for the reason.
        margins: Defaults of Margins if None.
        false_scan: What makes a scan count in `false_scans`, for the reason.
    """
    margins = margins or Margins()
    reduce = {"false_positive_ml": math.fsum}
    found = {
        measure: over_cases(scores.get(measure, {}), reduce=reduce.get(measure, mean))
        for measure in BETTER
    }
    signs = {m: BETTER[m] * d.beyond(getattr(margins, m)) for m, d in found.items()}
    answer = ANSWERS[1 in signs.values(), -1 in signs.values()]
    said = [
        _of_dice(found["dice"], names),
        _of_sensitivity(found["detected"], signs["detected"]),
        _of_volume(found["false_positive_ml"], signs["false_positive_ml"], margins),
        _of_scans(found["false_scans"], signs["false_scans"], margins, false_scan),
    ]
    more: int | None = 0
    if answer == UNDECIDED:
        more = cases_lacking(found["dice"], margins.dice)
        said.append(_of_lacking(found["dice"], more, margins.dice))
    return Verdict(answer, "; ".join(said), found, more)


def _interval(d: PairedDifference, scale: float, digits: int, unit: str = "") -> str:
    if d.n < 2:
        return "one case has no interval"
    low, high = d.low * scale, d.high * scale
    return f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}{unit}"


def _few(n: int, of: str) -> str:
    return f", and fewer than {MIN_CASES} {of} decide nothing" if n < MIN_CASES else ""


def _margin(sign: int, better: int, margin: str) -> str:
    """In words where the interval is; `sign` is 1 for better, -1 for worse."""
    word = {1: "clearly more", -1: "clearly fewer", 0: "not clearly different"}[sign * better]
    return f"{word} (margin {margin})"


def _of_dice(d: PairedDifference, names: tuple[str, str]) -> str:
    if d.n == 0:
        return "no case has a Dice in both runs"
    return (
        f"mean Dice {d.mean_b:.3f} of {names[1]} against {d.mean_a:.3f} of {names[0]} over "
        f"{d.n} cases, paired difference {d.difference:+.3f} ({_interval(d, 1, 3)})"
        f"{_few(d.n, 'cases')}"
    )


def _of_sensitivity(d: PairedDifference, sign: int) -> str:
    if d.n == 0:
        return "sensitivity is unknown"
    word = {1: ", clearly higher", -1: ", clearly lower", 0: ""}[sign]
    return f"sensitivity {d.mean_b:.3f} against {d.mean_a:.3f}{word}"


def _of_volume(d: PairedDifference, sign: int, margins: Margins) -> str:
    if d.n == 0:
        return "false positives in ml are unknown, or no case lacks a structure"
    return (
        f"false positives {d.mean_b:.2f} ml per scan against {d.mean_a:.2f} over the {d.n} that "
        f"lack a structure ({_interval(d, 1, 2)}), "
        f"{_margin(sign, -1, f'{margins.false_positive_ml:g} ml')}{_few(d.n, 'such scans')}"
    )


def _of_scans(d: PairedDifference, sign: int, margins: Margins, false_scan: str) -> str:
    if d.n == 0:
        return "scans with a false component are unknown"
    return (
        f"scans with {false_scan}: {d.mean_b:.1%} against {d.mean_a:.1%} of {d.n} "
        f"({_interval(d, 100, 1, ' points')}), "
        f"{_margin(sign, -1, f'{100 * margins.false_scans:g} points')}{_few(d.n, 'such scans')}"
    )


def _of_lacking(d: PairedDifference, more: int | None, margin: float) -> str:
    if more is not None:
        return (
            f"about {more} more cases would decide the Dice (planned for 80 % power, if the others "
            "are like these)"
        )
    if d.n >= 2 and abs(d.difference) > margin and any(d.seed_errors):
        return "no number of cases would decide with these trainings: train with more seeds"
    return f"{d.n} cases give no estimate of how many would decide"
