"""A trained model: what it is made of, and how it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import content_hash, file_hash
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import versions
from atlas_nnunet.hosttraining import use_our_trainers

EXPORT = 3  # of prediction and export: raise it when they would give other voxels


@dataclass(frozen=True)
class Model:
    """A trained model and how to use it.

    Attributes:
        folder: nnU-Net's folder TRAINER__PLANS__CONFIGURATION.
        folds: Folds whose networks are averaged.
        checkpoint: File name in each fold.
        step_size: Of the sliding window, share of the patch.
        mirroring: Test-time mirroring along the axes that training mirrored.
        device: "cuda", "cpu" or "mps".
        on_device: Logits are added up on the GPU.
        threads: Of this process, on a CPU.
        joined: See `atlas_nnunet.volume.export.Export`.
        probabilities: They are saved too.
    """

    folder: Path
    folds: tuple[str, ...]
    checkpoint: str
    step_size: float
    mirroring: bool
    device: str
    on_device: bool
    threads: int
    joined: bool
    probabilities: bool

    def key(self) -> str:
        """Hash of the weights and of every option that changes what is written."""
        weights = [file_hash(self.folder / f"fold_{f}" / self.checkpoint) for f in self.folds]
        files = [file_hash(self.folder / name) for name in ("plans.json", "dataset.json")]
        options = [self.step_size, self.mirroring, self.device, self.joined, self.probabilities]
        return content_hash([weights, files, options, versions(), EXPORT])


def check_folds(folder: Path, folds: Sequence[str], checkpoint: str) -> None:
    """Raise PlanError unless every fold is trained."""
    missing = [f for f in folds if not (folder / f"fold_{f}" / checkpoint).is_file()]
    if missing:
        raise PlanError(
            f"folds {missing} have no {checkpoint}", where=str(folder),
            do="name the trained folds with -f, or train them: atlas-nnunet train",
        )  # fmt: skip


@lru_cache(maxsize=1)
def load(model: Model) -> Any:
    """nnU-Net's predictor, once in a process."""
    import torch

    from atlas_nnunet.volume.predictor import SteadyPredictor

    use_our_trainers()
    torch.set_num_threads(model.threads)
    predictor = SteadyPredictor(
        tile_step_size=model.step_size,
        use_mirroring=model.mirroring,
        perform_everything_on_device=model.on_device,
        device=torch.device(model.device),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model.folder), model.folds, model.checkpoint)
    return predictor


def threads_for(processes: int) -> int:
    """Threads of one of so many processes."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, processes))
