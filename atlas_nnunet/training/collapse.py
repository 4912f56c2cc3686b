"""Whether a training has collapsed, by its curves: nothing is predicted, or nothing is learnt.

Users report weeks of training that ended so (MIC-DKFZ/nnUNet, issues 1659 and 2679).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

N_EPOCHS = 20  # nnU-Net trains 1000
# Range of the training loss over N_EPOCHS, as a share of its mean, below which it does not move;
# and the online Dice below which standing still is no success. Measured on a phantom of 4 cases, 40
# epochs of 5 iterations: a training at a rate of 1e-12 moves by 5.4 to 6.4 %, by the chance of its
# patches alone; one that learns moves by 56 % or more. With nnU-Net's 250 iterations in an epoch
# chance is 7 times less.
STILL, LOW_DICE = 0.1, 0.1

ADVICE = (
    "compare the label status in the log with your data, look at the images' normalisation "
    "(atlas-nnunet fingerprint) and plan again with another --learning-rate"
)


def collapse(curves: Mapping[str, Sequence[float]]) -> str | None:
    """What the last N_EPOCHS say.

    Args:
        curves: One value for each epoch: "predicted_vox" (voxels of the validation batches that
            were given to any structure), "train_loss", "dice" (online, 0 to 1, nan if unknown).

    Returns:
        A sentence with what to change; None for a training that learns, and before N_EPOCHS.
    """
    predicted, losses, dice = (
        list(curves.get(name, ()))[-N_EPOCHS:] for name in ("predicted_vox", "train_loss", "dice")
    )
    if len(predicted) == N_EPOCHS and not any(predicted):
        return f"for {N_EPOCHS} epochs the network has predicted no structure at all: {ADVICE}"
    if len(losses) < N_EPOCHS or len(dice) < N_EPOCHS or not all(map(math.isfinite, losses)):
        return None
    moved = (max(losses) - min(losses)) / max(abs(sum(losses) / N_EPOCHS), 1e-12)
    if moved < STILL and not any(value >= LOW_DICE for value in dice):
        return (
            f"for {N_EPOCHS} epochs the training loss has moved by {moved:.1%} of its mean and the "
            f"online Dice has stayed below {LOW_DICE}: {ADVICE}"
        )
    return None


class Record:
    """What a training writes to `curves.json` besides nnU-Net's own curves.

    Attributes:
        values: "skipped_steps" (number), "predicted_vox" (voxels) and "collapse" (a sentence in the
            epoch in which it was first reported, else ""), one value for each epoch.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {
            "skipped_steps": [], "predicted_vox": [], "collapse": [],
        }  # fmt: skip

    def resume(self, path: Path, n_epochs: int) -> None:
        """Take over the first epochs of an interrupted training; those it did not record are nan.

        Args:
            path: curves.json; it may be missing.
            n_epochs: Number of epochs that the loaded checkpoint has behind it.
        """
        known = json.loads(path.read_text()) if path.is_file() else {}
        for name, values in self.values.items():
            unknown: Any = "" if name == "collapse" else math.nan
            own = list(known.get(name, ()))[:n_epochs]
            values[:] = [unknown] * (n_epochs - len(own)) + own

    def add(self, curves: Mapping[str, Sequence[float]], skipped: int, predicted: int) -> str:
        """Add an epoch; returns what to report, once in a training, or ""."""
        self.values["skipped_steps"].append(skipped)
        self.values["predicted_vox"].append(predicted)
        found = collapse({**curves, "predicted_vox": self.values["predicted_vox"]})
        text = found if found and not any(self.values["collapse"]) else ""
        self.values["collapse"].append(text)
        return text
