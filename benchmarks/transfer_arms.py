"""The arms of the transfer benchmark: what comes from the source, and how it is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas_nnunet.settings import Training

CASES = (1, 2, 4, 8)
ABLATION_CASES = 4
MOST_SEEDS = 10  # the splits stand in one file
TUNING_SEED = MOST_SEEDS - 1
WHOLE = ("encoder", "decoder", "head")
# Plans that arms share, so that what is preprocessed is too: options of `plan`.
PLANS: dict[str, tuple[str, ...]] = {
    "aligned": ("--preset", "cpu"),
    "inherit": ("--preset", "cpu", "--mode", "inherit"),
    "native": ("--preset", "unet", "--mode", "native"),  # twice the source's widths
}


@dataclass(frozen=True)
class Arm:
    """One way to come to a model.

    Attributes:
        plans: A name in PLANS.
        parts: What comes from the source.
        source: "all" or "organs", the structures of the pre-training; None: nothing is loaded.
        schedule: Of the fine-tuning.
        rate: Highest learning rate.
        settings: Of the training, beside them, its length and its seed.
    """

    plans: str = "aligned"
    parts: tuple[str, ...] = WHOLE
    source: str | None = "all"
    schedule: str = "head_then_all"
    rate: float = 3e-3
    settings: dict[str, Any] = field(default_factory=dict)

    def training(self, length: tuple[int, int], seed: int) -> Training:
        return Training.of_schedule(self.schedule, {
            "epochs": length[0], "iterations": length[1], "val_iterations": 6, "seed": seed,
            "final_validation": False, "optimizer": "adamw", "learning_rate": self.rate,
            "save_every": length[0], **self.settings,
        })  # fmt: skip


def scratch(plans: str, rate: float) -> Arm:
    return Arm(plans, (), None, "scratch", rate)


ARMS = {
    "scratch": scratch("aligned", 3e-2),
    "aligned": Arm(),
    "encoder only": Arm(parts=("encoder",), schedule="decoder_then_all", rate=1e-2),
    "inherit": Arm("inherit"),
    "native": Arm("native", rate=1e-3),
    "scratch native": scratch("native", 3e-3),
    "without tumours": Arm(source="organs"),
    "nnunet": Arm(schedule="nnunet"),
    "decoder then all": Arm(schedule="decoder_then_all"),
    "layer decay": Arm(schedule="layer_decay"),
    "frozen encoder": Arm(schedule="frozen_encoder"),
    "EMA": Arm(settings={"ema_decay": 0.98}),
    "L2-SP": Arm(settings={"l2_sp": 0.01}),
}
# What was tried for whom; the best stand above. `inherit` has the rate of `aligned`.
TRIED: tuple[tuple[str, Arm, tuple[float, ...]], ...] = (
    ("scratch", scratch("aligned", 0), (3e-3, 1e-2, 3e-2, 1e-1)),
    ("aligned", Arm(), (1e-3, 3e-3, 1e-2)),
    ("aligned, decoder first", Arm(schedule="decoder_then_all"), (3e-3, 1e-2)),
    ("encoder", Arm(parts=("encoder",)), (3e-3, 1e-2)),
    ("encoder, decoder first", Arm(parts=("encoder",), schedule="decoder_then_all"),
     (3e-3, 1e-2, 3e-2)),
    ("native", Arm("native"), (3e-4, 1e-3, 3e-3, 1e-2)),
    ("scratch native", scratch("native", 0), (1e-3, 3e-3, 1e-2)),
)  # fmt: skip
# On OpenKBP the baselines were tried again, transfer was not: if that favours any, it is them.
TRIED_AGAIN = {
    "scratch": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "encoder, decoder first": (1e-3, 3e-3, 1e-2, 3e-2),
    "scratch native": (1e-3, 3e-3, 1e-2),
}


def at_rates(tried: Iterable[tuple[str, Arm, tuple[float, ...]]]) -> dict[str, Arm]:
    return {f"{name} {rate:g}": replace(arm, rate=rate) for name, arm, rates in tried
            for rate in rates}  # fmt: skip


RATES = at_rates(TRIED)
BASELINE_RATES = at_rates((name, arm, TRIED_AGAIN[name]) for name, arm, _ in TRIED
                          if name in TRIED_AGAIN)  # fmt: skip
ARMS |= RATES | BASELINE_RATES
FEW, MANY = 2, 8
# Table -> arms (the first is the baseline), numbers of target cases. One table with its
# pre-training is budgeted for 45 minutes on two cores; arms, cells and seeds were chosen before any
# result was seen.
TABLES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "main": (("scratch", "aligned", "encoder only"), (FEW, MANY)),
    "parts": (("encoder only", "aligned"), (FEW, MANY)),  # the runs of "main" again
    "modes": (("aligned", "inherit", "native", "scratch native"), (ABLATION_CASES,)),
    "tumours": (("scratch", "aligned", "without tumours"), (MANY,)),
    "schedules": (
        ("aligned", "nnunet", "decoder then all", "layer decay", "frozen encoder", "EMA", "L2-SP"),
        (ABLATION_CASES,),
    ),
    "rates": (tuple(RATES), (ABLATION_CASES,)),
    "baseline rates": (tuple(BASELINE_RATES), (ABLATION_CASES,)),
}
TUNING = ("rates", "baseline rates")
MEASURED = ("main", "parts", "tumours")  # without --tables, as far as the set has them


@dataclass(frozen=True)
class Run:
    """One training: an arm, so many cases, a seed."""

    arm: str
    cases: int
    seed: int

    @property
    def plans(self) -> str:
        letters = "".join(c for c in self.arm.title() if c.isalnum())
        return f"{letters}Seed{self.seed}Plans"

    @property
    def fold(self) -> int:
        """nnU-Net's number of the split: a seed chooses the cases, more cases hold fewer."""
        return self.seed * len(CASES) + CASES.index(self.cases)

    def folder(self, out: Path) -> Path:
        return out / "runs" / f"{self.arm.replace(' ', '_')}_{self.cases}_{self.seed}"


def runs_of(tables: Iterable[str], seeds: int) -> list[Run]:
    """Whole seeds first, so that what is there after an hour can be read."""
    listed = [
        Run(arm, n, seed)
        for seed in (*range(seeds), TUNING_SEED)
        for table in tables
        if (table in TUNING) == (seed == TUNING_SEED)
        for n in TABLES[table][1]
        for arm in TABLES[table][0]
    ]
    return list(dict.fromkeys(listed))
