"""Schedules: which parameters train in which epoch, and how fast. A table, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer

HEAD = "head"
ALL = "all"
DECAY_EXPONENT = 0.9  # polylr.py, nnunetv2 2.8.1


@dataclass(frozen=True)
class Phase:
    """A run of epochs in which the same parameters train.

    Attributes:
        epochs: Length.
        trains: HEAD (segmentation layers only, the rest frozen) or ALL.
        learning_rate: Highest rate of the phase.
        warm_up: Epochs of linear ramp from near zero at the start.
        decays: Polynomial decay to zero after the ramp (nnU-Net's), else constant.
    """

    epochs: int
    trains: str
    learning_rate: float
    warm_up: int = 0
    decays: bool = True

    def rate(self, epoch: int) -> float:
        """Learning rate in an epoch counted from the start of the phase."""
        if epoch < self.warm_up:
            return self.learning_rate * (epoch + 1) / (self.warm_up + 1)
        if not self.decays:
            return self.learning_rate
        done = (epoch - self.warm_up) / max(1, self.epochs - self.warm_up)
        return self.learning_rate * (1 - done) ** DECAY_EXPONENT


def nnunet(epochs: int, rate: float) -> tuple[Phase, ...]:
    """nnU-Net's own: everything, polynomial decay (nnUNetTrainer.py:153-159, nnunetv2 2.8.1)."""
    return (Phase(epochs, ALL, rate),)


def head_then_all(epochs: int, rate: float) -> tuple[Phase, ...]:
    """The new head alone, at a constant rate, for a tenth; then everything after a short ramp.

    Heads first: MultiTalent (Ulrich et al. 2023, nnUNetTrainerV2_warmup.py:67-127: 10 epochs of
    heads, then a ramp of 50 in 1060). A ramp before full training keeps a random head's large
    first gradients out of transferred features.
    """
    head = max(1, round(epochs / 10)) if epochs > 1 else 0
    rest = epochs - head
    phases = (Phase(head, HEAD, rate, decays=False), Phase(rest, ALL, rate, warm_up=rest // 20))
    return tuple(p for p in phases if p.epochs)


SCHEDULES: dict[str, Callable[[int, float], tuple[Phase, ...]]] = {
    "nnunet": nnunet,
    "scratch": nnunet,  # the baseline of a transfer: the same plan, nothing loaded
    "head_then_all": head_then_all,
}


def phase_at(phases: Sequence[Phase], epoch: int) -> tuple[Phase, int]:
    """The phase an epoch belongs to, and the epoch counted from that phase's start."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase, epoch
        epoch -= phase.epochs
    return phases[-1], phases[-1].epochs  # after the end: nnU-Net asks once more when it resumes


class PhaseScheduler:
    """nnU-Net's scheduler interface, `step(epoch)`, for phases.

    Args:
        optimizer: With two parameter groups named "head" and "body".
        phases: In order.
    """

    def __init__(self, optimizer: Optimizer, phases: Sequence[Phase]) -> None:
        self.optimizer, self.phases = optimizer, tuple(phases)

    def step(self, epoch: int) -> None:
        """Set every group's rate for an epoch; a group that does not train has the rate 0."""
        phase, within = phase_at(self.phases, epoch)
        for group in self.optimizer.param_groups:
            group["trains"] = group["name"] == HEAD or phase.trains == ALL
            group["lr"] = phase.rate(within) if group["trains"] else 0.0

    def drop_frozen_gradients(self) -> None:
        """Call between backward and the optimizer's step: what has no gradient is not touched.

        Not `requires_grad`, which would save a tenth of the epochs half their time: a network
        under DistributedDataParallel must not change it, and waits for ever if one does.
        """
        for group in self.optimizer.param_groups:
            if not group["trains"]:
                for parameter in group["params"]:
                    parameter.grad = None
