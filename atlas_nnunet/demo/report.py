"""The demo's HTML page: one file, nothing from outside, readable without explanation."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from atlas_nnunet.artefacts import whole_file
from atlas_nnunet.demo.result import COLUMNS, DemoResult, headline, rows

KINDS = {"copied": "#0f766e", "adapted": "#7dd3c8", "kept": "#d1d5db"}
KIND_WORDS = {"copied": "loaded as they are", "adapted": "adapted", "kept": "left at their start"}

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1f2937;
max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem;border-bottom:1px solid #e5e7eb}
.lead{font-size:1.1rem;background:#f0fdfa;border-left:4px solid #0f766e;padding:.7rem 1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #f3f4f6}
th:first-child,td:first-child{text-align:left}tr:last-child{font-weight:600}
img{max-width:100%}.bar{display:flex;height:1.2rem;width:28rem;max-width:60vw}
.bar div{height:100%}.small{color:#6b7280;font-size:.9rem}
"""


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page whole."""
    with whole_file(path) as partial:
        partial.write_text(page(result))


def page(result: DemoResult) -> str:
    """The page's HTML, a function of the result alone."""
    tolerance = result.arms["transfer"]["tolerance_mm"]
    sections = [
        ("Dice", _table(COLUMNS, rows(result, "dice"))),
        (f"Normalised surface distance at {tolerance:g} mm", _table(COLUMNS, rows(result, "nsd"))),
        *((name, _picture(png)) for name, png in result.pictures.items()),
        ("Where the target's parameters came from", _shares(result)),
        ("Time of each stage", _seconds(result)),
        ("Notes", _notes(result)),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>{content}" for title, content in sections)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{escape(result.title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(result.title)}</h1><p class=lead>{escape(headline(result))}</p>"
        f"{body}</html>\n"
    )


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in header)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in body
    )
    return f"<table><tr>{head}</tr>{lines}</table>"


def _picture(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


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
    return _table(("stage", "time"), [*body, total])


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
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
