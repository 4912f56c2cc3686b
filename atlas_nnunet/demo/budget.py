"""How long the demo trains, and on what: numbers for a CPU of two cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

CONFIGURATION = "3d_fullres"
PRETRAIN_PLANS = "AtlasPretrainPlans"
ARMS = {"transfer": "AtlasTransferPlans", "scratch": "AtlasScratchPlans"}
SCHEDULES = {"transfer": "head_then_all", "scratch": "scratch"}


@dataclass(frozen=True)
class Length:
    """Epochs, and training iterations in each."""

    epochs: int
    iterations: int


@dataclass(frozen=True)
class Budget:
    """What one run of the flow costs.

    Attributes:
        pretrain: Length of the pre-training.
        finetune: Length of each arm on the target: the same for both.
        optimizer: Of all three trainings.
        pretrain_rate: Learning rate of the pre-training.
        rates: Learning rate of each arm.
        spacing_mm: (z, y, x) of the pre-training's 3d_fullres; None leaves nnU-Net's choice.
        target_spacing_mm: The same for the target.
        memory_gb: What decides the patch, in nnU-Net's terms.
        step_size: Of the sliding window at prediction.
    """

    pretrain: Length
    finetune: Length
    optimizer: str = "adamw"
    # Of the rates tried, the best for each training, scratch included: docs/LOG.md.
    pretrain_rate: float = 3e-3
    rates: tuple[tuple[str, float], ...] = (("transfer", 3e-3), ("scratch", 1e-2))
    spacing_mm: tuple[float, float, float] | None = None
    target_spacing_mm: tuple[float, float, float] | None = None
    memory_gb: float = 0.24
    step_size: float = 0.5

    def training_words(self, length: Length, rate: float, schedule: str, seed: int) -> list[str]:
        """Options of `atlas-nnunet plan` for one training."""
        return words(
            "--preset", "cpu", "--memory-gb", self.memory_gb, "--schedule", schedule,
            "--epochs", length.epochs, "--iterations", length.iterations, "--val-iterations", 4,
            "--save-every", 1, "--optimizer", self.optimizer, "--learning-rate", rate,
            "--seed", seed, "--no-final-validation",
        )  # fmt: skip


def words(*parts: object) -> list[str]:
    """The words of a command line."""
    return [str(part) for part in parts]


def spacing_words(spacing_mm: Sequence[float] | None) -> list[str]:
    """The option `--spacing`, where a spacing is given."""
    return words("--spacing", *spacing_mm) if spacing_mm else []


PHANTOM = Budget(
    pretrain=Length(10, 80),
    finetune=Length(10, 30),
    step_size=0.75,
    spacing_mm=(4.0, 4.0, 4.0),
    target_spacing_mm=(3.5, 3.5, 3.5),
)
FOLDERS = Budget(pretrain=Length(20, 100), finetune=Length(10, 40), step_size=0.75)


def quick(budget: Budget) -> Budget:
    """The same flow in a minute or two: everything runs, nothing is learnt."""
    return replace(
        budget, pretrain=Length(2, 6), finetune=Length(2, 4), memory_gb=0.05, step_size=1.0
    )
