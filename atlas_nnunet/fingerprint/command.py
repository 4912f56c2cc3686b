"""atlas-nnunet fingerprint: nnUNet_raw -> dataset_fingerprint.json, stock's numbers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_nnunet.artefacts import Dataset, root, sweep, write_json
from atlas_nnunet.errors import AtlasError, PlanError
from atlas_nnunet.execution import Workers, add_arguments, map_cases, print_refused
from atlas_nnunet.host import channel_names, dataset_name, read_json, reader_name
from atlas_nnunet.rawdata import raw_cases

if TYPE_CHECKING:
    from atlas_nnunet.fingerprint.case import Job


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="+", metavar="dataset",
                        help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")  # fmt: skip
    parser.add_argument(
        "-o", dest="together", type=Path, metavar="FILE",
        help="also write the fingerprint of all these data sets together, for plan --fingerprint",
    )  # fmt: skip
    add_arguments(parser, memory=True)
    parser.epilog = (
        "example:\n  atlas-nnunet fingerprint 701 -np 8\n"
        "  atlas-nnunet fingerprint 701 507 -o together.json"
    )


@dataclass(frozen=True)
class Part:
    """A data set, its channels, and its cases in nnU-Net's order."""

    dataset: Dataset
    channels: tuple[str, ...]
    jobs: Mapping[str, Job]
    refused: Mapping[str, AtlasError]

    @property
    def records(self) -> list[Path]:
        return [job.record for job in self.jobs.values()]


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.fingerprint.case import KEPT, LONGER, PROCESS_BYTES, analyse, need_bytes
    from atlas_nnunet.fingerprint.merge import merge

    # In order of names: what is written does not depend on the order of words.
    names = sorted({dataset_name(one, root("nnUNet_raw")) for one in args.datasets})
    if len(names) > 1 and args.together is None:
        raise PlanError(f"{len(names)} data sets and no file for their common fingerprint",
                        do="give -o FILE, or one data set at a time")  # fmt: skip
    parts = [_part(Dataset(name)) for name in names]
    _check_channels(parts)
    jobs = {
        case if len(parts) == 1 else f"{part.dataset.name}/{case}": job
        for part in parts
        for case, job in part.jobs.items()
    }
    workers = Workers.of(args)
    done, refused = map_cases(
        analyse, jobs, workers=workers, describe="fingerprint",
        need_bytes=workers.estimates(need_bytes, jobs, PROCESS_BYTES),
    )  # fmt: skip
    refused |= {case: error for part in parts for case, error in part.refused.items()}
    print_refused(refused)
    longer = sum(outcome == LONGER for outcome in done.values())
    if longer:
        print(f"{longer} cases were read again: of fewer cases, nnU-Net draws more from each")
    if refused:
        print("no fingerprint is written while a case is missing from it")
        return 1
    for part in parts:
        write_json(part.dataset.fingerprint, merge(part.records))
        print(f"written: {part.dataset.fingerprint}")
    if args.together:
        content = merge([path for part in parts for path in part.records])
        content["atlas_nnunet"] = {
            "datasets": {part.dataset.name: len(part.jobs) for part in parts},
            "channel_names": list(parts[0].channels),
        }
        write_json(args.together, content)
        print(f"written: {args.together}, of {len(parts)} data sets together")
    new = sum(outcome != KEPT for outcome in done.values())
    print(f"{new} of {len(jobs)} cases were new")
    return 0


def _part(dataset: Dataset) -> Part:
    from atlas_nnunet.fingerprint.case import Job
    from atlas_nnunet.fingerprint.merge import samples_of_a_case

    hint = f"atlas-nnunet convert KEY {dataset.raw}"
    dataset_json = read_json(dataset.raw / "dataset.json", hint)
    cases, refused = raw_cases(dataset.raw, dataset_json)
    if not cases:
        raise PlanError("no training cases", where=str(dataset.raw / "imagesTr"),
                        do="atlas-nnunet convert KEY DIR")  # fmt: skip
    reader = reader_name(dataset_json, next(iter(cases.values())).images[0])
    folder = dataset.fingerprint_records
    sweep(folder)
    n = samples_of_a_case(len(cases))
    jobs = {
        name: Job(name, case.images, case.label, reader, n, folder / f"{name}.npz")
        for name, case in cases.items()
    }
    return Part(dataset, channel_names(dataset_json), jobs, refused)


def _check_channels(parts: Sequence[Part]) -> None:
    """Raise PlanError unless channel n means the same everywhere."""
    if len({tuple(c.casefold() for c in part.channels) for part in parts}) > 1:
        told = "; ".join(f"{part.dataset.name}: {', '.join(part.channels)}" for part in parts)
        raise PlanError(f"the data sets' channels differ: {told}",
                        do="only images of one kind have one fingerprint")  # fmt: skip
