"""atlas-nnunet preprocess: nnUNet_raw + plans -> nnUNet_preprocessed, stock's arrays."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from atlas_nnunet.artefacts import Dataset, file_hash, root, sweep, whole_file
from atlas_nnunet.execution import Workers, add_arguments, map_cases, print_refused
from atlas_nnunet.host import (
    dataset_name,
    read_json,
    resolve_configuration,
    untested_versions,
)
from atlas_nnunet.preprocess.case import (
    PROCESS_BYTES,
    Job,
    forget_cases,
    need_bytes,
    preprocess_case,
    recipe,
)
from atlas_nnunet.rawdata import RawCase, raw_cases
from atlas_nnunet.volume.stock import foreign


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")
    parser.add_argument("-p", dest="plans", default="AtlasPretrainPlans", help="plans file")
    parser.add_argument(
        "-c", dest="configurations", nargs="+", default=["3d_fullres"], metavar="CONFIGURATION",
        help="one or more of 2d 3d_lowres 3d_fullres; default 3d_fullres",
    )  # fmt: skip
    add_arguments(parser, memory=True)
    parser.epilog = "example:\n  atlas-nnunet preprocess 701 -p AtlasPretrainPlans -np 8"


def run(args: argparse.Namespace) -> int:
    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_raw")))
    workers = Workers.of(args)
    plans = read_json(
        dataset.plans(args.plans), f"atlas-nnunet plan {dataset.name} -p {args.plans}"
    )
    dataset_json = read_json(dataset.raw / "dataset.json", "atlas-nnunet convert KEY DIR")
    for sentence in untested_versions():
        print(f"note: {sentence}")
    folders = {  # those that share their data, as a cascade's stages may, are made once
        resolve_configuration(plans, name)["data_identifier"]: name
        for name in reversed(args.configurations)
    }
    cases, refused = raw_cases(dataset.raw, dataset_json)
    print_refused(refused)
    is_bad = bool(refused)
    for identifier, name in reversed(folders.items()):
        for sentence in foreign(resolve_configuration(plans, name), "data", "seg"):
            print(sentence)
        made_of = recipe(plans, name, dataset_json)
        is_bad |= _configuration(dataset, args.plans, name, identifier, made_of, cases, workers)
    _take_along(dataset, cases, dataset_json["file_ending"])
    return 1 if is_bad else 0


def _configuration(
    dataset: Dataset, plans: str, name: str, identifier: str, made_of: str,
    cases: Mapping[str, RawCase], workers: Workers,
) -> bool:  # fmt: skip
    """Make one configuration's arrays; whether a case was refused."""
    folder = dataset.preprocessed / identifier
    records = dataset.case_records(identifier)
    sweep(folder, records)
    jobs = {
        case: Job(case, raw, dataset.plans(plans), dataset.raw / "dataset.json", name, made_of,
                  folder, records)
        for case, raw in cases.items()
    }  # fmt: skip
    done, refused = map_cases(
        preprocess_case, jobs, workers=workers, describe=name,
        need_bytes=workers.estimates(need_bytes, jobs, PROCESS_BYTES),
    )  # fmt: skip
    forget_cases(folder, records, set(done))
    print_refused(refused)
    print(f"{sum(done.values())} of {len(jobs)} cases were new; written: {folder}")
    return bool(refused)


def _take_along(dataset: Dataset, cases: Mapping[str, RawCase], ending: str) -> None:
    """What training needs beside the arrays: dataset.json, label status, reference masks."""
    copies = {dataset.raw / "dataset.json": dataset.preprocessed / "dataset.json"}
    if dataset.conversion.is_file():
        copies[dataset.conversion] = dataset.conversion_for_training
    if dataset.splits.is_file():  # fold 0 as the set's authors part it
        copies[dataset.splits] = dataset.preprocessed / dataset.splits.name
    masks = dataset.preprocessed / "gt_segmentations"
    for source, target in [
        *copies.items(),
        *((raw.label, masks / (case + ending)) for case, raw in cases.items()),
    ]:
        if source.is_file() and not _is_copy(source, target):
            with whole_file(target) as partial:
                shutil.copyfile(source, partial)


def _is_copy(source: Path, target: Path) -> bool:
    return target.is_file() and file_hash(target) == file_hash(source)
