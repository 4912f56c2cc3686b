"""What a plan says about a training: length, rates, schedule, seed. Read once, checked whole.

It stands in the plan under `atlas_nnunet.training`, so that nnU-Net's five names (data set,
trainer, plans, configuration, fold) still tell a run apart, and `nnUNetv2_train` needs no option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.schedule import SCHEDULES, Phase, Phases

SECTION = "atlas_nnunet"
OPTIMIZERS = ("sgd", "adamw")
AUTO = "auto"


@dataclass(frozen=True)
class Training:
    """Length, rates and schedule of one training.

    Defaults are nnU-Net's own (nnUNetTrainer.py:153-159, nnunetv2 2.8.1).

    Attributes:
        schedule: A name in SCHEDULES.
        phases: What is done; those of the schedule where none are given.
        epochs: Number of epochs, all phases together.
        iterations: Training iterations per epoch.
        val_iterations: Validation iterations per epoch (online Dice, not the final validation).
        learning_rate: Highest rate of the phase that trains everything.
        optimizer: "sgd" (nesterov, momentum 0.99, nnU-Net's) or "adamw" (SuPreM's).
        weight_decay: As the optimizer takes it.
        seed: Batches are drawn by (seed, epoch, iteration, sample), weights initialised by it.
        ema_decay: Of the average of the weights that the training ends with; 0 for none.
        l2_sp: Pull of what came from the source to where it started; 0 for none.
        mirror_axes: Axes (after the plan's transposition) to mirror in training and, later, at
            test time. Left-right is left out where a structure has a side.
        final_validation: Whether nnU-Net's own validation runs after the last epoch: True, False,
            or "auto": for every fold but "all", which has nothing held out to validate.
        deterministic: Deterministic algorithms alone (cudnn, cuBLAS, torch): the same weights on
            the same GPU, in more time. On a CPU they are the same without it.
        save_every: Epochs between two `checkpoint_latest.pth`.
    """

    schedule: str = "nnunet"
    phases: Phases = ()
    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    learning_rate: float = 1e-2
    optimizer: str = "sgd"
    weight_decay: float = 3e-5
    seed: int = 0
    ema_decay: float = 0.0
    l2_sp: float = 0.0
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    final_validation: bool | str = AUTO
    deterministic: bool = False
    save_every: int = 50

    def __post_init__(self) -> None:
        problems = {
            f"schedule {self.schedule!r} is none of {sorted(SCHEDULES)}":
                self.schedule not in SCHEDULES,
            f"optimizer {self.optimizer!r} is none of {OPTIMIZERS}":
                self.optimizer not in OPTIMIZERS,
            "epochs, iterations, val_iterations and save_every are at least 1":
                min(self.epochs, self.iterations, self.val_iterations, self.save_every) < 1,
            "learning_rate is positive": self.learning_rate <= 0,
            "ema_decay is at least 0 and below 1": not 0 <= self.ema_decay < 1,
            "l2_sp is at least 0": self.l2_sp < 0,
            f"final_validation is true, false or {AUTO!r}":
                self.final_validation not in (True, False, AUTO),
            "mirror_axes are among 0, 1, 2": not set(self.mirror_axes) <= {0, 1, 2},
        }  # fmt: skip
        _refuse([text for text, bad in problems.items() if bad])
        if not self.phases:
            made = SCHEDULES[self.schedule].phases(self.epochs, self.learning_rate)
            object.__setattr__(self, "phases", made)
        wrong = [f"phase {i}: {p.wrong}" for i, p in enumerate(self.phases) if p.wrong]
        length = sum(phase.epochs for phase in self.phases)
        if length != self.epochs:
            wrong.append(f"the phases have {length} epochs together, epochs is {self.epochs}")
        if self.l2_sp and not self.transfers:
            wrong.append(f"l2_sp pulls to transferred weights, {self.schedule} loads none")
        _refuse(wrong)

    @property
    def transfers(self) -> bool:
        """Whether it starts from transferred weights."""
        return SCHEDULES[self.schedule].transfers

    def validates(self, fold: str | int) -> bool:
        """Whether a training of this fold ends with nnU-Net's final validation."""
        return str(fold) != "all" if self.final_validation == AUTO else bool(self.final_validation)

    def why_not(self, fold: str | int) -> str:
        """Why such a training ends without it, and how to get it."""
        if self.final_validation == AUTO:
            reason = f"not run: fold {fold} holds no case out, it would predict all training cases"
        else:
            reason = "switched off in the plan"
        return f"{reason}. To run it now: nnUNetv2_train with --val"

    @classmethod
    def of_schedule(cls, schedule: str, changes: Mapping[str, Any]) -> Training:
        """A schedule with the optimizer and rate that its authors give it.

        Args:
            schedule: A name in SCHEDULES.
            changes: Settings that replace them; None means not given.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        row = SCHEDULES.get(schedule, SCHEDULES["nnunet"])  # an unknown name is told below
        theirs = {name: getattr(row, name) for name in ("optimizer", "learning_rate",
                                                       "weight_decay")}  # fmt: skip
        return cls(**{"schedule": schedule, **theirs, **given})

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self), "mirror_axes": list(self.mirror_axes),
            "phases": [phase.as_json() for phase in self.phases],
            "schedule_source": SCHEDULES[self.schedule].source,
        }  # fmt: skip


def twin_name(plans_name: str) -> str:
    """Of the plan from scratch that lies beside a transfer's: AtlasScratchPlans."""
    return plans_name.replace("Transfer", "Scratch")


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise PlanError(
            "; ".join(wrong),
            where=f"plan, section {SECTION}.training",
            do="plan again: atlas-nnunet plan DATASET --help lists the settings",
        )


def of_plans(plans: Mapping[str, Any]) -> Training:
    """The training section of a plan; nnU-Net's own settings for a plan that has none.

    Raises:
        PlanError: an unknown or impossible setting.
    """
    section = dict(plans.get(SECTION, {}).get("training", {}))
    section.pop("schedule_source", None)
    unknown = sorted(section.keys() - Training.__dataclass_fields__.keys())
    if unknown:
        raise PlanError(
            f"unknown settings {unknown}",
            where=f"plan {plans.get('plans_name')!r}, section {SECTION}.training",
            do=f"known settings are {sorted(Training.__dataclass_fields__)}",
        )
    if "mirror_axes" in section:
        section["mirror_axes"] = tuple(section["mirror_axes"])
    try:
        phases = section.get("phases", ())
        section["phases"] = tuple(Phase(**{**p, "trains": tuple(p["trains"])}) for p in phases)
        return Training(**section)
    except (TypeError, KeyError) as error:  # a name or a type that no setting has
        _refuse([f"it cannot be read: {error}"])
        raise
