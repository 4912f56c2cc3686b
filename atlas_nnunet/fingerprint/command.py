"""atlas-nnunet fingerprint: nnUNet_raw -> dataset_fingerprint.json, stock's numbers."""

from __future__ import annotations

import argparse

from atlas_nnunet.artefacts import Dataset, root, write_json
from atlas_nnunet.errors import PlanError
from atlas_nnunet.execution import Workers, add_arguments, map_cases, print_refused
from atlas_nnunet.host import dataset_name, read_json, reader_name
from atlas_nnunet.rawdata import raw_cases

SAMPLES = 10e7  # foreground intensities over the whole set (fingerprint_extractor.py:45, 2.8.1)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")
    add_arguments(parser)
    parser.epilog = "example:\n  atlas-nnunet fingerprint 701 -np 8"


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.fingerprint.case import Job, Record, analyse, merge

    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_raw")))
    dataset_json = read_json(
        dataset.raw / "dataset.json", f"atlas-nnunet convert KEY {dataset.raw}"
    )
    cases = raw_cases(dataset.raw, dataset_json)
    if not cases:
        raise PlanError("no training cases", where=str(dataset.raw / "imagesTr"),
                        do="atlas-nnunet convert KEY DIR")  # fmt: skip
    reader = reader_name(dataset_json, next(iter(cases.values())).images[0])
    jobs = {
        name: Job(name, case.images, case.label, reader, int(SAMPLES // len(cases)),
                  dataset.fingerprint_records / f"{name}.npz")
        for name, case in cases.items()
    }  # fmt: skip
    done, refused = map_cases(analyse, jobs, workers=Workers.of(args), describe="fingerprint")
    print_refused(refused)
    if refused:
        print("no fingerprint is written while a case is missing from it")
        return 1
    write_json(
        dataset.fingerprint, merge([Record.read(jobs[name].record) for name in sorted(jobs)])
    )
    print(f"{sum(done.values())} of {len(jobs)} cases were new; written: {dataset.fingerprint}")
    return 0
