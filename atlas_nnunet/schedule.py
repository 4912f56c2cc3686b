"""Schedules: which parts train in which epoch, and how fast. A table, each row with its source.

A plan has the phases of its schedule written out, and those are what a training does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

HEAD = ("head",)
HEAD_AND_DECODER = ("decoder", "head")
ALL = ("encoder", "decoder", "head")

DECAY_EXPONENT = 0.9  # polylr.py, nnunetv2 2.8.1
# How a rate falls after the ramp: share of the phase that is done, 0 to 1 -> share of the rate.
DECAYS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "poly": lambda done: (1 - done) ** DECAY_EXPONENT,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


@dataclass(frozen=True)
class Phase:
    """A run of epochs in which the same parts train.

    Attributes:
        epochs: Length.
        trains: Of "encoder", "decoder", "head"; the others stand still.
        learning_rate: Highest rate of the phase.
        warm_up: Epochs of linear ramp from near zero at the start.
        decay: A name in DECAYS: how the rate falls after the ramp.
        layer_decay: Rate of a layer over that of the layer after it, 0 to 1.
    """

    epochs: int
    trains: tuple[str, ...]
    learning_rate: float
    warm_up: int = 0
    decay: str = "poly"
    layer_decay: float = 1.0

    @property
    def wrong(self) -> str:
        """What cannot be, empty if all can."""
        problems = {
            "epochs": self.epochs < 1,
            "trains": not self.trains or not set(self.trains) <= set(ALL),
            "learning_rate": self.learning_rate <= 0,
            "warm_up": not 0 <= self.warm_up < self.epochs,
            "decay": self.decay not in DECAYS,
            "layer_decay": not 0 < self.layer_decay <= 1,
        }
        return ", ".join(name for name, bad in problems.items() if bad)

    def rate(self, epoch: int, part: str = "head", distance: int = 0) -> float:
        """Learning rate in an epoch counted from the start of the phase.

        Args:
            epoch: 0 is the phase's first.
            part: Which part of the network.
            distance: Layers between its output and the network's.
        """
        if part not in self.trains:
            return 0.0
        highest = self.learning_rate * self.layer_decay**distance
        if epoch < self.warm_up:
            return highest * (epoch + 1) / (self.warm_up + 1)
        done = (epoch - self.warm_up) / max(1, self.epochs - self.warm_up)
        return highest * DECAYS[self.decay](done)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "trains": list(self.trains)}


Phases = tuple[Phase, ...]


@dataclass(frozen=True)
class Schedule:
    """A row of the table.

    Attributes:
        phases: (epochs, learning rate) -> phases that fill the epochs.
        optimizer: "sgd" or "adamw", as its authors have it.
        learning_rate: Theirs.
        weight_decay: Theirs.
        source: Who trains so, and where it stands.
        transfers: Whether it starts from transferred weights.
    """

    phases: Callable[[int, float], Phases]
    optimizer: str
    learning_rate: float
    weight_decay: float
    source: str
    transfers: bool = True


def tenth(epochs: int, most: int = 50) -> int:
    """Length of a ramp: 50 epochs of 1000 and 15 of 150 in nnU-Net's pretrainedTrainer.py, 20 of
    201 in SuPreM: a tenth, 50 at most, and never all."""
    return min(most, epochs // 10)


def everything(epochs: int, rate: float) -> Phases:
    return (Phase(epochs, ALL, rate),)


def ramp(epochs: int, rate: float) -> Phases:
    return (Phase(epochs, ALL, rate, warm_up=tenth(epochs)),)


def ramp_cosine(epochs: int, rate: float) -> Phases:
    return (Phase(epochs, ALL, rate, warm_up=tenth(epochs), decay="cosine"),)


def ramp_by_layer(epochs: int, rate: float) -> Phases:
    return (Phase(epochs, ALL, rate, warm_up=tenth(epochs), layer_decay=0.75),)


def frozen_encoder(epochs: int, rate: float) -> Phases:
    return (Phase(epochs, HEAD_AND_DECODER, rate),)


def head_then_all(epochs: int, rate: float) -> Phases:
    """The new head alone, at a constant rate, for a tenth; then everything after a short ramp,
    which keeps a random head's large first gradients out of transferred features."""
    head = max(1, round(epochs / 10)) if epochs > 1 else 0
    rest = epochs - head
    phases = (
        Phase(head, HEAD, rate, decay="constant"),
        Phase(rest, ALL, rate, warm_up=rest // 20),
    )
    return tuple(p for p in phases if p.epochs)


def decoder_then_all(epochs: int, rate: float) -> Phases:
    """Two ramps, the first of decoder and head alone."""
    first = tenth(epochs)
    rest = epochs - first
    phases = (
        Phase(first, HEAD_AND_DECODER, rate, warm_up=first // 2),
        Phase(rest, ALL, rate, warm_up=tenth(epochs)),
    )
    return tuple(p for p in phases if p.epochs)


# fmt: off
SCHEDULES: Mapping[str, Schedule] = {
    "nnunet": Schedule(everything, "sgd", 1e-2, 3e-5, "nnU-Net: nnUNetTrainer.py, nnunetv2 2.8.1"),
    "scratch": Schedule(everything, "sgd", 1e-2, 3e-5,
        "nnU-Net's own, nothing loaded: the baseline of a transfer", transfers=False),
    "head_then_all": Schedule(head_then_all, "sgd", 1e-2, 3e-5,
        "heads first as in MultiTalent (Ulrich et al. 2023: nnUNetTrainerV2_warmup.py, 10 epochs "
        "of heads, then a ramp of 50, in 1060); lengths are ours"),
    "low_rate": Schedule(everything, "sgd", 1e-3, 3e-5,
        "STU-Net (Huang et al. 2023: STUNetTrainer_base_ft) and the winner of autoPET III: a tenth "
        "of nnU-Net's rate"),
    "warm_up": Schedule(ramp, "sgd", 1e-3, 3e-5,
        "nnssl and nnU-Net (Wald et al. 2024): pretrainedTrainer.py, nnUNet 0e495086, 50 of 1000 "
        "epochs, 15 of 150"),
    "decoder_then_all": Schedule(decoder_then_all, "sgd", 1e-3, 3e-5,
        "nnssl's sawtooth (TaWald/nnUNet 91b1e049: sawtooth_trainer.py): decoder 25 up and 25 "
        "down, then all, 50 up, of 1000; with fewer epochs shorter in proportion"),
    "suprem": Schedule(ramp_cosine, "adamw", 1e-4, 1e-5,
        "SuPreM's fine-tuning (Li, Yuille, Zhou 2024: target_applications/totalsegmentator, "
        "20 of 201 epochs; weight decay that of its pre-training)"),
    "layer_decay": Schedule(ramp_by_layer, "sgd", 1e-2, 3e-5,
        "each layer learns at 0.75 of the rate of the next (He et al. 2022, Masked Autoencoders, "
        "appendix A.1); no peer does it for 3-D segmentation"),
    "frozen_encoder": Schedule(frozen_encoder, "sgd", 1e-2, 3e-5,
        "CT-FM's evaluation freezes the encoder (evaluation/totalseg.yaml); rate nnU-Net's"),
}
# fmt: on


def table() -> str:
    """The schedules for people: name, optimizer, rate, source."""
    width = max(map(len, SCHEDULES))
    return "\n".join(
        f"  {name:{width}}  {row.optimizer:5}  {row.learning_rate:g}  {row.source}"
        for name, row in SCHEDULES.items()
    )


def phase_at(phases: Sequence[Phase], epoch: int) -> tuple[Phase, int]:
    """The phase of an epoch, and the epoch counted from its start."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase, epoch
        epoch -= phase.epochs
    return phases[-1], phases[-1].epochs  # after the end: nnU-Net asks once more when it resumes
