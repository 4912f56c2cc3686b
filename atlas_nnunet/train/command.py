"""atlas-nnunet train: what nnUNetv2_train does, found without `env` and resumed without `--c`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, content_hash, file_hash, root, write_json
from atlas_nnunet.errors import PlanError, TrainingError
from atlas_nnunet.host import dataset_name, read_json, resolve_configuration
from atlas_nnunet.hosttraining import (
    OUR_TRAINERS,
    PRETRAIN_TRAINER,
    TRANSFER_TRAINER,
    Processes,
    check_device,
    run_host_training,
    split_of,
    use_our_trainers,
)
from atlas_nnunet.progress import silence, training_bar
from atlas_nnunet.settings import SECTION, of_plans

RECORD = "atlas_train.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")
    parser.add_argument("configuration", help="3d_fullres, 3d_lowres, 2d, ...")
    parser.add_argument("fold", help="0 to 4, or all")
    parser.add_argument("-tr", dest="trainer", default=PRETRAIN_TRAINER)
    parser.add_argument("-p", dest="plans", default="AtlasPretrainPlans")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N",
                        help="number of GPUs of this machine that share each batch (default: 1); "
                        "leave it out under torchrun")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true",
                        help="train anew where the plan or the data have changed")  # fmt: skip
    parser.epilog = (
        "example:\n  atlas-nnunet train 701 3d_fullres all\n"
        "the same with nnU-Net's own command:\n"
        '  eval "$(atlas-nnunet env)"\n'
        "  nnUNetv2_train 701 3d_fullres all -tr AtlasPretrainTrainer -p AtlasPretrainPlans\n"
        "several GPUs of one machine:\n  atlas-nnunet train 701 3d_fullres all --num-gpus 4\n"
        "several machines, only with an nnU-Net that supports torchrun (2.8.1 from PyPI does not; "
        "checked at start):\n"
        "  torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d \\\n"
        "      --rdzv-endpoint HOST:PORT \\\n"
        "      -m atlas_nnunet.cli train 701 3d_fullres all"
    )


def run(args: argparse.Namespace) -> int:
    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_preprocessed")))
    check_device(args.device)
    plans = read_json(
        dataset.plans(args.plans), f"atlas-nnunet plan {dataset.name} -p {args.plans}"
    )
    _refuse_trainer(plans, args.trainer)
    processes = Processes.asked_for(args.num_gpus, os.environ)
    processes.check(args.device, _batch_size(plans, args.configuration))
    folder = dataset.run(args.trainer, args.plans, args.configuration, args.fold)
    key = _made_of(dataset, plans, args, processes.n)
    record = folder / RECORD
    known = json.loads(record.read_text())["key"] if record.is_file() else None
    started = any((folder / name).is_file() for name in CHECKPOINTS)
    if known != key and started and not args.overwrite:
        _refuse(folder, args, recorded=known is not None)
    resume = known == key and started
    trained = resume and (folder / CHECKPOINTS[0]).is_file()
    if trained and _is_validated(folder, plans, args):
        print(f"done before: {folder / CHECKPOINTS[0]}")
        return 0
    if processes.rank == 0:
        if not resume:
            _clear(folder)
        write_json(record, {"key": key})
    use_our_trainers()
    try:
        with _shown(f"train {dataset.name}", args, processes):
            run_host_training(
                dataset.name, args.configuration, args.fold, args.trainer, args.plans, args.device,
                resume=resume and not trained, only_validate=trained, num_gpus=args.num_gpus,
            )  # fmt: skip
    except TrainingError as error:
        print(f"atlas-nnunet train: {error}\nlog: {folder}", file=sys.stderr)
        return 1
    if processes.rank == 0:
        print(f"written: {folder / CHECKPOINTS[0]}")
    return 0


def _batch_size(plans: Mapping[str, Any], configuration: str) -> int:
    """Of the plan; 1 for a configuration that it lacks, which nnU-Net refuses."""
    if configuration not in plans["configurations"]:
        return 1
    return int(resolve_configuration(plans, configuration)["batch_size"])


def _shown(
    describe: str, args: argparse.Namespace, processes: Processes
) -> AbstractContextManager[None]:
    """A bar where this process runs our trainer; else the host's own lines, for other trainers and
    for processes that nnU-Net starts itself. One process of a torchrun shows one for all."""
    trains_here = processes.n == 1 or processes.joins
    if args.trainer not in OUR_TRAINERS or not trains_here:
        return nullcontext()
    return training_bar(describe) if processes.rank == 0 else silence()


def _refuse_trainer(plans: Mapping[str, Any], trainer: str) -> None:
    """The default trainer would train a transfer's schedule from random weights.

    Raises:
        PlanError: the plan is a transfer's, the trainer is not.
    """
    if (
        trainer == PRETRAIN_TRAINER
        and "source" in plans.get(SECTION, {})
        and of_plans(plans).transfers
    ):
        raise PlanError(
            f"the plan starts from transferred weights, and {trainer} loads none",
            where="-tr", do=f"give -tr {TRANSFER_TRAINER}",
        )  # fmt: skip


def _refuse(folder: Path, args: argparse.Namespace, *, recorded: bool) -> None:
    """A training of something else lies there.

    Raises:
        PlanError: always.
    """
    anew = "give --overwrite to train anew, or plan under another name with -p"
    if recorded:
        raise PlanError(
            "this run was trained with another plan, other data, other starting weights or another "
            "number of GPUs",
            where=str(folder), do=anew,
        )  # fmt: skip
    words = f"{args.dataset} {args.configuration} {args.fold} -tr {args.trainer} -p {args.plans}"
    raise PlanError(
        "this run was begun by another command, and what it was made of is not known",
        where=str(folder), do=f"go on with it by nnUNetv2_train {words} --c; or {anew}",
    )  # fmt: skip


def _is_validated(folder: Path, plans: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """Whether nnU-Net's final validation is over, which writes its summary last, or not wanted."""
    if args.trainer in OUR_TRAINERS and not of_plans(plans).validates(args.fold):
        return True
    return (folder / "validation" / "summary.json").is_file()


def _clear(folder: Path) -> None:
    """What an earlier training left, before the record names the new one: killed in its first
    epochs, it would else be taken for the old one's end, and the old predictions for its own."""
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "validation", ignore_errors=True)


def _made_of(
    dataset: Dataset, plans: Mapping[str, Any], args: argparse.Namespace, n_processes: int
) -> str:
    """Hash of plan, labels, label status, split, starting weights, preprocessed cases, and the
    number of processes: each draws batches of its own, so that another number is another run."""
    planned = args.configuration in plans["configurations"]
    configuration = resolve_configuration(plans, args.configuration) if planned else {}
    cases = dataset.case_records(configuration.get("data_identifier", ""))
    # Not the records' own hashes: they hold the files' times, which a hard link elsewhere changes.
    records = {
        p.name: json.loads(p.read_text()).get("outputs") for p in sorted(cases.glob("*.json"))
    }
    files: list[Path] = [dataset.preprocessed / "dataset.json", dataset.conversion_for_training]
    split = split_of(dataset, plans, args.configuration, args.fold)
    if args.trainer == TRANSFER_TRAINER:
        files.append(dataset.transferred(args.plans, args.configuration))
    hashes = [file_hash(p) if p.is_file() else None for p in files]
    made_of = [plans, records, hashes, split, args.device, os.environ.get("nnUNet_compile")]
    return content_hash(made_of + [n_processes] * (n_processes > 1))  # old runs keep their key
