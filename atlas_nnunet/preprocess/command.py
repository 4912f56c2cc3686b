"""atlas-nnunet preprocess: nnUNet_raw + plans -> nnUNet_preprocessed, stock's arrays."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from atlas_nnunet.artefacts import Dataset, file_hash, root, sweep, whole_file
from atlas_nnunet.execution import Workers, add_arguments, map_cases, print_refused
from atlas_nnunet.host import (
    dataset_name,
    read_json,
    resolve_configuration,
    untested_versions,
)
from atlas_nnunet.preprocess.case import Job, forget_cases, preprocess_case, recipe
from atlas_nnunet.rawdata import raw_cases


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")
    parser.add_argument("-p", dest="plans", default="AtlasPretrainPlans", help="plans file")
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    add_arguments(parser)
    parser.epilog = "example:\n  atlas-nnunet preprocess 701 -p AtlasPretrainPlans -np 8"


def run(args: argparse.Namespace) -> int:
    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_raw")))
    plans_file = dataset.plans(args.plans)
    plans = read_json(plans_file, f"atlas-nnunet plan {dataset.name} -p {args.plans}")
    dataset_json = read_json(dataset.raw / "dataset.json", "atlas-nnunet convert KEY DIR")
    for sentence in untested_versions():
        print(f"note: {sentence}")
    config = resolve_configuration(plans, args.configuration)
    cases = raw_cases(dataset.raw, dataset_json)
    folder = dataset.preprocessed / config["data_identifier"]
    made_of = recipe(plans, args.configuration, dataset_json)
    records = dataset.preprocessed / "atlas_nnunet" / config["data_identifier"]
    sweep(folder, records)
    jobs = {
        name: Job(
            name, case, plans_file, dataset.raw / "dataset.json", args.configuration, made_of,
            folder, records,
        )
        for name, case in cases.items()
    }  # fmt: skip
    done, refused = map_cases(
        preprocess_case, jobs, workers=Workers.of(args), describe="preprocess"
    )
    forget_cases(folder, records, set(done))
    _take_along(dataset, {name: case.label for name, case in cases.items()})
    print_refused(refused)
    print(f"{sum(done.values())} of {len(jobs)} cases were new; written: {folder}")
    return 1 if refused else 0


def _take_along(dataset: Dataset, labels: dict[str, Path]) -> None:
    """What training needs beside the arrays: dataset.json, label status, reference masks."""
    copies = {dataset.raw / "dataset.json": dataset.preprocessed / "dataset.json"}
    if dataset.conversion.is_file():
        copies[dataset.conversion] = dataset.conversion_for_training
    if dataset.splits.is_file():  # fold 0 as the set's authors part it
        copies[dataset.splits] = dataset.preprocessed / dataset.splits.name
    masks = dataset.preprocessed / "gt_segmentations"
    copies |= {path: masks / path.name for path in labels.values() if path.is_file()}
    for source, target in copies.items():
        if not (target.is_file() and file_hash(target) == file_hash(source)):
            with whole_file(target) as partial:
                shutil.copyfile(source, partial)
