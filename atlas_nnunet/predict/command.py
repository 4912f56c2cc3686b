"""atlas-nnunet predict: checkpoint + images -> label maps, with nnUNetv2_predict's arguments."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, root, sweep, whole_file
from atlas_nnunet.errors import PlanError
from atlas_nnunet.execution import (
    GB,
    Workers,
    add_arguments,
    collect,
    estimates,
    map_cases,
    print_refused,
)
from atlas_nnunet.host import (
    dataset_name,
    network_spec,
    read_json,
    resolve_configuration,
)
from atlas_nnunet.hosttraining import TRANSFER_TRAINER, check_device
from atlas_nnunet.predict.inputs import cases_of, complete
from atlas_nnunet.volume.stock import foreign

# fmt: off
ARGUMENTS: tuple[tuple[str, dict[str, Any]], ...] = (  # nnUNetv2_predict's, beside -d and ours
    ("-i", {"dest": "images", "type": Path, "nargs": "+", "required": True,
            "help": "folder of CASE_0000.nii.gz, CASE_0001.nii.gz, ...; or one case's files"}),
    ("-o", {"dest": "output", "type": Path, "required": True, "help": "folder for label maps"}),
    ("-p", {"dest": "plans", "default": "AtlasTransferPlans"}),
    ("-tr", {"dest": "trainer", "default": TRANSFER_TRAINER}),
    ("-c", {"dest": "configuration", "default": "3d_fullres"}),
    ("-f", {"dest": "folds", "nargs": "+", "default": ["0", "1", "2", "3", "4"]}),
    ("-chk", {"dest": "checkpoint", "default": "checkpoint_final.pth"}),
    ("-step_size", {"type": float, "default": 0.5, "help": "of the window, share of the patch"}),
    ("--disable_tta", {"action": "store_true", "help": "no test-time mirroring"}),
    ("--save_probabilities", {"action": "store_true", "help": "CASE.npz and CASE.pkl too"}),
    ("--regions", {"choices": ("joined", "stock"),
                   "help": "joined: a voxel gets the code of all its regions (default for data "
                   "sets that `convert` made); stock: the last one's label, as nnUNetv2_predict"}),
    ("-prev_stage_predictions", {"dest": "previous", "type": Path,
                                 "help": "the previous stage's label maps, for a cascade"}),
    ("-device", {"choices": ("cuda", "cpu", "mps"), "default": "cuda"}),
    ("--not_on_device", {"action": "store_true", "help": "add logits up in the CPU's memory"}),
    ("-npp", {"type": int, "help": "cases read ahead; default 1 on a GPU, 0 on a CPU"}),
    ("-nps", {"type": int, "help": "cases exported behind; default 1 on a GPU, 0 on a CPU"}),
    ("-num_parts", {"type": int, "default": 1, "help": "of so many calls ..."}),
    ("-part_id", {"type": int, "default": 0, "help": "... this is number 0 to num_parts - 1"}),
    ("--continue_prediction", {"action": "store_true", "help": "always so: nothing is redone"}),
    ("--verbose", {"action": "store_true", "help": "taken for nnUNetv2_predict's sake"}),
    ("--disable_progress_bar", {"action": "store_true", "help": "for logs"}),
)
# fmt: on


def arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", dest="dataset", help="number or name of the data set")
    which.add_argument("-m", dest="model", type=Path, metavar="FOLDER",
                       help="TRAINER__PLANS__CONFIGURATION, instead of -d -tr -p -c")  # fmt: skip
    for flag, words in ARGUMENTS:
        parser.add_argument(flag, **words)
    add_arguments(parser, processes=1, memory=True)
    parser.epilog = (
        "example:\n  atlas-nnunet predict -i imagesTs -o predicted -d 507 -f 0 -device cuda"
    )


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.predict.model import check_folds

    if not 0 <= args.part_id < args.num_parts:
        raise PlanError(f"part {args.part_id} of {args.num_parts}", where="-part_id",
                        do="give 0 to num_parts - 1")  # fmt: skip
    folder = args.model or _model_folder(args)
    check_folds(folder, args.folds, args.checkpoint)
    dataset_json = read_json(folder / "dataset.json", "atlas-nnunet train")
    plans = read_json(folder / "plans.json", "atlas-nnunet train")
    configuration = folder.name.split("__")[-1]
    _check_stage(plans, configuration, args.previous)
    ending = dataset_json["file_ending"]
    channels = network_spec(plans, configuration, dataset_json).channels
    own = [name for name in channels if not name.startswith("previous_stage_")]
    every = cases_of(args.images, ending)
    cases = dict(list(every.items())[args.part_id :: args.num_parts])
    cases, refused = complete(cases, len(own), args.previous, ending)
    check_device(args.device)
    for sentence in foreign(resolve_configuration(plans, configuration), "data", "probabilities"):
        print(sentence)
    jobs = _jobs(args, folder, cases, dataset_json)
    if jobs and next(iter(jobs.values())).model.joined:
        _note_next_stage(plans, configuration)
    sweep(args.output)
    done, broken = _predict(args, jobs)
    for name in ("dataset.json", "plans.json"):  # as nnUNetv2_predict leaves them there
        with whole_file(args.output / name) as partial:
            shutil.copyfile(folder / name, partial)
    refused |= broken
    print_refused(dict(sorted(refused.items())))
    print(f"{sum(done.values())} of {len(jobs)} cases were new; written: {args.output}")
    return 1 if refused else 0


def _model_folder(args: argparse.Namespace) -> Path:
    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_results")))
    return dataset.run(args.trainer, args.plans, args.configuration, args.folds[0]).parent


def _check_stage(plans: Mapping[str, Any], configuration: str, previous: Path | None) -> None:
    stage = resolve_configuration(plans, configuration).get("previous_stage")
    if stage and previous is None:
        raise PlanError(
            f"{configuration} is a cascade's second stage and takes the label maps of {stage}",
            where="-prev_stage_predictions",
            do=f"predict with -c {stage} first, then name that folder",
        )  # fmt: skip
    if previous is not None and not stage:
        raise PlanError(f"{configuration} has no previous stage",
                        where="-prev_stage_predictions", do="leave it out")  # fmt: skip


def _note_next_stage(plans: Mapping[str, Any], configuration: str) -> None:
    """Label maps with the codes of all regions are for our `predict` alone."""
    following = resolve_configuration(plans, configuration).get("next_stage")
    if following:
        print(
            f"note: for {following} by nnUNetv2_predict, predict with --regions stock; "
            "atlas-nnunet predict reads either"
        )


def _jobs(
    args: argparse.Namespace, folder: Path, cases: Mapping[str, tuple[Path, ...]],
    dataset_json: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    from atlas_nnunet.predict.case import Job
    from atlas_nnunet.predict.model import Model, threads_for
    from atlas_nnunet.volume.export import joins

    joined = joins(dataset_json) if args.regions is None else args.regions == "joined"
    model = Model(
        folder.absolute(), tuple(args.folds), args.checkpoint, args.step_size,
        not args.disable_tta, args.device, not args.not_on_device,
        threads_for(args.processes if args.device == "cpu" else 1), joined, args.save_probabilities,
    )  # fmt: skip
    key = model.key()
    ending = dataset_json["file_ending"]
    out = args.output.absolute()
    return {
        case: Job(
            case, tuple(p.absolute() for p in files),
            None if args.previous is None else args.previous.absolute() / (case + ending),
            out / (case + ending), out / "atlas_nnunet" / f"{case}.json", model, key,
        )
        for case, files in cases.items()
    }  # fmt: skip


def _predict(args: argparse.Namespace, jobs: dict[str, Any]) -> tuple[dict, dict]:
    from atlas_nnunet.predict.case import PROCESS_BYTES, need_bytes, predict_case
    from atlas_nnunet.predict.model import load
    from atlas_nnunet.predict.overlap import overlapped

    workers = Workers.of(args)
    shown = not args.disable_progress_bar
    on_cpu = args.device == "cpu"
    if workers.cluster or (workers.processes > 1 and on_cpu):
        need = workers.estimates(need_bytes, jobs, PROCESS_BYTES)
        return map_cases(predict_case, jobs, workers=workers, describe="predict", shown=shown,
                         need_bytes=need)  # fmt: skip
    if workers.processes > 1:
        print(f"note: -np {workers.processes}: on a GPU one process works, and cases overlap in it")
    ahead, behind = (int(not on_cpu) if n is None else n for n in (args.npp, args.nps))
    budget = (workers.memory_gb or math.inf) * GB - PROCESS_BYTES
    need = estimates(need_bytes, jobs, 0)  # told in any case
    if jobs:
        load(next(iter(jobs.values())).model)  # here, and not first in a thread
        largest = max(need.values(), default=0)
        together = max(largest, min(largest * (1 + ahead + behind), budget))
        print(f"memory: at most {(PROCESS_BYTES + together) / GB:.1f} GB by our estimate")
    outcomes = overlapped(jobs, ahead=ahead, behind=behind, need_bytes=need, budget_bytes=budget)
    return collect(outcomes, jobs, "predict", shown=shown)
