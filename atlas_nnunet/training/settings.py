"""What a plan says about a training: length, rates, schedule, seed. Read once, checked whole.

It stands in the plan under `atlas_nnunet.training`, so that nnU-Net's five names (data set,
trainer, plans, configuration, fold) still tell a run apart, and `nnUNetv2_train` needs no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.training.schedule import SCHEDULES, Phase

SECTION = "atlas_nnunet"
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Training:
    """Length, rates and schedule of one training.

    Defaults are nnU-Net's own (nnUNetTrainer.py:153-159, nnunetv2 2.8.1).

    Attributes:
        schedule: A name in SCHEDULES.
        epochs: Number of epochs, all phases together.
        iterations: Training iterations per epoch.
        val_iterations: Validation iterations per epoch (online Dice, not the final validation).
        learning_rate: Highest rate of the phase that trains everything.
        optimizer: "sgd" (nesterov, momentum 0.99, nnU-Net's) or "adamw" (SuPreM's).
        weight_decay: As the optimizer takes it.
        seed: Batches are drawn by (seed, epoch, iteration, sample), weights initialised by it.
        mirror_axes: Axes (after the plan's transposition) to mirror in training and, later, at
            test time. Left-right is left out where a structure has a side.
        final_validation: Whether nnU-Net's own validation runs after the last epoch.
        save_every: Epochs between two `checkpoint_latest.pth`.
    """

    schedule: str = "nnunet"
    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    learning_rate: float = 1e-2
    optimizer: str = "sgd"
    weight_decay: float = 3e-5
    seed: int = 0
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    final_validation: bool = True
    save_every: int = 50

    def __post_init__(self) -> None:
        wrong = [
            text
            for text, bad in (
                (f"schedule {self.schedule!r} is none of {sorted(SCHEDULES)}",
                 self.schedule not in SCHEDULES),
                (f"optimizer {self.optimizer!r} is none of {OPTIMIZERS}",
                 self.optimizer not in OPTIMIZERS),
                ("epochs, iterations and val_iterations are at least 1",
                 min(self.epochs, self.iterations, self.val_iterations, self.save_every) < 1),
                ("learning_rate is positive", self.learning_rate <= 0),
                ("mirror_axes are among 0, 1, 2", not set(self.mirror_axes) <= {0, 1, 2}),
            )
            if bad
        ]  # fmt: skip
        if wrong:
            raise PlanError(
                "; ".join(wrong),
                where=f"plan, section {SECTION}.training",
                do="plan again: atlas-nnunet plan DATASET --help lists the settings",
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        return SCHEDULES[self.schedule](self.epochs, self.learning_rate)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "mirror_axes": list(self.mirror_axes)}

    def with_changes(self, changes: Mapping[str, Any]) -> Training:
        """The same with some settings replaced; None means not given."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


def of_plans(plans: Mapping[str, Any]) -> Training:
    """The training section of a plan; nnU-Net's own settings for a plan that has none.

    Raises:
        PlanError: an unknown or impossible setting.
    """
    section = dict(plans.get(SECTION, {}).get("training", {}))
    unknown = sorted(section.keys() - Training.__dataclass_fields__.keys())
    if unknown:
        raise PlanError(
            f"unknown settings {unknown}",
            where=f"plan {plans.get('plans_name')!r}, section {SECTION}.training",
            do=f"known settings are {sorted(Training.__dataclass_fields__)}",
        )
    if "mirror_axes" in section:
        section["mirror_axes"] = tuple(section["mirror_axes"])
    return Training(**section)
