"""What nnU-Net's folder of a training says of it: cases, iterations, seed, curve.

.../DatasetNNN_Name/Trainer__Plans__configuration/fold_N (nnUNetTrainer.py:132-135, nnunetv2 2.8.1).
What a folder does not say stays unknown; nothing is guessed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.host import read_json
from atlas_nnunet.hosttraining import OUR_TRAINERS

STOCK = ("nnUNetTrainer", 1000, 250)  # epochs, iterations of one: nnUNetTrainer.py:153-159, 2.8.1

Curve = tuple[tuple[int, float], ...]  # (iterations, Dice), ascending


@dataclass(frozen=True)
class Facts:
    """Of a training; None and () are unknown.

    Attributes:
        cases: Number of training cases.
        iterations: Of the whole training.
        seed: Of weights and batches.
        curve: Online Dice of validation batches.
    """

    cases: int | None = None
    iterations: int | None = None
    seed: int | None = None
    curve: Curve = ()


def facts(place: Path) -> Facts:
    """Of the fold that a path is, or lies in."""
    place = place.absolute()
    for folder in (place, *place.parents[:2]):
        if folder.name.startswith("fold_") and folder.parent.name.count("__") == 2:
            return _of_fold(folder)
    return Facts()


def _of_fold(folder: Path) -> Facts:
    model = folder.parent
    trainer = model.name.split("__")[0]
    plans, dataset_json = _json(model / "plans.json"), _json(model / "dataset.json")
    training = plans.get("atlas_nnunet", {}).get("training", {}) if trainer in OUR_TRAINERS else {}
    epochs, per_epoch = training.get("epochs"), training.get("iterations")
    if trainer == STOCK[0]:
        _, epochs, per_epoch = STOCK
    fold = folder.name.removeprefix("fold_")
    cases = dataset_json.get("numTraining") if fold == "all" else _of_split(model.parent.name, fold)
    return Facts(
        cases=cases,
        iterations=epochs * per_epoch if epochs and per_epoch else None,
        seed=training.get("seed"),
        curve=_curve(_json(folder / "curves.json"), per_epoch) if per_epoch else (),
    )


def _of_split(dataset: str, fold: str) -> int | None:
    """Training cases of a fold, by the split that nnU-Net trained on.

    The folds of one cross-validation differ by one case at most where the number of cases is no
    multiple of theirs. They are one training set size all the same, the smallest.
    """
    if not os.environ.get("nnUNet_preprocessed") or not fold.isdecimal():
        return None
    splits = _json(Dataset(dataset).splits_for_training)
    sizes = [len(split["train"]) for split in splits]
    if int(fold) >= len(sizes):
        return None
    return min(sizes) if max(sizes) - min(sizes) <= 1 else sizes[int(fold)]


def _curve(curves: Mapping[str, Any], per_epoch: int) -> Curve:
    return tuple(
        (number * per_epoch, value)
        for number, value in enumerate(curves.get("dice", ()), 1)
        if math.isfinite(value)
    )


def _json(path: Path) -> Any:
    """The content of a file of nnU-Net's; nothing where there is no file."""
    return read_json(path, "train again, or name the evaluation itself") if path.is_file() else {}
