"""Published ways to fine-tune, as numbers, to compare our schedules with.

Only what a schedule can express is a field; anything else that a source does (its loss, its batch
size, deep supervision) is stated in words in schedule.py.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = ("head",)
HEAD_AND_DECODER = ("decoder", "head")
ALL = ("encoder", "decoder", "head")


@dataclass(frozen=True)
class Stage:
    """Epochs of a published training in which the same parts train.

    Attributes:
        epochs: Length.
        trains: The parts of the network that train.
        learning_rate: Highest rate.
        warm_up: Epochs of linear ramp.
        decay: "constant", "poly" (exponent 0.9) or "cosine", after the ramp.
        optimizer: "sgd" (momentum 0.99, Nesterov), "adamw", or "adamw amsgrad".
    """

    epochs: int
    trains: tuple[str, ...]
    learning_rate: float
    warm_up: int = 0
    decay: str = "poly"
    optimizer: str = "sgd"


@dataclass(frozen=True)
class Published:
    """A published training.

    Attributes:
        stages: In order.
        weight_decay: Of every stage.
        where: File and version in which the numbers are found.
    """

    stages: tuple[Stage, ...]
    weight_decay: float
    where: str

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)


NNUNET = Published((Stage(1000, ALL, 1e-2),), 3e-5, "nnUNetTrainer.py, nnunetv2 2.8.1")
# The heads' optimizer is made with a rate of 3e-3, which the ramp then sets from the first epoch.
MULTITALENT = Published(
    (
        Stage(10, HEAD, 5e-4, warm_up=10, decay="constant", optimizer="adamw amsgrad"),
        Stage(1050, ALL, 1e-2, warm_up=50),
    ),
    3e-5,
    "nnUNetTrainerV2_warmup.py (nnUNetTrainerV2_warmupsegheads), MultiTalent 0bc7b2c",
)
STU_NET = Published((Stage(1000, ALL, 1e-3),), 3e-5, "STUNetTrainer_base_ft, STU-Net 0652eaf")
NNSSL = Published(
    (Stage(1000, ALL, 1e-3, warm_up=50),), 3e-5, "pretrainedTrainer.py, nnUNet 0e495086"
)
SAWTOOTH = Published(
    (Stage(50, HEAD_AND_DECODER, 1e-3, warm_up=25), Stage(950, ALL, 1e-3, warm_up=50)),
    3e-5,
    "sawtooth_trainer.py, TaWald/nnUNet 91b1e049",
)
SUPREM = Published(
    (Stage(201, ALL, 1e-4, warm_up=20, decay="cosine", optimizer="adamw"),),
    1e-5,
    "target_applications/totalsegmentator/train.py, SuPreM 76e1a64",
)
CT_FM = Published(
    (Stage(300, HEAD_AND_DECODER, 2e-4, warm_up=3, decay="cosine", optimizer="adamw"),),
    1e-5,
    "evaluation/totalseg.yaml, CT-FM f58c89a",
)
