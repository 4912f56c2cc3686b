"""What the demo found: scores of both arms, paired by case, as a table that scores alone decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_nnunet.page import text_table
from atlas_nnunet.scoring.tolerances import in_words
from atlas_nnunet.statistics.paired_difference import MIN_CASES, PairedDifference
from atlas_nnunet.statistics.pairing import Pairs, over_cases, paired

ARMS = ("scratch", "transfer")


@dataclass(frozen=True)
class DemoResult:
    """Everything the report shows.

    Attributes:
        title: Headline.
        arms: "scratch" and "transfer" -> content of evaluation.json.
        transfer_report: Content of transfer_report.json.
        curves: Run -> {"train_loss": [...], "val_loss": [...], "dice": [...]}, one an epoch.
        seconds: Stage -> seconds.
        pictures: File name -> PNG bytes (figures.py).
        notes: What a reader must know beside the numbers.
    """

    title: str
    arms: Mapping[str, Mapping[str, Any]]
    transfer_report: Mapping[str, Any]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Mapping[str, float]
    pictures: Mapping[str, bytes]
    notes: Sequence[str]

    @property
    def structures(self) -> list[str]:
        return list(self.arms["transfer"]["structures"])

    @property
    def cases(self) -> list[str]:
        """Cases that both arms were scored on."""
        return sorted(set(self.arms["scratch"]["cases"]) & set(self.arms["transfer"]["cases"]))

    def pairs(self, score: str) -> Pairs:
        """Case -> structure -> (scratch, transfer)."""
        scratch, transfer = (
            {case: {s: _number(own[s].get(score)) for s in self.structures if s in own}
             for case, own in self.arms[arm]["cases"].items()}
            for arm in ARMS
        )  # fmt: skip
        return paired(scratch, transfer)

    def difference(self, score: str, structure: str | None) -> PairedDifference:
        """Transfer minus scratch over cases; `structure` None pairs the cases' means."""
        return over_cases(self.pairs(score), structure)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


COLUMNS = ("structure", "n", "scratch", "transfer", "difference [95 %]")


def rows(result: DemoResult, score: str) -> list[tuple[str, ...]]:
    """Cells of the table: one row a structure, and one for the cases' means."""
    out: list[tuple[str, ...]] = []
    for name in (*result.structures, None):
        out.append((name or "mean of a case", *result.difference(score, name).cells))
    return out


def headline(result: DemoResult) -> str:
    """One sentence that says what the interval allows to say, whoever won."""
    d = result.difference("dice", None)
    verdict = {
        1: "transfer is better than scratch",
        -1: "transfer is worse than scratch",
        0: "the difference between transfer and scratch is undecided",
    }[d.beyond()]
    return (
        f"Over {d.n} held-out cases {verdict}: mean Dice {d.mean_b:.3f} against {d.mean_a:.3f}, "
        f"paired difference {d.difference:+.3f} (95 % interval {d.low:+.3f} to {d.high:+.3f}, "
        "over patients only: one training each)."
        + (f" Fewer than {MIN_CASES} cases decide nothing." if d.n < MIN_CASES else "")
        + (f" {d.caution.capitalize()}." if d.caution else "")
    )


def result_table(result: DemoResult) -> str:
    """Plain text: the headline, then Dice and surface distance of both arms."""
    at = in_words(result.arms["transfer"]["tolerances_mm"])
    titles = {"dice": "Dice", "nsd": f"normalised surface distance at {at}"}
    lines = [headline(result)]
    for score, title in titles.items():
        lines += ["", title, *text_table(COLUMNS, rows(result, score))]
    not_scored = sum(len(v) for v in result.arms["transfer"]["not_scored"].values())
    refused = result.arms["transfer"]["refused"]
    if not_scored:
        lines.append(f"{not_scored} references are unlabelled and not scored")
    if refused:
        lines.append(f"{len(refused)} cases refused: {', '.join(sorted(refused))}")
    return "\n".join(lines)
