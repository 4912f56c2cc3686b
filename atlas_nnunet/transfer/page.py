"""The receipt as a page: one HTML file, nothing from outside, a function of the receipt alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.transfer.shares import KINDS

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:72rem;margin:2rem auto;
padding:0 1rem}h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #e5e7eb;vertical-align:top}
.copied{background:#ccfbf1}.adapted{background:#fef9c3}.kept{background:#fee2e2}
"""

HEADS_OF_ROWS = ("parameter", "from", "elements", "what happened", "rule", "how exact")
WORDS = {"copied": "copied", "adapted": "adapted", "kept": "left at its start"}


def page(receipt: Mapping[str, Any]) -> str:
    """The receipt's HTML."""
    source, target = receipt["source"], receipt["target"]
    title = f"Transfer to {target['dataset']} {target['plans']} {target['configuration']}"
    origin = f"from {source['dataset']} {source['plans']} {source['configuration']}"
    said = [
        receipt["levels"]["why"],
        f"normalisation: {receipt['normalisation']['said']}",
        *receipt["notes"],
        *receipt.get("overlap", []),
    ]
    if receipt["unused"]:
        said.append(f"parameters of the source that were not used: {', '.join(receipt['unused'])}")
    forward = receipt["forward"]
    sections = {
        "Shares of parameters": _shares(receipt),
        "Head rows": _table(("target", "source"), (
            (name, origin or "none: left at its start") for name, origin in receipt["heads"].items()
        )),
        f"Do source and target see alike? ({forward['patch'] or 'not looked at'})": _table(
            ("place", "correlation"), (
                (row["place"], row["why_not"] if row["correlation"] is None
                 else f"{row['correlation']:.3f}") for row in forward["rows"]
            )),
        "Notes": "<ul>" + "".join(f"<li>{escape(note)}" for note in said) + "</ul>",
        "Every parameter": _rows(receipt["rows"]),
    }  # fmt: skip
    body = "".join(f"<h2>{escape(name)}</h2>{content}" for name, content in sections.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(origin)}, sha256 {escape(source['sha256'][:16])}</p>{body}</html>\n"
    )


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(c)}" for c in row) for row in body)
    return f"<table><tr>{top}{lines}</table>"


def _shares(receipt: Mapping[str, Any]) -> str:
    groups = {**{group: receipt["groups"][group] for group in GROUPS}, "all": receipt["shares"]}
    return _table(("", *(WORDS[kind] for kind in KINDS)), (
        (name, *(f"{own[kind]:.1%}" for kind in KINDS)) for name, own in groups.items()
    ))  # fmt: skip


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}" for cell in HEADS_OF_ROWS)
    lines = []
    for row in rows:
        parts = {kind: row[kind] for kind in KINDS if row[kind]}
        most = max(parts, key=lambda kind: parts[kind], default="kept")
        happened = ", ".join(
            WORDS[kind] + (f" ({n:,})" if len(parts) > 1 else "") for kind, n in parts.items()
        )
        cells = (row["parameter"], row["source"] or "", f"{sum(parts.values()):,}", happened,
                 row["rule"], row["because"])  # fmt: skip
        lines.append(f"<tr class={most}>" + "".join(f"<td>{escape(cell)}" for cell in cells))
    return f"<table><tr>{top}{''.join(lines)}</table>"
