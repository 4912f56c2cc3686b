"""atlas-nnunet convert: source folders -> nnUNet_raw, with label status and provenance."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, sweep, write_json
from atlas_nnunet.convert.case import Job, convert_case, recipe, record_path
from atlas_nnunet.convert.cases import REST, Selection, find_cases
from atlas_nnunet.errors import AtlasError, RegistryError, SourceError
from atlas_nnunet.execution import map_cases, print_refused
from atlas_nnunet.host import READER
from atlas_nnunet.registry import DatasetCard, card_of
from atlas_nnunet.structures import canonical

SCHEMA = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="data set: atlas-nnunet datasets lists them")
    parser.add_argument("folder", type=Path, help="where the source lies")
    parser.add_argument("-d", dest="number", type=int, help="nnU-Net's number, not the card's")
    parser.add_argument("--name", help="nnU-Net's name after the number, not the card's")
    parser.add_argument("--structures", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--cases", nargs="+", metavar="ID", default=(), help="only these")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many cases at the start")
    parser.add_argument("--train", type=int, help="take so many cases for training; default: all")
    parser.add_argument("--hold-out", default="0",
                        help='so many after them to imagesTs and labelsTs, or "rest"')  # fmt: skip
    parser.add_argument("--check", action="store_true", help="read everything, write nothing")
    parser.add_argument("-np", dest="processes", type=int, default=2, help="worker processes")
    parser.epilog = (
        "example:\n  atlas-nnunet convert abdomenatlas-1.1-mini /data/AbdomenAtlas1.1Mini -np 16"
    )


def run(args: argparse.Namespace) -> int:
    card = _renamed(card_of(args.key), args)
    if not args.folder.is_dir():
        raise SourceError("no such folder", where=str(args.folder), do=card.obtain)
    structures = _chosen(card, args.structures)
    dataset = Dataset(card.nnunet_dataset)
    raw = None if args.check else dataset.raw
    jobs = _jobs(card, args, structures, raw)
    if raw is not None:
        _forget_another_recipe(dataset, card, structures)
        folders = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "atlas_nnunet/records")
        sweep(raw, *(raw / folder for folder in folders))
    entries, refused = map_cases(
        convert_case, jobs, processes=args.processes, describe=f"convert {card.key}"
    )
    training = [case for case, entry in entries.items() if not entry["held_out"]]
    if raw is not None:
        _forget_cases(raw, set(entries))
        write_json(dataset.conversion, _conversion(card, structures, entries, refused))
        if training:
            description = _dataset_json(card, structures, len(training))
            write_json(raw / "dataset.json", description, sort_keys=False)
    _tell(entries, refused)
    where = "nothing written (--check)" if raw is None else f"written: {raw}"
    print(f"{len(training)} training and {len(entries) - len(training)} held-out cases; {where}")
    return 1 if refused else 0


def _renamed(card: DatasetCard, args: argparse.Namespace) -> DatasetCard:
    number, name = card.nnunet_dataset[7:10], card.nnunet_dataset[11:]
    number = number if args.number is None else f"{args.number:03d}"
    return replace(card, nnunet_dataset=f"Dataset{number}_{args.name or name}")


def _chosen(card: DatasetCard, names: list[str] | None) -> tuple[str, ...]:
    wanted = {canonical(name) for name in names or card.structures}
    unknown = sorted(wanted - set(card.structures))
    if unknown:
        raise RegistryError(f"{card.key} has no {unknown}", where="--structures",
                            do=f"choose among {list(card.structures)}")  # fmt: skip
    return tuple(s for s in card.structures if s in wanted)


def _jobs(
    card: DatasetCard, args: argparse.Namespace, structures: tuple[str, ...], raw: Path | None
) -> dict[str, Job]:
    if args.hold_out != REST and not args.hold_out.isdigit():
        raise SourceError(f'neither a number nor "{REST}": {args.hold_out}', where="--hold-out",
                          do="give a number")  # fmt: skip
    hold_out = None if args.hold_out == REST else int(args.hold_out)
    selection = Selection(tuple(args.cases), args.skip, args.train, hold_out)
    train, held_out = selection.of(find_cases(card, args.folder, held_out=False))
    own = find_cases(card, args.folder, held_out=True) if card.layout.held_out_masks else []
    both = sorted(set(own) & {*train, *held_out})
    if both:
        raise SourceError(f"cases both for training and held out: {both[:5]}",
                          where=str(args.folder), do="rename one of them")  # fmt: skip
    folder = args.folder.resolve()
    return {
        case: Job(card, folder, case, structures, case not in train, raw)
        for case in sorted([*train, *held_out, *own])
    }


def _forget_another_recipe(dataset: Dataset, card: DatasetCard, chosen: tuple[str, ...]) -> None:
    """Masks of two codings must not stand under one dataset.json, not even after a crash."""
    if dataset.conversion.is_file():
        known = json.loads(dataset.conversion.read_text())
        if known.get("recipe") != recipe(card, chosen):
            (dataset.raw / "dataset.json").unlink(missing_ok=True)
            dataset.conversion.unlink()


def _forget_cases(raw: Path, kept: set[str]) -> None:
    """Remove what an earlier run converted and this one did not; only what our records name."""
    for record in sorted((raw / "atlas_nnunet" / "records").glob("*.json")):
        known = json.loads(record.read_text())
        if record.stem not in kept:
            for name in known["bytes"]:
                (raw / name).unlink(missing_ok=True)
            record_path(raw, record.stem).unlink()


def _conversion(
    card: DatasetCard, chosen: tuple[str, ...], entries: dict[str, Any],
    refused: dict[str, AtlasError],
) -> dict[str, Any]:  # fmt: skip
    return {
        "schema": SCHEMA,
        "key": card.key,
        "dataset": card.nnunet_dataset,
        "recipe": recipe(card, chosen),
        "structures": list(chosen),
        "codes": [sorted(members) for members in card.coding(chosen).codes],
        "pseudo_weight": card.pseudo_weight,
        "inside_abdomenatlas": dict(card.inside_abdomenatlas),
        "cases": entries,
        "refused": {case: error.what for case, error in refused.items()},
    }


def _dataset_json(card: DatasetCard, chosen: tuple[str, ...], n_training: int) -> dict[str, Any]:
    return {
        "name": card.nnunet_dataset,
        "description": card.title,
        "reference": card.source,
        "licence": card.licence,
        "channel_names": {str(i): name for i, name in enumerate(card.channels)},
        **card.coding(chosen).as_dataset_json(),
        "numTraining": n_training,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": READER,
        "atlas_nnunet": {"key": card.key, "schema": SCHEMA},
    }


def _tell(entries: dict[str, Any], refused: dict[str, AtlasError]) -> None:
    moved = [case for case, entry in entries.items() if entry["geometry"]]
    in_conflict = [case for case, entry in entries.items() if entry["conflicts"]]
    if moved:
        print(f"{len(moved)} case(s) with masks on a grid of their own: {', '.join(moved[:5])}")
    if in_conflict:
        print(f"{len(in_conflict)} case(s) with overlaps settled by priority, see conversion.json")
    print_refused(refused)
