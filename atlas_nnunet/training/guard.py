"""No step on a loss or gradient that is not finite: the batch is named, the weights stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from atlas_nnunet.errors import TrainingError
from atlas_nnunet.training.distributed import is_distributed, of_all_ranks

# A damaged case in a small data set must not end a training: with one bad case in 5 and a batch of
# 2, 36 % of the batches are bad, and 20 of them follow one another with probability 1e-9. Weights
# that have diverged give nothing else: they are found within 20 iterations.
MAX_IN_A_ROW = 20

# GradScaler starts at 65536 and halves its scale after each overflow, which is how it looks for the
# right one. Below 1 it would scale the loss down: the gradients are then infinite by themselves.
SCALE_FLOOR = 1.0


class StepGuard:
    """Decides before each optimizer step whether it may be taken, alike in all processes.

    Args:
        say: Writes a line to the training's log.
        notify: Shows a line on the console.

    Attributes:
        iteration: Number of the present training iteration, counted from 1.
        batch: The present batch as nnU-Net's loader returns it: "data" (batch, channel, *spatial),
            "target", "keys".
        skipped: Steps not taken in the present epoch.
        in_a_row: Steps not taken since the last one that was.
        bad_validation: Cases of this epoch's validation batches whose loss was not finite.
    """

    def __init__(self, say: Callable[[str], None], notify: Callable[[str], None]) -> None:
        self.say, self.notify = say, notify
        self.iteration = self.skipped = self.in_a_row = 0
        self.batch: Mapping[str, Any] = {}
        self.bad_validation: list[str] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []

    @property
    def cases(self) -> list[str]:
        """Names of the present batch's cases."""
        return [str(key) for key in self.batch.get("keys", ())]

    def begin(self, batch: Mapping[str, Any], network: nn.Module) -> None:
        """Call before the forward pass, which changes the statistics of a batch norm."""
        self.batch = batch
        self.iteration += 1
        self._buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]

    def allows_step(
        self, norm: Tensor, loss: Tensor, scaler: torch.amp.GradScaler | None = None
    ) -> bool:
        """Whether to take the step. Call after clipping, in every process.

        With DistributedDataParallel the gradients are averaged, so their norm is the same
        everywhere; the loss is not, so one number is exchanged and all processes decide alike.

        Args:
            norm: What `clip_grad_norm_` returns.
            loss: Of this process's batch, not scaled.
            scaler: Of a float16 training. Its overflows are no failures: the step is not taken, the
                scale is halved, nothing is counted. They are counted where the loss itself is not
                finite or where the scale has fallen below `SCALE_FLOOR`.

        Returns:
            False where weights, momentum and average must stay; the scaler is then up to date.

        Raises:
            TrainingError: MAX_IN_A_ROW steps in a row were not taken.
        """
        flags = torch.stack([torch.isfinite(loss.detach()), torch.isfinite(norm.detach())]).int()
        if is_distributed():
            distributed.all_reduce(flags, distributed.ReduceOp.MIN)
        loss_is_finite, norm_is_finite = (bool(flag) for flag in flags.tolist())
        if loss_is_finite and norm_is_finite:
            self.in_a_row = 0
            return True
        if scaler is not None:
            scale = scaler.get_scale()
            if loss_is_finite and scale >= SCALE_FLOOR:
                scaler.update()
                return False
            scaler.update(scale)  # the scale is not at fault
        self._put_buffers_back()
        self._count("gradient" if loss_is_finite else "loss")
        return False

    def check_validation(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Remember the cases of a validation batch whose loss is not finite."""
        if not bool(torch.isfinite(loss.detach())):
            self.bad_validation += [str(key) for key in batch.get("keys", ())]

    def end_epoch(self) -> int:
        """Report what was not finite in this epoch; returns how many steps were not taken."""
        skipped, self.skipped = self.skipped, 0
        if skipped:
            self.notify(f"{skipped} step(s) of this epoch were skipped: their loss or gradient was "
                        "not finite; the log names the cases")  # fmt: skip
        if self.bad_validation:
            cases, self.bad_validation = sorted(set(self.bad_validation)), []
            text = f"the validation loss was not finite (cases: {', '.join(cases)})"
            self.say(text)
            self.notify(text)
        return skipped

    def _put_buffers_back(self) -> None:
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)

    def _count(self, what: str) -> None:
        self.skipped += 1
        self.in_a_row += 1
        cases, bad = _over_ranks(self.cases), _over_ranks(self._cases_with_bad_voxels())
        text = f"iteration {self.iteration}: step skipped, the {what} is not finite "
        text += f"(cases: {', '.join(cases) or 'unknown'}"
        text += f"; voxels that are not finite: {', '.join(bad)}" if bad else ""
        self.say(f"{text}); {self.in_a_row} in a row, {MAX_IN_A_ROW} stop the training")
        if self.in_a_row >= MAX_IN_A_ROW:
            raise TrainingError(
                f"{MAX_IN_A_ROW} iterations in a row had a {what} that is not finite; the last "
                f"one, {self.iteration}, with the cases {', '.join(cases) or 'unknown'}",
                where=f"voxels that are not finite in {', '.join(bad)}" if bad else "training",
                do=_advice(bad),
            )

    def _cases_with_bad_voxels(self) -> list[str]:
        data = self.batch.get("data", ())
        return [case for case, image in zip(self.cases, data, strict=False)
                if not bool(torch.isfinite(image).all())]  # fmt: skip


def _advice(bad: list[str]) -> str:
    if bad:
        return (
            "repair these images and run 'atlas-nnunet preprocess' again, then the same command "
            "(nnUNetv2_train: with --c): it resumes from the last checkpoint, which is whole"
        )
    return (
        "the training has diverged: plan again with a lower --learning-rate, and look at the "
        "normalisation of the images (atlas-nnunet fingerprint); the last checkpoint is whole"
    )


def _over_ranks(names: list[str]) -> list[str]:
    """The names of all processes; they all come here, or none."""
    return sorted({name for own in of_all_ranks(names) for name in own})
