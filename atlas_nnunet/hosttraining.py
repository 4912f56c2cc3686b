"""What training asks of nnunetv2: where it finds our trainers, the run itself, and its folds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, write_json
from atlas_nnunet.errors import PlanError, TrainingError
from atlas_nnunet.host import resolve_configuration

PRETRAIN_TRAINER, TRANSFER_TRAINER = OUR_TRAINERS = "AtlasPretrainTrainer", "AtlasTransferTrainer"
N_FOLDS, SEED = 5, 12345  # nnUNetTrainer.do_split, nnunetv2 2.8.1


def trainer_path() -> str:
    """Value of `nnUNet_extTrainer` with which nnU-Net finds our trainers; others stay."""
    spec = find_spec("atlas_nnunet.shim")  # found, not imported
    shim = str(Path(spec.origin).parent) if spec and spec.origin else ""
    others = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    return os.pathsep.join([shim, *(p for p in others if p != shim)])


def use_our_trainers() -> None:
    """Let nnU-Net find our trainers in this process, as `atlas-nnunet env` does for a shell."""
    os.environ["nnUNet_extTrainer"] = trainer_path()


def check_device(device: str) -> None:
    """Before hours of reading, not after.

    Raises:
        PlanError: torch has no such device here.
    """
    import torch

    lacking = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
    }
    if lacking.get(device, False):
        raise PlanError(
            f"torch {torch.__version__} finds no device {device!r} on this machine",
            where="-device", do="give -device cpu, or mend driver and torch build",
        )  # fmt: skip


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together.

    Attributes:
        n: How many, on all nodes; each has a GPU of its own.
        rank: Of this process, 0 to n - 1; 0 where nnU-Net starts the others.
        joins: Whether torchrun started them, and this process joins.
    """

    n: int = 1
    rank: int = 0
    joins: bool = False

    @classmethod
    def asked_for(cls, num_gpus: int, environment: Mapping[str, str]) -> Processes:
        """From the command line, or from the variables that torchrun sets.

        Args:
            num_gpus: Of the command line; 1 is the default.
            environment: Of this process.

        Raises:
            PlanError: the host cannot join processes, both were given, or num_gpus is below 1.
        """
        if num_gpus < 1:
            raise PlanError(f"{num_gpus} GPUs cannot train", where="--num-gpus",
                            do="give at least 1, or -device cpu")  # fmt: skip
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls(num_gpus)
        if num_gpus > 1:
            raise PlanError("torchrun decides on the number of processes", where="--num-gpus",
                            do="leave it out under torchrun")  # fmt: skip
        if not host_joins_processes():
            raise PlanError(
                "the installed nnU-Net cannot join processes that torchrun has started: each would "
                "train alone, and all would write to the same folder", where="torchrun",
                do="use --num-gpus N on one node, or install an nnU-Net that documents torchrun",
            )  # fmt: skip
        return cls(int(environment["WORLD_SIZE"]), int(environment["RANK"]), joins=True)

    def check(self, device: str, batch_size: int) -> None:
        """Before hours of reading, not after.

        Args:
            device: Of the command line.
            batch_size: Of the plan: samples that all processes share.

        Raises:
            PlanError: they cannot train: no GPUs, too few, or more than there are samples.
        """
        if self.n == 1 and not self.joins:
            return
        if device != "cuda":
            raise PlanError(
                f"nnU-Net trains on several devices with cuda only, not with {device!r}",
                where="--num-gpus", do="leave out --num-gpus, or train with -device cuda",
            )  # fmt: skip
        import torch

        here = torch.cuda.device_count()
        if not self.joins and here < self.n:
            raise PlanError(
                f"{self.n} GPUs are asked for, torch finds {here} on this machine",
                where="--num-gpus", do="give fewer, or check CUDA_VISIBLE_DEVICES",
            )  # fmt: skip
        if batch_size < self.n:
            raise PlanError(
                f"a batch of {batch_size} cannot be divided among {self.n} GPUs",
                where="--num-gpus", do="use fewer GPUs, or plan for more memory (larger batches)",
            )  # fmt: skip


def host_joins_processes() -> bool:
    """Whether nnU-Net trains in the processes that torchrun started.

    nnunetv2 2.8.1 does not; its later state on GitHub, of the same version number, does. It has a
    function that recognises them (run_training.py).
    """
    from nnunetv2.run import run_training

    return hasattr(run_training, "launched_by_external_launcher")


def run_host_training(
    dataset: str, configuration: str, fold: str, trainer: str, plans: str, device: str,
    *, resume: bool, only_validate: bool = False, num_gpus: int = 1,
) -> None:  # fmt: skip
    """What `nnUNetv2_train` does after reading its command line (run_training.py, 2.8.1): `--c` and
    `--val`, which exclude one another, and `-num_gpus`.

    Raises:
        TrainingError: one of several processes stopped.
    """
    import torch
    from nnunetv2.run.run_training import run_training
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    torch.set_num_threads(1 if device == "cuda" else len(os.sched_getaffinity(0)))
    try:
        run_training(
            dataset, configuration, fold, trainer, plans, num_gpus=num_gpus,
            continue_training=resume, only_run_validation=only_validate,
            device=torch.device(device),
        )  # fmt: skip
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise TrainingError(
            f"the process of GPU {error.error_index} stopped, and the others were ended:\n{error}",
            where="train", do="correct its cause and run the command again: it resumes",
        ) from error  # fmt: skip


def split_of(
    dataset: Dataset, plans: Mapping[str, Any], configuration: str, fold: str
) -> dict[str, list[str]] | None:
    """Cases to train on and to validate, by nnU-Net's split file; written as nnU-Net would, where
    there is none, so that what a run is made of does not change by its own doing.

    Args:
        dataset: Whose split.
        plans: Of the run.
        configuration: Of the run; its preprocessed cases are those that are split.
        fold: A number, or "all".

    Returns:
        {"train": ..., "val": ...}; None for "all", and for a fold beyond the file, which nnU-Net
        draws by its number.

    Raises:
        PlanError: too few cases for the folds.
    """
    if not fold.isdigit():
        return None
    path = dataset.splits_for_training
    if not path.is_file():
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        cases = (
            dataset.preprocessed / resolve_configuration(plans, configuration)["data_identifier"]
        )
        names = sorted(p.stem for p in cases.glob("*.pkl"))
        if len(names) < N_FOLDS:
            raise PlanError(
                f"{N_FOLDS} folds need as many cases, there are {len(names)}", where=str(cases),
                do=f"preprocess them (atlas-nnunet preprocess {dataset.name}), or train fold all",
            )  # fmt: skip
        made = generate_crossval_split(names, seed=SEED, n_splits=N_FOLDS)
        write_json(path, [{k: list(map(str, v)) for k, v in s.items()} for s in made])
    known = json.loads(path.read_text())
    return known[int(fold)] if int(fold) < len(known) else None
