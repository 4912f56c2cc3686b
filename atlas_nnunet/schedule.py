"""Schedules: which parts train in which epoch, and how fast. A table, each row with its source.

A plan has the phases of its schedule written out, and those are what a training does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atlas_nnunet import published
from atlas_nnunet.published import ALL, HEAD, HEAD_AND_DECODER, Published

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
        warm_up: Epochs of linear ramp; its last one has the highest rate (as nnU-Net's
            Lin_incr_LRScheduler, nnUNet 0e495086).
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
            return highest * ((epoch + 1) / self.warm_up)
        done = (epoch - self.warm_up) / max(1, self.epochs - self.warm_up)
        return highest * DECAYS[self.decay](done)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "trains": list(self.trains)}


Phases = tuple[Phase, ...]


SOURCE_DIFFERS = ". The source differs: "


@dataclass(frozen=True)
class Schedule:
    """A row of the table.

    Attributes:
        phases: (epochs, learning rate) -> phases that fill the epochs.
        optimizer: "sgd" or "adamw", as its authors have it.
        learning_rate: Of the phase with the highest rate, before any change in the plan.
        weight_decay: As its authors have it, unless `differs` says otherwise.
        origin: Who trains so, or that nobody does.
        published: The numbers of the source; None for a schedule of ours.
        differs: What the source does otherwise: key (of `departures`, or of the training as a
            whole) -> the source's way in words.
        transfers: Whether it starts from transferred weights.
    """

    phases: Callable[[int, float], Phases]
    optimizer: str
    learning_rate: float
    weight_decay: float
    origin: str
    published: Published | None = None
    differs: Mapping[str, str] = field(default_factory=dict)
    transfers: bool = True

    @property
    def source(self) -> str:
        """Origin, file and version, and each difference, in one sentence."""
        where = f" ({self.published.where})" if self.published else ""
        differs = "; ".join(self.differs.values())
        return f"{self.origin}{where}" + (SOURCE_DIFFERS + differs if differs else "")

    def departures(self) -> set[str]:
        """In what the schedule departs from its source over the source's number of epochs: a
        subset of "lengths", "parts", "learning rate", "ramp", "decay", "optimizer" and "weight
        decay"; empty where it has no source."""
        if self.published is None:
            return set()
        stages = self.published.stages
        phases = self.phases(self.published.epochs, self.learning_rate)
        sides = {
            "lengths": ([p.epochs for p in phases], [s.epochs for s in stages]),
            "parts": ([p.trains for p in phases], [s.trains for s in stages]),
            "learning rate": ([p.learning_rate for p in phases], [s.learning_rate for s in stages]),
            "ramp": ([p.warm_up for p in phases], [s.warm_up for s in stages]),
            "decay": ([p.decay for p in phases], [s.decay for s in stages]),
            "optimizer": ([self.optimizer] * len(phases), [s.optimizer for s in stages]),
            "weight decay": (self.weight_decay, self.published.weight_decay),
        }
        return {name for name, (ours, theirs) in sides.items() if ours != theirs}


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


NO_DEEP_SUPERVISION = "it trains without deep supervision"

# fmt: off
SCHEDULES: Mapping[str, Schedule] = {
    "nnunet": Schedule(everything, "sgd", 1e-2, 3e-5, "nnU-Net's own", published.NNUNET),
    "scratch": Schedule(everything, "sgd", 1e-2, 3e-5,
        "nnU-Net's own, nothing loaded: the baseline of a transfer", published.NNUNET,
        transfers=False),
    "head_then_all": Schedule(head_then_all, "sgd", 1e-2, 3e-5,
        "heads first, then everything, as in MultiTalent (Ulrich et al. 2023); the numbers are "
        "ours", published.MULTITALENT, {
            "optimizer": "it trains the heads with AdamW (amsgrad) and then changes to SGD",
            "learning rate": "the rate of the heads rises to 5e-4, not 1e-2",
            "lengths": "the heads train for 10 of 1060 epochs, not for a tenth",
            "ramp": "ramps of 10 epochs for the heads and 50 for everything, not 0 and a "
            "twentieth",
            "offset": "its polynomial decay is one epoch ahead of ours"}),
    "low_rate": Schedule(everything, "sgd", 1e-3, 3e-5,
        "STU-Net (Huang et al. 2023): a tenth of nnU-Net's rate; the winner of autoPET III does "
        "the same for 1500 epochs", published.STU_NET),
    "warm_up": Schedule(ramp, "sgd", 1e-3, 3e-5,
        "nnssl and nnU-Net (Wald et al. 2024): 50 of 1000 epochs of ramp, 15 of 150",
        published.NNSSL, {
            "deep supervision": NO_DEEP_SUPERVISION,
            "batch size": "its batch size is always 2, the plan's here"}),
    "decoder_then_all": Schedule(decoder_then_all, "sgd", 1e-3, 3e-5,
        "the sawtooth of nnssl's authors: decoder 25 epochs up and 25 down, then all, 50 up, of "
        "1000; with fewer epochs shorter in proportion", published.SAWTOOTH, {
            "deep supervision": NO_DEEP_SUPERVISION}),
    "suprem": Schedule(ramp_cosine, "adamw", 1e-4, 1e-5,
        "SuPreM's fine-tuning (Li, Yuille, Zhou 2024)", published.SUPREM, {
            "loss": "its loss is MONAI's DiceCELoss on softmax, without deep supervision",
            "batch size": "its batch size is 1 by default and 8 in its cluster script, the plan's "
            "here",
            "preprocessing": "it resamples to 1.5 mm and clips to -250 to 250 HU, the plan's here",
            "selection": "it keeps the checkpoint that is best on validation cases"}),
    "layer_decay": Schedule(ramp_by_layer, "sgd", 1e-2, 3e-5,
        "ours: each layer learns at 0.75 of the rate of the next, after He et al. 2022, Masked "
        "Autoencoders, appendix A.1; we know of nobody who does it for 3D segmentation"),
    "frozen_encoder": Schedule(frozen_encoder, "sgd", 1e-2, 3e-5,
        "the encoder is frozen, as in CT-FM's evaluation; the numbers are nnU-Net's",
        published.CT_FM, {
            "optimizer": "it trains with AdamW",
            "learning rate": "its rate is 2e-4, not 1e-2",
            "weight decay": "its weight decay is 1e-5, not 3e-5",
            "ramp": "it starts with a ramp of 3 of 300 epochs",
            "decay": "its rate falls as a cosine, to a hundredth, not polynomially to zero",
            "loss": "its loss is MONAI's DiceCELoss on softmax"}),
}
# fmt: on


def table() -> str:
    """The schedules for people: name, optimizer, rate and origin, then how the source differs."""
    width = max(map(len, SCHEDULES))
    lines = []
    for name, row in SCHEDULES.items():
        origin, *differs = row.source.split(SOURCE_DIFFERS)
        lines.append(f"  {name:{width}}  {row.optimizer:5}  {row.learning_rate:g}  {origin}")
        lines += [f"  {'':{width}}  the source differs: {text}" for text in differs]
    return "\n".join(lines)


def phase_at(phases: Sequence[Phase], epoch: int) -> tuple[Phase, int]:
    """The phase of an epoch, and the epoch counted from its start."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase, epoch
        epoch -= phase.epochs
    return phases[-1], phases[-1].epochs  # after the end: nnU-Net asks once more when it resumes
