"""The receipt as a page: one HTML file, nothing from outside, a function of the receipt alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.page import html_list, html_table, page
from atlas_nnunet.transfer.shares import KINDS
from atlas_nnunet.transfer.voxels import VOXEL_COLUMNS, VoxelAgreement, voxel_table

STYLE = """
th,td{padding:.15rem .7rem;text-align:left;vertical-align:top}tr:last-child{font-weight:400}
.copied{background:#ccfbf1}.adapted{background:#fef9c3}.kept{background:#fee2e2}
"""

HEADS_OF_ROWS = ("parameter", "from", "elements", "what happened", "rule", "how exact")
WORDS = {"copied": "copied", "adapted": "adapted", "kept": "left at its start"}
HOW = {"copied": "copied", "joined": "joined", "kept": "initialised"}


def receipt_page(receipt: Mapping[str, Any]) -> str:
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
        "Head rows": html_table(
            ("target", "how it starts", "rows of the source", "what is preserved"), (
                (row["name"], HOW[row["how"]], row["from"] or "none", row["claim"])
                for row in receipt["head_rows"]
            )),
        f"Do source and target see alike? ({forward['patch'] or 'not looked at'})": html_table(
            ("place", "correlation"), (
                (row["place"], row["why_not"] if row["correlation"] is None
                 else f"{row['correlation']:.3f}") for row in forward["rows"]
            )),
        "Do source and target decide alike, on the same patch?": _decisions(forward),
        "Notes": html_list(said),
        "Every parameter": _rows(receipt["rows"]),
    }  # fmt: skip
    return page(title, [f"{origin}, sha256 {source['sha256'][:16]}"], sections.items(), STYLE)


def _decisions(forward: Mapping[str, Any]) -> str:
    """Voxels of each structure, the rows that differ highlighted."""
    if not forward["voxels"]:
        return html_list([forward["why_not"] or "no head row was joined"])
    found = [VoxelAgreement(**own) for own in forward["voxels"]]
    kinds = ["kept" if own.differs else "copied" for own in found]
    return html_table(VOXEL_COLUMNS, voxel_table(found), kinds)


def _shares(receipt: Mapping[str, Any]) -> str:
    groups = {**{group: receipt["groups"][group] for group in GROUPS}, "all": receipt["shares"]}
    return html_table(("", *(WORDS[kind] for kind in KINDS)), (
        (name, *(f"{own[kind]:.1%}" for kind in KINDS)) for name, own in groups.items()
    ))  # fmt: skip


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    lines, kinds = [], []
    for row in rows:
        parts = {kind: row[kind] for kind in KINDS if row[kind]}
        kinds.append(max(parts, key=lambda kind: parts[kind], default="kept"))
        happened = ", ".join(
            WORDS[kind] + (f" ({n:,})" if len(parts) > 1 else "") for kind, n in parts.items()
        )
        lines.append((row["parameter"], row["source"] or "", f"{sum(parts.values()):,}", happened,
                      row["rule"], row["because"]))  # fmt: skip
    return html_table(HEADS_OF_ROWS, lines, kinds)
