"""atlas-nnunet convert: source folders -> nnUNet_raw, with label status and provenance."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from atlas_nnunet.artefacts import Dataset, partial_path, sweep
from atlas_nnunet.convert.case import Job, convert_case
from atlas_nnunet.convert.outcome import (
    Outcome,
    forget_another_recipe,
    forget_cases,
    refuse_duplicates,
    tell,
)
from atlas_nnunet.convert.selection import REST, Selection
from atlas_nnunet.convert.source import (
    Parted,
    Source,
    chosen_structures,
    open_source,
    part,
    part_by_split,
)
from atlas_nnunet.convert.tree import SourceFile, source_files
from atlas_nnunet.errors import SourceError
from atlas_nnunet.execution import Workers, add_arguments, map_cases
from atlas_nnunet.registry import DatasetCard, card_of, read_custom_card

CUSTOM = "custom"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "atlas_nnunet", "atlas_nnunet/records")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help=f"data set: atlas-nnunet datasets lists them; or {CUSTOM}")
    parser.add_argument("folder", type=Path, help="where the source lies")
    parser.add_argument("--card", type=Path, help=f"with {CUSTOM}: the JSON card you wrote")
    parser.add_argument("-d", dest="number", type=int, help="nnU-Net's number, not the card's")
    parser.add_argument("--name", help="nnU-Net's name after the number, not the card's")
    parser.add_argument("--structures", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--cases", nargs="+", metavar="ID", default=(), help="only these")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many cases at the start")
    parser.add_argument("--train", type=int, help="take so many cases for training; default: all")
    parser.add_argument("--hold-out", default="0",
                        help='so many after them to imagesTs and labelsTs, or "rest"')  # fmt: skip
    parser.add_argument("--split", metavar="NAME", help="part the cases as the set's authors do")
    parser.add_argument("--lists", type=Path, help="folder of a split that is made of lists")
    parser.add_argument("--check", action="store_true",
                        help="read everything, write conversion_check.json only")  # fmt: skip
    add_arguments(parser)
    parser.epilog = (
        "example:\n  atlas-nnunet convert abdomenatlas-1.1-mini /data/AbdomenAtlas1.1Mini -np 16"
    )


def run(args: argparse.Namespace) -> int:
    card = _card(args)
    if not args.folder.is_dir():
        raise SourceError("no such folder", where=str(args.folder), do=card.obtain)
    folder = args.folder.resolve()
    raw = Dataset(card.nnunet_dataset).raw
    with _scratch(None if args.check else raw) as scratch:
        files, broken = source_files(folder, scratch)
        source = open_source(card, files, str(folder))
        card = source.card
        parted = _part(args, source, files)
        structures = chosen_structures(card, args.structures)
        jobs = {
            case: Job(card, case, own, structures, case in parted.held_out,
                      None if args.check else raw)
            for case, own in {**parted.train, **parted.held_out}.items()
        }  # fmt: skip
        if not args.check:
            forget_another_recipe(raw, card, structures)
            sweep(*(raw / name for name in FOLDERS))
        entries, refused = map_cases(
            convert_case, jobs, workers=Workers.of(args), describe=f"convert {card.key}"
        )
    if not args.check:
        sweep(*(raw / name for name in FOLDERS))  # what workers left that were killed meanwhile
    refuse_duplicates(entries, refused)
    outcome = Outcome(card, structures, entries, {**broken, **refused}, parted.val)
    if args.check:
        outcome.write_check(raw)
    else:
        forget_cases(raw, set(entries))
        outcome.write(raw)
    tell(outcome, f"{raw} (--check: the report only)" if args.check else str(raw))
    return 1 if outcome.refused else 0


def _card(args: argparse.Namespace) -> DatasetCard:
    if (args.key == CUSTOM) != bool(args.card):
        raise SourceError(f"{CUSTOM} and --card go together", where=args.key,
                          do=f"atlas-nnunet convert {CUSTOM} DIR --card my_card.json")  # fmt: skip
    card = read_custom_card(args.card) if args.card else card_of(args.key)
    number, name = card.nnunet_dataset[7:10], card.nnunet_dataset[11:]
    number = number if args.number is None else f"{args.number:03d}"
    return replace(card, nnunet_dataset=f"Dataset{number}_{args.name or name}")


def _part(args: argparse.Namespace, source: Source, files: list[SourceFile]) -> Parted:
    by_number = (args.cases, args.skip, args.train, args.hold_out) != ((), 0, None, "0")
    if args.split:
        if by_number:
            raise SourceError("a split leaves nothing to choose by number", where="--split",
                              do="leave out --cases, --skip, --train and --hold-out")  # fmt: skip
        return part_by_split(source, args.split, files, args.lists)
    if args.hold_out != REST and not args.hold_out.isdigit():
        raise SourceError(f'neither a number nor "{REST}": {args.hold_out}', where="--hold-out",
                          do="give a number")  # fmt: skip
    hold_out = None if args.hold_out == REST else int(args.hold_out)
    return part(source, Selection(tuple(args.cases), args.skip, args.train, hold_out))


@contextmanager
def _scratch(raw: Path | None) -> Iterator[Path]:
    """A folder for the indices of archives, which workers on other machines see as well."""
    if raw is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = partial_path(raw / "atlas_nnunet" / "archives")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
