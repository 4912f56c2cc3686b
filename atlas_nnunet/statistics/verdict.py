"""Does an arm help against another? Dice alone does not say: false positives have a word in it.

Where a structure is not in the reference, an arm that rightly finds nothing has no Dice, so a false
alarm drops out of every paired Dice. A published transfer gained .08 of lesion Dice and raised the
scans with a false positive from 7 to 201 (PanTS, SegResNet from SuPreM, one fold).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_nnunet.statistics.paired_difference import MIN_CASES, PairedDifference, paired_difference
from atlas_nnunet.statistics.pairing import Pairs, case_means, over_cases

HELPS, HARMS, UNDECIDED = "helps", "harms", "cannot be told apart yet"
Z_95 = 1.96  # two-sided 5 % of the normal distribution
SMALLEST = 1e-6  # a mean Dice difference below this is zero with rounding errors

# (Dice, false positives), as PairedDifference.verdict says them -> answer; "" is anything. The
# first row that fits decides.
RULES = (
    ("", "gain", HARMS),  # more of them
    ("loss", "", HARMS),
    ("gain", "", HELPS),
    ("", "", UNDECIDED),
)


@dataclass(frozen=True)
class Verdict:
    """Answer and reason.

    Attributes:
        answer: HELPS, HARMS or UNDECIDED.
        reason: The numbers that decided, in words.
        dice: Of the cases' means.
        false_positives: Of the cases' sums, over cases with a structure that is not there.
        more_cases: Estimate of how many more would decide; 0 where it is decided, None where the
            cases give no estimate.
    """

    answer: str
    reason: str
    dice: PairedDifference
    false_positives: PairedDifference
    more_cases: int | None


def verdict(
    dice: Pairs,
    false_positives: Pairs,
    *,
    names: tuple[str, str] = ("scratch", "transfer"),
    unit: str = "ml",
) -> Verdict:
    """What paired scores allow to say of the second arm against the first.

    Args:
        dice: Case -> structure -> (first, second), in [0, 1]; nan: does not count.
        false_positives: Case -> structure -> (first, second): what each arm predicted of a
            structure that is not in the case's reference. Structures that are there are left out
            or nan.
        names: Of the arms, for the reason.
        unit: Of `false_positives`.
    """
    gained = over_cases(dice)
    sums = _sums(false_positives).values()
    alarms = paired_difference([a for a, _ in sums], [b for _, b in sums])
    answer = next(
        answer for of_dice, of_alarms, answer in RULES
        if of_dice in ("", gained.verdict) and of_alarms in ("", alarms.verdict)
    )  # fmt: skip
    more = cases_lacking([b - a for a, b in case_means(dice).values()])
    said = [_of_dice(gained, names), _of_alarms(alarms, unit)]
    if answer == UNDECIDED:
        said.append(_of_lacking(gained.n, more))
    return Verdict(answer, "; ".join(said), gained, alarms, more if answer == UNDECIDED else 0)


def cases_lacking(differences: list[float]) -> int | None:
    """How many more cases would put the interval on one side of zero, were they like these.

    (1.96 sd / mean)^2 cases in all, the normal approximation, at least MIN_CASES and one more than
    there are. An estimate from few cases is a rough one: it moves with every case that comes.

    Returns:
        None without two cases that count, or with a mean below SMALLEST.
    """
    finite = [d for d in differences if math.isfinite(d)]
    n = len(finite)
    mean = math.fsum(finite) / n if n else 0.0
    if n < 2 or abs(mean) < SMALLEST:
        return None
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in finite) / (n - 1))
    return max(math.ceil((Z_95 * deviation / mean) ** 2), MIN_CASES, n + 1) - n


def _sums(pairs: Pairs) -> Mapping[str, tuple[float, float]]:
    """Case -> (first, second), all of its falsely found structures together."""
    finite = {
        case: [pair for pair in own.values() if all(map(math.isfinite, pair))]
        for case, own in pairs.items()
    }
    return {
        case: (math.fsum(a for a, _ in own), math.fsum(b for _, b in own))
        for case, own in finite.items()
        if own
    }


def _interval(d: PairedDifference, digits: int) -> str:
    if d.n < 2:
        return "one case has no interval"
    return f"95 % interval {d.low:+.{digits}f} to {d.high:+.{digits}f}"


def _of_dice(d: PairedDifference, names: tuple[str, str]) -> str:
    if d.n == 0:
        return "no case has a Dice in both arms"
    few = f", and fewer than {MIN_CASES} cases decide nothing" if d.n < MIN_CASES else ""
    return (
        f"mean Dice {d.mean_b:.3f} of {names[1]} against {d.mean_a:.3f} of {names[0]} over "
        f"{d.n} cases, paired difference {d.difference:+.3f} ({_interval(d, 3)}){few}"
    )


def _of_alarms(d: PairedDifference, unit: str) -> str:
    if d.n == 0:
        return "false positives were not put to the test: no case lacks a structure"
    word = {"gain": "clearly rise", "loss": "clearly fall"}.get(d.verdict, "do not clearly rise")
    few = f"; fewer than {MIN_CASES} such cases decide nothing" if d.n < MIN_CASES else ""
    return (
        f"false positives {word}: {d.mean_b:.2f} {unit} a case against {d.mean_a:.2f} over the "
        f"{d.n} that lack a structure, paired difference {d.difference:+.2f} "
        f"({_interval(d, 2)}){few}"
    )


def _of_lacking(n: int, more: int | None) -> str:
    if more is None:
        return f"{n} cases give no estimate of how many would decide"
    return f"by their spread about {more} more cases would decide, if others are like these"
