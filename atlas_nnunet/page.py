"""Tables in plain text and HTML, and the page around them: one file, nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

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


def page(
    title: str, lead: Sequence[str], sections: Iterable[tuple[str, str]], style: str = ""
) -> str:
    """A whole HTML page.

    Args:
        title: Headline, plain text.
        lead: What the reader must know first, plain text, a paragraph each.
        sections: (heading as plain text, content as HTML).
        style: CSS beside ours.
    """
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    first = "".join(f"<p class=lead>{escape(text)}</p>" for text in lead)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
        f"<h1>{escape(title)}</h1>{first}{body}</html>\n"
    )


def html_table(
    header: Sequence[str], body: Iterable[Sequence[str]], kinds: Iterable[str] | None = None
) -> str:
    """Cells are plain text.

    Args:
        header: Of the columns.
        body: Rows.
        kinds: CSS class of each row.
    """
    head = "".join(f"<th>{escape(c)}</th>" for c in header)
    rows = ["".join(f"<td>{escape(c)}</td>" for c in row) for row in body]
    opened = ["<tr>"] * len(rows) if kinds is None else [f"<tr class={kind}>" for kind in kinds]
    lines = "".join(f"{tag}{row}</tr>" for tag, row in zip(opened, rows, strict=True))
    return f"<table><tr>{head}</tr>{lines}</table>"


def html_list(notes: Iterable[str]) -> str:
    """Notes are plain text."""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def html_picture(png: bytes) -> str:
    """The picture itself, inside the page."""
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    rows = (header, *body)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
