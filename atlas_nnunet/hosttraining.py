"""What training asks of nnunetv2: where it finds our trainers, the run itself, and its folds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, write_json
from atlas_nnunet.errors import PlanError
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


def run_host_training(
    dataset: str, configuration: str, fold: str, trainer: str, plans: str, device: str,
    *, resume: bool, only_validate: bool = False,
) -> None:  # fmt: skip
    """What `nnUNetv2_train` does after reading its command line (run_training.py, 2.8.1): `--c` and
    `--val`, which exclude one another."""
    import torch
    from nnunetv2.run.run_training import run_training

    torch.set_num_threads(1 if device == "cuda" else len(os.sched_getaffinity(0)))
    run_training(
        dataset, configuration, fold, trainer, plans,
        continue_training=resume, only_run_validation=only_validate, device=torch.device(device),
    )  # fmt: skip


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
