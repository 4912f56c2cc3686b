"""The flow of the demo: which command lines run, in which order. Stages meet on disk only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.demo.budget import (
    ARMS,
    CONFIGURATION,
    PRETRAIN_PLANS,
    SCHEDULES,
    Budget,
    Length,
    spacing_words,
    words,
)


@dataclass(frozen=True)
class Side:
    """One data set of the flow and how `convert` takes it in.

    Attributes:
        key: Registry key.
        folder: Where the source lies.
        name: nnU-Net's name for the converted set.
        selection: Options of `convert` that choose cases and structures.
    """

    key: str
    folder: Path
    name: str
    selection: tuple[str, ...] = ()

    @property
    def convert(self) -> list[str]:
        number, _, rest = self.name.removeprefix("Dataset").partition("_")
        return words("convert", self.key, self.folder, "-d", int(number), "--name", rest,
                     *self.selection)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command line, under a name that the report adds times up by."""

    stage: str
    argv: tuple[str, ...]
    may_refuse: bool = False  # exit code 1, some cases refused, does not end the demo


def steps(
    source: Side, target: Side, budget: Budget, out: Path, *, seed: int, device: str, processes: int
) -> list[Step]:
    """Every step after the sources are on disk, in order.

    Needs nnU-Net's three folders in the environment.
    """
    parallel = ["-np", str(processes)]
    pretrained = Dataset(source.name).run(
        "AtlasPretrainTrainer", PRETRAIN_PLANS, CONFIGURATION, "all"
    )
    source_plans = Dataset(source.name).plans(PRETRAIN_PLANS)
    listed: list[tuple[str, Sequence[str], bool]] = [
        ("convert", [*source.convert, *parallel], True),
        ("convert", [*target.convert, *parallel], True),
        ("look for leakage", words("datasets", "overlap", source.name, target.name, *parallel),
         False),
        ("fingerprint", words("fingerprint", source.name, *parallel), False),
        ("fingerprint", words("fingerprint", target.name, *parallel), False),
        ("plan", words(
            "plan", source.name, *spacing_words(budget.spacing_mm),
            *budget.training_words(budget.pretrain, budget.pretrain_rate, "nnunet", seed),
        ), False),
        *(("plan", _plan_arm(target.name, arm, source_plans, budget, seed), False)
          for arm in ARMS),
        ("preprocess", words("preprocess", source.name, "-p", PRETRAIN_PLANS, *parallel), False),
        *(("preprocess", words("preprocess", target.name, "-p", plans, *parallel), False)
          for plans in ARMS.values()),
        ("pre-train", words(
            "train", source.name, CONFIGURATION, "all", "-p", PRETRAIN_PLANS, "-device", device,
        ), False),
        ("transfer", words(
            "transfer", target.name, "-p", ARMS["transfer"], "-c", CONFIGURATION,
            "--from", pretrained / "checkpoint_final.pth", "--seed", seed,
        ), False),
        *((f"fine-tune, {arm}", words(
            "train", target.name, CONFIGURATION, "all", "-tr", "AtlasTransferTrainer",
            "-p", plans, "-device", device,
        ), False) for arm, plans in ARMS.items()),
        *(("predict", words(
            "predict", "-i", Dataset(target.name).raw / "imagesTs", "-o", out / "predicted" / arm,
            "-d", target.name, "-p", plans, "-f", "all", "-device", device,
            "-step_size", budget.step_size, "--disable_tta", *parallel,
        ), False) for arm, plans in ARMS.items()),
        *(("evaluate", words(
            "evaluate", out / "predicted" / arm, Dataset(target.name).raw / "labelsTs",
            "--dataset-json", Dataset(target.name).raw / "dataset.json",
            "--conversion", Dataset(target.name).conversion,
            "-o", evaluation(out, arm), *parallel,
        ), False) for arm in ARMS),
    ]  # fmt: skip
    return [Step(stage, tuple(argv), may_refuse) for stage, argv, may_refuse in listed]


def evaluation(out: Path, arm: str) -> Path:
    """Where an arm's scores lie."""
    return out / f"evaluation_{arm}.json"


def _plan_arm(target: str, arm: str, source_plans: Path, budget: Budget, seed: int) -> list[str]:
    """Both arms: the same network, patch, batch and length; only start and schedule differ."""
    length: Length = budget.finetune
    return words(
        "plan", target, "-pl", "AtlasTransferPlanner", "-p", ARMS[arm], "--from", source_plans,
        *spacing_words(budget.target_spacing_mm),
        *budget.training_words(length, dict(budget.rates)[arm], SCHEDULES[arm], seed),
    )  # fmt: skip
