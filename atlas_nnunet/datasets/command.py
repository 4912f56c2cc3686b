"""atlas-nnunet datasets: the data sets we know, and what each card says."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files

from atlas_nnunet.registry import LABEL_MAP, DatasetCard, card_of, read_registry


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", help="show this card; without it, list all")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.epilog = "example:\n  atlas-nnunet datasets abdomenatlas-1.1-mini"


def run(args: argparse.Namespace) -> int:
    if args.json:
        cards = json.loads((files("atlas_nnunet") / "datasets.json").read_text())
        print(json.dumps(cards[card_of(args.key).key] if args.key else cards, indent=1))
    elif args.key:
        print(shown(card_of(args.key)))
    else:
        print(listed(read_registry()))
    return 0


def listed(cards: dict[str, DatasetCard]) -> str:
    """One line a card."""
    rows = [f"{'key':24}{'role':13}{'structures':>10}  {'in AbdomenAtlas':17}licence"]
    rows += [
        f"{key:24}{card.role:13}{len(card.structures):>10}  "
        f"{card.inside_abdomenatlas['overlap']:17}{card.licence}"
        for key, card in cards.items()
    ]
    return "\n".join(rows)


def shown(card: DatasetCard) -> str:
    """A card for people."""
    inside = card.inside_abdomenatlas
    allowed = {True: "yes", False: "no", None: "not known: read the rules"}
    coding = card.coding()
    lines = [
        f"{card.title}  ({card.key}, {card.nnunet_dataset}, {card.role})",
        f"source      {card.source}",
        f"licence     {card.licence}",
        f"obtain      {card.obtain}",
        f"labels from {card.label_provenance}",
        f"external pre-training allowed: {allowed[card.allows_external_pretraining]}",
        f"inside AbdomenAtlas: {inside['overlap']} ({inside['evidence']})",
        *_files(card),
        f"structures  {len(card.structures)}, in {len(coding.codes) - 1} codes; the later one "
        "keeps a voxel that two may not share:",
        *(f"  {', '.join(card.structures[i : i + 6])}" for i in range(0, len(card.structures), 6)),
    ]
    if card.pseudo_structures:
        predicted = [s for s in card.structures if s in card.pseudo_structures]
        lines.append(f"predicted labels, weight {card.pseudo_weight:g}: {', '.join(predicted)}")
    for one in dict.fromkeys(a for a, _ in card.extra_overlaps):
        others = ["any other" if b == "*" else b for a, b in card.extra_overlaps if a == one]
        lines.append(f"{one} may also share voxels with: {', '.join(others)}")
    for name, own in card.groups.items():
        lines += [f"group {name}: {len(own)} structures", f"  {', '.join(own)}"]
    lines += [f"odd: {q['what']}\n  we: {q['we']}" for q in card.quirks]
    return "\n".join(lines)


def _files(card: DatasetCard) -> list[str]:
    """Where files lie, and what is in them."""
    layout = card.layout
    lines = [
        f"channels    {', '.join(card.channels)}",
        f"images      {', '.join(layout.images)}",
        f"masks       {layout.masks}",
    ]
    if layout.held_out_masks:
        lines.append(f"held out    {', '.join(layout.held_out_images)}; {layout.held_out_masks}")
    if layout.kind == LABEL_MAP:
        for value, members in card.values.sets.items():
            named = [s for s in card.structures if s in members]
            lines.append(f"value {value:>5} = {' + '.join(named) or 'dropped'}")
        return lines
    if layout.pseudo_prefix:
        lines.append(f"a file that begins with {layout.pseudo_prefix!r} is a prediction")
    lines += [f"{s} may be called {', '.join(stems)}" for s, stems in card.files.items()]
    without = "the case is refused" if card.missing_file == "refuse" else card.missing_file
    return [*lines, f"a structure without a file: {without}"]
