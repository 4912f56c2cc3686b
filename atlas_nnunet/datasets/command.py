"""atlas-nnunet datasets: the data sets we know, and what each card says."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files

from atlas_nnunet.artefacts import Dataset, root, write_json
from atlas_nnunet.errors import RegistryError
from atlas_nnunet.execution import Workers, add_arguments
from atlas_nnunet.host import dataset_name, read_json
from atlas_nnunet.leakage import KEY, sentences
from atlas_nnunet.registry import MASKS, DatasetCard, card_of, read_registry

OVERLAP = "overlap"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", metavar="KEY", help="show this card; none lists all; "
                        f'or "{OVERLAP} PRETRAINING TARGET", two converted data sets')  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs")
    add_arguments(parser)
    parser.epilog = (
        "examples:\n  atlas-nnunet datasets overlap 701 507\n"
        "  atlas-nnunet datasets abdomenatlas-1.1-mini"
    )


def run(args: argparse.Namespace) -> int:
    if args.what[:1] == [OVERLAP]:
        return overlap(args)
    if len(args.what) > 1:
        raise RegistryError(f"one card at a time, not {args.what}", where="datasets",
                            do="atlas-nnunet datasets KEY")  # fmt: skip
    key = args.what[0] if args.what else None
    if args.json:
        cards = json.loads((files("atlas_nnunet") / "datasets.json").read_text("utf-8"))
        print(json.dumps(cards[card_of(key).key] if key else cards, indent=1))
    elif key:
        print(shown(card_of(key)))
    else:
        print(listed(read_registry()))
    return 0


def overlap(args: argparse.Namespace) -> int:
    """Look for cases in both, write what was found to the target's conversion.json, and tell."""
    from atlas_nnunet.datasets.overlap import find_overlap, thumbnails

    if len(args.what) != 3:
        raise RegistryError("two data sets are needed", where=f"datasets {OVERLAP}",
                            do=f"atlas-nnunet datasets {OVERLAP} PRETRAINING TARGET")  # fmt: skip
    pretraining, target = (Dataset(dataset_name(one, root("nnUNet_raw"))) for one in args.what[1:])
    source, content = (read_json(d.conversion, f"atlas-nnunet convert KEY DIR, for {d.name}")
                       for d in (pretraining, target))  # fmt: skip
    of_source, of_target = (thumbnails(d, c, Workers.of(args))
                            for d, c in ((pretraining, source), (target, content)))  # fmt: skip
    found = find_overlap(source, content, (of_source, of_target))
    content[KEY] = {**content.get(KEY, {}), pretraining.name: found}
    write_json(target.conversion, content)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for case, one in found["cases"].items():
        score = f", similarity {one['similarity']}" if "similarity" in one else ""
        print(f"  {case} = {one['with'] or '(not named)'}, by {one['by']}{score}")
    for case, one in found["alike"].items():
        print(f"  {case} is like {one['with']}, similarity {one['similarity']}: look at both")
    print(f"card: {found['declared']} of {content['key']} is inside AbdomenAtlas")
    print(*sentences(content, content["cases"], pretraining.name), sep="\n")
    print(f"written: {target.conversion}")
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
        *_inside(card),
        *(
            [f"unverified  {card.unverified}: compare with the release before you train"]
            if card.unverified
            else []
        ),
        *_files(card),
        f"structures  {len(card.structures)}, in {len(coding.codes) - 1} codes; the later one "
        "keeps a voxel that two may not share:"
        if card.structures
        else "structures  whatever the files of the masks tell",
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
    for name, split in card.splits.items():
        lines.append(f"split {name} (convert --split {name}): {split['what']}")
    lines += [f"odd: {q['what']}\n  we: {q['we']}" for q in card.quirks]
    return "\n".join(lines)


def _inside(card: DatasetCard) -> list[str]:
    """Which cases are inside AbdomenAtlas, where that is known."""
    inside = card.inside_abdomenatlas
    lines = [f"  its files {inside['files']}"] if "files" in inside else []
    lines += [f"  its cases {inside['pattern']}"] if "pattern" in inside else []
    named = [f"{own} is {theirs or 'one'}" for own, theirs in inside.get("cases", {}).items()]
    return lines + [f"  {', '.join(named[i : i + 4])}" for i in range(0, len(named), 4)]


def _files(card: DatasetCard) -> list[str]:
    """Where files lie, and what is in them."""
    layout = card.layout
    lines = [f"channels    {', '.join(card.channels)}"]
    for number, one in enumerate((layout, *card.other_layouts)):
        lines += ["or"] if number else []
        lines += [f"images      {', '.join(one.images)}", f"masks       {one.masks}"]
        if one.held_out_masks:
            lines.append(f"held out    {', '.join(one.held_out_images)}; {one.held_out_masks}")
        if one.combined:
            lines.append(f"combined    {one.combined}, for structures without a file of their own")
    if layout.channels_in_file:
        lines.append("the channels are the fourth axis of one file")
    if layout.case_pattern != ".*":
        lines.append(f"cases       named like {layout.case_pattern}")
    for value, members in card.values.sets.items():
        named = [s for s in card.structures if s in members]
        lines.append(f"value {value:>5} = {' + '.join(named) or 'dropped'}")
    if card.refuses_identity_affine:
        lines.append("a CT whose affine is the identity is refused")
    if layout.kind != MASKS:
        return [*lines, f"a structure without a voxel in a case: {card.missing_value}"]
    if layout.pseudo_prefix:
        lines.append(f"a file that begins with {layout.pseudo_prefix!r} is a prediction")
    lines += [f"{s} may be called {', '.join(stems)}" for s, stems in card.files.items()]
    without = "the case is refused" if card.missing_file == "refuse" else card.missing_file
    return [*lines, f"a structure without a file: {without}"]
