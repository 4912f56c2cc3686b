"""What a plan says about a training: length, rates, schedule, seed. Read once, checked whole.

It stands in the plan under `atlas_nnunet.training`, so that nnU-Net's five names (data set,
trainer, plans, configuration, fold) still tell a run apart, and `nnUNetv2_train` needs no option.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.schedule import SCHEDULES, Phase, Phases

SECTION = "atlas_nnunet"
OPTIMIZERS = ("sgd", "adamw")
AUTO = "auto"


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise PlanError(
            "; ".join(wrong),
            where=f"plan, section {SECTION}.training",
            do="plan again: atlas-nnunet plan DATASET --help lists the settings",
        )


def _is_weight(value: Any) -> bool:
    """Whether a value is a finite number of at least 0; True and False are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


@dataclass(frozen=True)
class Sampling:
    """How often a training draws each case, and what its foreground patches are centred on.

    The defaults are nnU-Net's: every case is drawn alike, and a foreground patch is centred on a
    structure that is drawn uniformly from those of the case (data_loader.py, nnunetv2 2.8.1).

    Attributes:
        source_balance: A case of a data source with n training cases gets the weight
            n^-source_balance. 0: every case alike; 0.5: inverse to the square root of n, as in
            MultiTalent (MultiTalent_Trainer_DDP.py:629-633); 1: every source alike. In [0, 1].
        tumor_cases: Weight of a case that shows a tumour, relative to one that shows none.
            Tumours, here and below, include cysts and other lesions. Positive.
        tumor_share: Share of foreground patches that are centred on a tumour, in cases that show
            tumours and other structures. In [0, 1]; None: a tumour is drawn like any structure.
        structures: Structure -> weight within its group (tumours or others, or all structures
            where `tumor_share` is None); 1 for a structure that is not named. At least 0; a
            foreground patch is never centred on a structure of weight 0.
        cases: Case -> factor on its weight; 1 for a case that is not named. At least 0.
    """

    source_balance: float = 0.0
    tumor_cases: float = 1.0
    tumor_share: float | None = None
    structures: Mapping[str, float] = field(default_factory=dict)
    cases: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        share = 0.0 if self.tumor_share is None else self.tumor_share
        problems = [
            text
            for text, value, low, high in (
                ("source_balance must be between 0 and 1", self.source_balance, 0.0, 1.0),
                ("tumor_cases must be positive", self.tumor_cases, math.ulp(0.0), math.inf),
                ("tumor_share must be between 0 and 1", share, 0.0, 1.0),
            )
            if not _is_weight(value) or not low <= value <= high
        ]
        for kind, weights in (("structure", self.structures), ("case", self.cases)):
            problems += [
                f"the weight of {kind} {name!r} is {value!r}, not a finite number of at least 0"
                for name, value in weights.items()
                if not _is_weight(value)
            ]
        _refuse(problems)

    def summary(self) -> str:
        """One line for people."""
        if self == Sampling():
            return "uniform, as in nnU-Net"
        share = "as any structure" if self.tumor_share is None else f"{self.tumor_share:.0%}"
        return (
            f"weight {self.tumor_cases:g} for cases with a tumour, foreground patches centred on "
            f"tumours: {share}, balance of sources {self.source_balance:g}, weights for "
            f"{len(self.structures)} structures and {len(self.cases)} cases"
        )


# Of pre-training. What was measured for it, and what was not: docs/decisions/0025-sampling.md.
PRETRAINING = Sampling(source_balance=0.5, tumor_cases=2.0, tumor_share=0.5)
SAMPLINGS = {"uniform": Sampling(), "pretraining": PRETRAINING}


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
        sampling: How often each case and each structure is drawn in training.
        prefetch_gb: Memory for batches that are prepared ahead, for training and validation
            together, on each rank; 1 GB is 10^9 bytes.
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
    sampling: Sampling = field(default_factory=Sampling)
    prefetch_gb: float = 4.0

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
            "prefetch_gb is a finite number of at least 0": not _is_weight(self.prefetch_gb),
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
        section["sampling"] = Sampling(**section.get("sampling", {}))
        return Training(**section)
    except (TypeError, KeyError) as error:  # a name or a type that no setting has
        _refuse([f"it cannot be read: {error}"])
        raise
