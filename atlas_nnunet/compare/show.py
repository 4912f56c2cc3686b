"""The comparison in words and tables; text and page are made of the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_nnunet.compare.matching import LEVELS, WORDS
from atlas_nnunet.page import text_table
from atlas_nnunet.scoring.tolerances import in_words
from atlas_nnunet.statistics.paired_difference import PairedDifference
from atlas_nnunet.statistics.verdict import MIXED, UNDECIDED

Content = Mapping[str, Any]  # of compare.json, or of one of its comparisons
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, header, rows

FIELDS = {name: WORDS[name] for name in LEVELS}


def sentence(one: Content, baseline: str) -> str:
    """The verdict on one arm."""
    answer, reason = one["verdict"]["answer"], one["verdict"]["reason"]
    at = f" at {one['setting']}" if one["setting"] else ""
    words = {
        MIXED: f"{one['arm']} against {baseline} is mixed",
        UNDECIDED: f"{one['arm']} against {baseline} is undecided",
    }.get(answer, f"{one['arm']} {answer} against {baseline}")
    return f"{words}{at}: {reason}."


def interval_sentence(one: Content) -> str:
    """What the intervals of a comparison cover, and when they may err more often than stated."""
    known = one["interval"]
    caution = f"; {known['caution']}" if known["caution"] else ""
    return f"95 % intervals {known['covers']}{caution}."


def overview(result: Content) -> Table | None:
    """A line for each comparison, where there are several."""
    found, baseline = result["comparisons"], result["baseline"]
    if len(found) < 2:
        return None
    known = [name for name in FIELDS if any(one[name] is not None for one in found)]
    header = ("arm", *(FIELDS[name] for name in known), f"Dice of {baseline}", "of the arm",
              "difference [95 %]", "of NSD", f"where {baseline} ends after", "verdict")  # fmt: skip
    rows = []
    for one in found:
        dice, nsd = (PairedDifference(**one[s]["mean_of_a_case"]) for s in ("dice", "nsd"))
        reached = one["reaching"]
        soon = "unknown" if reached is None else str(reached["arm_iterations"] or "never")
        rows.append((
            one["arm"], *("unknown" if one[name] is None else str(one[name]) for name in known),
            f"{dice.mean_a:.3f}", f"{dice.mean_b:.3f}", dice.interval,
            nsd.interval if nsd.n else "unknown", soon, one["verdict"]["answer"],
        ))  # fmt: skip
    return f"all arms against {baseline}, mean of a case", header, rows


def tables(one: Content, baseline: str) -> list[Table]:
    """Scores, false positives and sensitivity of one comparison."""
    out: list[Table] = []
    at = in_words(one["tolerances_mm"])
    titles = {"dice": "Dice", "nsd": f"normalised surface distance at {at}"}
    header = ("structure", "n", baseline, one["arm"], "difference [95 %]")
    for score, title in titles.items():
        own = {**one[score]["structures"], "mean of a case": one[score]["mean_of_a_case"]}
        if own["mean of a case"]["n"]:
            out.append((title, header, [(name, *PairedDifference(**d).cells)
                                        for name, d in own.items()]))  # fmt: skip
    if one["false_positives"] or one["sensitivity"]:
        out.append(_detection_table(one, baseline))
    return out


def _detection_table(one: Content, baseline: str) -> Table:
    """Where a structure is absent: who finds it all the same. Where it is present: who finds it."""
    arms = (baseline, one["arm"])
    header = ("structure", "cases without it", *(f"found by {name}" for name in arms),
              *(f"ml by {name}" for name in arms), "cases with it",
              *(f"sensitivity of {name}" for name in arms))  # fmt: skip
    rows = []
    for name in one["structures"]:
        absent, present = one["false_positives"].get(name), one["sensitivity"].get(name)
        if not (absent or present):
            continue
        without = ("0", *"----") if absent is None else (
            str(absent["cases"]), *(f"{n:.4g}" for n in absent["found"]),
            *("unknown" if math.isnan(v) else f"{v:.2f}" for v in absent["mean_ml"]),
        )  # fmt: skip
        having = ("unknown", "-", "-") if present is None else (
            str(present["cases"]), *(f"{v:.3f}" for v in present["detected"]))  # fmt: skip
        rows.append((name, *without, *having))
    return "false positives (where the reference is empty) and sensitivity", header, rows


def level_table(result: Content, field: str) -> Table | None:
    """Mean Dice of each arm by number of training cases, or by length of the training."""
    rows = result[f"by_{field}"]
    if not rows:
        return None
    known = [name for name in FIELDS if any(row[name] is not None for row in rows)]
    cells = [
        (row["arm"], *("unknown" if row[name] is None else str(row[name]) for name in known),
         str(row["runs"]), _with_interval(row))
        for row in rows
    ]  # fmt: skip
    return (
        f"Dice by {FIELDS[field]}, mean of a case over the {rows[0]['n']} that all points share",
        ("arm", *(FIELDS[name] for name in known), "runs", f"Dice [95 %, {_level_covers(rows)}]"),
        cells,
    )


def _level_covers(rows: Sequence[Mapping[str, Any]]) -> str:
    several = [row for row in rows if row["seeds"]]
    if not several:
        return "over patients only"
    return "over patients and runs" + ("" if len(several) == len(rows) else " where several")


def _with_interval(row: Mapping[str, Any]) -> str:
    """A single case has no interval."""
    if not row["n"]:
        return "-"
    interval = f" [{row['low']:.3f}, {row['high']:.3f}]" if row["n"] > 1 else ""
    return f"{row['mean']:.3f}{interval}"


def reaching_words(one: Content, baseline: str) -> str | None:
    """How soon the arm is where the baseline ends; None without both curves."""
    found = one["reaching"]
    if found is None:
        return None
    at = f"At {one['setting']}: " if one["setting"] else ""
    start = (f"{at}the curve of {baseline} ends at Dice {found['final_dice']:.3f}, where it first "
             f"is after {found['baseline_iterations']} iterations; {one['arm']} ")  # fmt: skip
    if found["arm_iterations"] is None:
        return start + "never."
    times = "" if found["ratio"] is None else f" (ratio {found['ratio']:.2f})"
    return start + f"after {found['arm_iterations']}{times}."


def text(result: Content) -> str:
    """Everything that is printed."""
    baseline = result["baseline"]
    lines: list[str] = []
    whole = overview(result)
    if whole:
        lines += ["", whole[0], *text_table(whole[1], whole[2])]
    for one in result["comparisons"]:
        lines += ["", sentence(one, baseline), interval_sentence(one)]
        for title, header, rows in tables(one, baseline):
            lines += ["", title, *text_table(header, rows)]
        reached = reaching_words(one, baseline)
        lines += ["", reached] if reached else []
        lines += [f"note: {note}" for note in one["notes"]]
    for field in FIELDS:
        level = level_table(result, field)
        if level:
            lines += ["", level[0], *text_table(level[1], level[2])]
    return "\n".join(lines[1:])
