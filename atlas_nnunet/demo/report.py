"""The demo's HTML page: one file, nothing from outside, readable without explanation."""

from __future__ import annotations

from html import escape
from pathlib import Path

from atlas_nnunet.artefacts import whole_file
from atlas_nnunet.demo.result import COLUMNS, DemoResult, headline, rows
from atlas_nnunet.page import html_list, html_picture, html_table, page
from atlas_nnunet.scoring.tolerances import in_words

KINDS = {"copied": "#0f766e", "adapted": "#7dd3c8", "kept": "#d1d5db"}
KIND_WORDS = {"copied": "loaded as they are", "adapted": "adapted", "kept": "left at their start"}


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page whole."""
    with whole_file(path) as partial:
        partial.write_text(report(result))


def report(result: DemoResult) -> str:
    """The page's HTML, a function of the result alone."""
    at = in_words(result.arms["transfer"]["tolerances_mm"])
    sections = [
        ("Dice", html_table(COLUMNS, rows(result, "dice"))),
        (
            f"Normalised surface distance at {at}",
            html_table(COLUMNS, rows(result, "nsd")),
        ),
        *((name, html_picture(png)) for name, png in result.pictures.items()),
        ("Where the target's parameters came from", _shares(result)),
        ("Time of each stage", _seconds(result)),
        ("Notes", _notes(result)),
    ]
    return page(result.title, [headline(result)], sections)


def _shares(result: DemoResult) -> str:
    report = result.transfer_report
    own = report["groups"]
    groups = {
        **{name: own[name] for name in ("encoder", "decoder", "head")},
        "all": report["shares"],
    }
    bars = "".join(
        f"<tr><td>{escape(name)}</td><td><div class=bar>"
        + "".join(
            f"<div title='{KIND_WORDS[kind]}' style='width:{shares[kind]:.1%};background:{colour}'>"
            "</div>"
            for kind, colour in KINDS.items()
        )
        + "</div></td>"
        + "".join(f"<td>{shares[kind]:.1%}</td>" for kind in KINDS)
        + "</tr>"
        for name, shares in groups.items()
    )
    head = "".join(f"<th>{escape(KIND_WORDS[kind])}</th>" for kind in KINDS)
    heads = report["heads"]
    named = ", ".join(f"{t} from {s}" for t, s in heads.items() if s) or "none"
    fresh = ", ".join(t for t, s in heads.items() if not s) or "none"
    return (
        f"<table><tr><th></th><th></th>{head}</tr>{bars}</table>"
        f"<p class=small>Head rows from the source: {escape(named)}. "
        f"At their start: {escape(fresh)}.</p>"
    )


def _seconds(result: DemoResult) -> str:
    body = [(stage, f"{seconds:.0f} s") for stage, seconds in result.seconds.items()]
    total = ("all", f"{sum(result.seconds.values()):.0f} s")
    return html_table(("stage", "time"), [*body, total])


def _notes(result: DemoResult) -> str:
    arms = result.arms.values()
    notes = [
        "Both arms: the same network, patch, batch, number of iterations and seed; the starting "
        "weights, the schedule and the learning rate (each arm's best of those tried) differ.",
        f"Empty masks: {result.arms['transfer']['empty_policy']}.",
        *(f"Unlabelled, not scored: {case}: {', '.join(names)}"
          for case, names in result.arms["transfer"]["not_scored"].items()),
        *(f"Refused: {case}: {why}" for arm in arms for case, why in arm["refused"].items()),
        *result.notes,
    ]  # fmt: skip
    return html_list(notes)
