"""The online Dice of a training, comparable from epoch to epoch.

The validation batches of an epoch show some structures and not others: small ones are missed by
every patch, and unlabelled ones do not count (training/steps.py). A mean over whatever an epoch
happened to show goes up and down with the draw. So each structure keeps its latest value until it
is seen again, and the mean is over all structures that have been seen so far. nnU-Net's logger
holds the values of each epoch and is part of its checkpoints, so that a resumed training continues
the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import without_nan
from atlas_nnunet.training.distributed import of_all_ranks

COUNTS = ("tp_hard", "fp_hard", "fn_hard")  # keys of `validation_step`, as nnU-Net names them


def over_batches(outputs: Sequence[Mapping[str, np.ndarray]]) -> tuple[list[float], float]:
    """Dice of each structure and mean loss of an epoch's validation, over the batches of all ranks.

    Args:
        outputs: Of each `validation_step` of this rank: "loss", and COUNTS -> (structure,) voxels.
    """
    counts = {name: np.sum([own[name] for own in outputs], 0) for name in COUNTS}
    ranks = of_all_ranks((counts, [float(own["loss"]) for own in outputs]))
    counts = {name: np.sum([own[name] for own, _ in ranks], 0) for name in COUNTS}
    losses = [loss for _, own in ranks for loss in own]
    return dice_of_epoch(counts), float(np.mean(losses))


def dice_of_epoch(counts: Mapping[str, np.ndarray]) -> list[float]:
    """Dice of each structure over all validation batches of an epoch.

    Args:
        counts: COUNTS -> (structure,) voxels, summed over batches and ranks.

    Returns:
        2 TP / (2 TP + FP + FN) for each structure; nan where no batch showed a labelled voxel of
        it. nnU-Net has 0 there if a single voxel was predicted: whether an epoch shows a structure
        would then decide between its value and 0.
    """
    tp, fp, fn = (np.asarray(counts[name], np.float64) for name in COUNTS)
    total = 2 * tp + fp + fn
    dice = np.divide(2 * tp, total, np.full_like(tp, np.nan), where=tp + fn > 0)
    return [float(d) for d in dice]


def latest(history: Sequence[Sequence[float]]) -> list[float]:
    """The last finite value of each structure.

    Args:
        history: (epoch, structure) Dice, oldest epoch first; not empty.

    Returns:
        For each structure; nan where it has not been seen yet.
    """
    values = np.asarray(history, np.float64)
    seen = np.isfinite(values)
    last = len(values) - 1 - seen[::-1].argmax(0)
    return [
        float(v) for v in np.where(seen.any(0), values[last, np.arange(values.shape[1])], np.nan)
    ]


def by_structure(
    names: Sequence[str], history: Sequence[Sequence[float]]
) -> dict[str, dict[str, list[float | None]]]:
    """What curves.json says of each structure: its latest value after each epoch, None before the
    first.

    Args:
        names: Of the structures.
        history: (epoch, structure) Dice, oldest epoch first.
    """
    values = np.array(history, np.float64)
    for epoch in range(1, len(values)):
        unseen = ~np.isfinite(values[epoch])
        values[epoch, unseen] = values[epoch - 1, unseen]
    columns = {name: values[:, i].tolist() for i, name in enumerate(names)}
    return {"dice_of_structures": {name: without_nan(own) for name, own in columns.items()}}


def mean_of(values: Sequence[float]) -> float:
    """Mean over the structures that have a value; nan where none has."""
    finite = [v for v in values if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def shows_more(history: Sequence[Sequence[float]]) -> bool:
    """Whether the last epoch is the first in which some structure has a value.

    The mean is then over more structures than before, and cannot be compared with earlier ones.
    """
    seen = np.isfinite(np.asarray(history, np.float64))
    return bool((seen[-1] & ~seen[:-1].any(0)).any())


def log_epoch(logger: Any, dice: Sequence[float], loss: float, epoch: int) -> bool:
    """Log an epoch's validation as nnU-Net's `on_validation_epoch_end` does (2.8.1), with the mean
    over all structures seen so far.

    Args:
        logger: nnU-Net's.
        dice: Of this epoch's batches, from `dice_of_epoch`.
        loss: Mean of the validation batches.
        epoch: Number, from 0 on.

    Returns:
        Whether values of earlier epochs cannot be compared with this one's and later ones': the
        moving average, by which nnU-Net chooses its best checkpoint, starts again here.
    """
    history = [*logger.get_value("dice_per_class_or_region", step=None)[:epoch], list(dice)]
    mean = mean_of(latest(history))
    logger.log("mean_fg_dice", mean, epoch)
    logger.log("dice_per_class_or_region", list(dice), epoch)
    logger.log("val_losses", loss, epoch)
    restarts = shows_more(history)
    if restarts:
        # The logger has appended the average with the old mean in it, and would print a warning.
        logger.get_value("ema_fg_dice", step=None)[epoch] = mean
    return restarts


def summary(names: Sequence[str], history: Sequence[Sequence[float]]) -> str:
    """One line for the log: every structure's value, "-" where it has not been seen."""
    values = latest(history)
    n_seen = sum(map(math.isfinite, values))
    listed = ", ".join(
        f"{name} {value:.3f}" if math.isfinite(value) else f"{name} -"
        for name, value in zip(names, values, strict=True)
    )
    return f"online Dice, latest of {n_seen} of {len(names)} structures seen: {listed}"
