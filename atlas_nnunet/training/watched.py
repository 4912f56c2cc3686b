"""nnU-Net's trainer, watched: failures in words, bad steps counted, a collapse reported once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from atlas_nnunet.artefacts import sweep
from atlas_nnunet.progress import current
from atlas_nnunet.settings import Training
from atlas_nnunet.training.collapse import Record
from atlas_nnunet.training.determinism import arithmetic
from atlas_nnunet.training.distributed import global_rank, of_all_ranks
from atlas_nnunet.training.failures import in_words
from atlas_nnunet.training.guard import StepGuard
from atlas_nnunet.training.online import log_epoch, over_batches

CURVES_FILE = "curves.json"
HOUR_S = 3600.0  # no checkpoint takes an hour to write: an older partial one is a leftover


class WatchedTrainer(nnUNetTrainer):
    """Base of our trainers. What it watches stops a training with a TrainingError.

    Attributes:
        training: The plan's section; a derived class sets it.
        guard: Asked before each optimizer step.
        record: What `curves.json` holds besides nnU-Net's curves.
        has_trained: Whether `run_training` was called: the final validation then follows by itself;
            else somebody asked for it (`nnUNetv2_train --val`).
    """

    training: Training

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the host's signature, verbatim
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.guard = StepGuard(self.say, lambda text: current().note(text))
        self.record = Record()
        self.has_trained = False
        self._skipped = self._predicted_vox = 0
        # On the log's rank the console gets the message alone; the others have no log.
        self._log_failure = partial(self.print_to_log_file, also_print_to_console=self.rank != 0)

    @property
    def rank(self) -> int:
        """Of this process among all of the training: 0 writes and reports, seeds differ by it."""
        return global_rank(self)

    def say(self, text: str) -> None:
        """One line in the log, and on the console where that shows nnU-Net's lines."""
        if self.rank == 0:
            self.print_to_log_file(text)

    def run_training(self) -> None:
        """As the host does.

        Raises:
            TrainingError: no memory, a dead worker, a damaged file, steps that are not finite;
                the last checkpoint is whole.
        """
        self.has_trained = True
        with in_words(self.guard, self._log_failure), arithmetic(self.training.deterministic):
            try:
                super().run_training()
            finally:
                self.dataloader_train = self.dataloader_val = None  # ends their workers

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        with in_words(self.guard, self._log_failure):
            super().load_checkpoint(filename_or_checkpoint)

    def on_train_start(self) -> None:
        if self.rank == 0:
            sweep(Path(self.output_folder), other_machines_after_s=HOUR_S)
        super().on_train_start()
        self.guard.iteration = self.current_epoch * self.num_iterations_per_epoch
        self.record.resume(Path(self.output_folder) / CURVES_FILE, self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """As the host does; the mean loss is of the steps that were taken."""
        finite = [output for output in train_outputs if np.isfinite(output["loss"]).all()]
        super().on_train_epoch_end(finite or train_outputs)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As the host does, with a mean Dice over the same structures in every epoch."""
        dice, loss = over_batches(val_outputs)
        if log_epoch(self.logger, dice, loss, self.current_epoch):
            self._best_ema = None  # earlier means were over fewer structures
        predicted = sum(float((o["tp_hard"] + o["fp_hard"]).sum()) for o in val_outputs)
        self._predicted_vox = round(sum(of_all_ranks(predicted)))

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._skipped = self.guard.end_epoch()

    def watch_epoch(self, curves: dict[str, list[float]]) -> dict[str, list[Any]]:
        """Values for `curves.json`; reports a collapse once. Call on the rank that writes it."""
        text = self.record.add(curves, self._skipped, self._predicted_vox)
        if text:
            self.say(text)
            current().note(text)
        return self.record.values

    def wants_validation(self) -> bool:
        """Whether the final validation is to run; says so where it is not."""
        wanted = not self.has_trained or self.training.validates(self.fold)
        if not wanted:
            text = "final validation: " + self.training.why_not(self.fold)
            if self.configuration_manager.next_stage_names:
                text += "; the cascade's next stage needs its predictions"
            self.say(text)
            current().note(text)
        return wanted
