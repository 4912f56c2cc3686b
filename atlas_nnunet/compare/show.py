"""The comparison in words and tables; text and page are made of the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from atlas_nnunet.compare.matching import LEVELS, WORDS
from atlas_nnunet.statistics.paired_difference import PairedDifference
from atlas_nnunet.statistics.verdict import UNDECIDED
from atlas_nnunet.page import text_table
from atlas_nnunet.scoring.tolerances import in_words

Content = Mapping[str, Any]  # of compare.json, or of one of its comparisons
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, header, rows

FIELDS = {name: WORDS[name] for name in LEVELS}


def sentence(one: Content, baseline: str) -> str:
    """The verdict on one arm."""
    told = one["verdict"]
    at = f" at {one['setting']}" if one["setting"] else ""
    if told["answer"] == UNDECIDED:
        return f"{one['arm']} and {baseline} {told['answer']}{at}: {told['reason']}."
    return f"{one['arm']} {told['answer']} against {baseline}{at}: {told['reason']}."


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
    """Scores and false positives of one comparison."""
    out: list[Table] = []
    at = in_words(one["tolerances_mm"])
    titles = {"dice": "Dice", "nsd": f"normalised surface distance at {at}"}
    header = ("structure", "n", baseline, one["arm"], "difference [95 %]")
    for score, title in titles.items():
        own = {**one[score]["structures"], "mean of a case": one[score]["mean_of_a_case"]}
        if own["mean of a case"]["n"]:
            out.append((title, header, [(name, *PairedDifference(**d).cells)
                                        for name, d in own.items()]))  # fmt: skip
    if one["false_positives"]:
        ml = [f"{name}, ml a case" for name in (baseline, one["arm"])]
        out.append((
            "false positives: structures found in cases that do not have them",
            ("structure", "cases without it", baseline, one["arm"], *ml),
            [(name, str(own["cases"]), *(f"{n:.4g}" for n in own["found"]),
              *("unknown" if math.isnan(v) else f"{v:.2f}" for v in own["mean_ml"]))
             for name, own in one["false_positives"].items()],
        ))  # fmt: skip
    return out


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
        ("arm", *(FIELDS[name] for name in known), "runs", "Dice [95 %]"),
        cells,
    )


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
        lines += ["", sentence(one, baseline)]
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
