"""The comparison as a page: one HTML file, nothing from outside, a function of compare.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from atlas_nnunet.compare.show import (
    FIELDS,
    Content,
    Table,
    interval_sentence,
    level_table,
    overview,
    reaching_words,
    sentence,
    tables,
)
from atlas_nnunet.drawing import figure
from atlas_nnunet.page import html_list, html_picture, html_table, page

COLOURS = ("#d97706", "#0f766e", "#7c3aed", "#be123c", "#1d4ed8", "#4d7c0f", "#6b7280")
UNITS = (
    "Intervals: 95 %, paired t over held-out cases, corrected for skewness, and over seeds where "
    "there are several trainings that were scored on the same cases. Structures are averaged "
    "within a case, since another structure is not another patient.",
    "Verdict: a measure decides if its interval lies beyond its margin. Helps: at least one "
    "measure is better and none is worse; harms: the reverse; mixed: both; undecided: neither.",
    "A mean counts the structures of a case that both arms have a score for.",
)


def report(result: Content) -> str:
    """The page's HTML."""
    baseline = result["baseline"]
    title = f"{', '.join(result['arms'][1:])} against {baseline}"
    whole = overview(result)
    lead = [] if whole else [
        f"{sentence(one, baseline)} {interval_sentence(one)}" for one in result["comparisons"]
    ]  # fmt: skip
    sections = [*_overview(whole), *_levels(result), *_curves(result), *_comparisons(result)]
    return page(title, lead, [*sections, ("How to read this", html_list(UNITS))])


def _overview(whole: Table | None) -> Iterator[tuple[str, str]]:
    if whole:
        yield whole[0].capitalize(), html_table(whole[1], whole[2])


def _comparisons(result: Content) -> Iterator[tuple[str, str]]:
    for one in result["comparisons"]:
        of = ", ".join([one["arm"], *([one["setting"]] if one["setting"] else [])])
        if len(result["comparisons"]) > 1:
            said = f"{sentence(one, result['baseline'])} {interval_sentence(one)}"
            yield f"Verdict ({of})", f"<p>{escape(said)}</p>"
        for title, header, rows in tables(one, result["baseline"]):
            yield f"{title} ({of})", html_table(header, rows)
        if one["notes"]:
            yield f"Notes ({of})", html_list(one["notes"])


def _levels(result: Content) -> Iterator[tuple[str, str]]:
    for field, words in FIELDS.items():
        level = level_table(result, field)
        if level is None:
            continue
        content = html_table(level[1], level[2])
        rows = result[f"by_{field}"]
        if rows[0]["n"]:
            content = html_picture(levels_picture(result["arms"], rows, field)) + content
        yield f"Dice against {words}", f"<p class=small>{escape(level[0])}</p>{content}"


def _curves(result: Content) -> Iterator[tuple[str, str]]:
    drawn = [one for one in result["comparisons"] if one["reaching"]]
    if drawn:
        said = [reaching_words(one, result["baseline"]) or "" for one in drawn]
        yield (
            "Dice while training",
            html_picture(curves_picture(result["arms"], drawn)) + html_list(said),
        )


def levels_picture(arms: Sequence[str], rows: Sequence[dict[str, Any]], field: str) -> bytes:
    """Mean Dice with its interval against one field; a line for each arm and other field."""
    other = next(name for name in FIELDS if name != field)
    mixed = any(len({r[other] for r in rows if r["arm"] == arm}) > 1 for arm in arms)
    lines: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["arm"], row[other] if mixed else None), []).append(row)
    with figure(1, 6.4, 3.6) as (_, (axis,), png):
        for number, ((arm, value), own) in enumerate(lines.items()):
            colour = COLOURS[(number if mixed else arms.index(arm)) % len(COLOURS)]
            x, y = [row[field] for row in own], [row["mean"] for row in own]
            label = f"{arm}, {FIELDS[other]} {value}" if mixed else arm
            axis.plot(x, y, "-o", color=colour, label=label)
            axis.fill_between(x, [r["low"] for r in own], [r["high"] for r in own],
                              color=colour, alpha=0.15, linewidth=0)  # fmt: skip
        axis.set_xscale("log")
        ticks = sorted({row[field] for row in rows})
        axis.set(xlabel=FIELDS[field], ylabel="mean Dice of a case", ylim=(0, 1),
                 xticks=ticks, xticklabels=[str(t) for t in ticks])  # fmt: skip
        axis.minorticks_off()
        axis.legend(frameon=False)
    return png.getvalue()


def curves_picture(arms: Sequence[str], comparisons: Sequence[Content]) -> bytes:
    """Dice against iterations, axes for each setting; a dotted line where the baseline ends."""
    settings: dict[str, list[Content]] = {}
    for one in comparisons:
        settings.setdefault(one["setting"], []).append(one)
    with figure(len(settings), 5.2 * len(settings), 3.4) as (_, axes, png):
        for axis, (words, several) in zip(axes, settings.items(), strict=True):
            lines: dict[tuple, None] = {}  # the baseline's once, unless its runs differ
            for one in several:
                names = (arms[0], one["arm"])
                lines |= {(name, tuple(map(tuple, curve))): None
                          for name, curve in zip(names, one["curves"], strict=True)}  # fmt: skip
                axis.axhline(one["reaching"]["final_dice"], color="#9ca3af", linestyle=":")
            for name, curve in lines:
                axis.plot(*zip(*curve, strict=True), color=COLOURS[arms.index(name) % len(COLOURS)],
                          label=name)  # fmt: skip
            axis.set(xlabel="iterations", ylabel="Dice while training", ylim=(0, 1), title=words)
            axis.legend(frameon=False)
    return png.getvalue()
