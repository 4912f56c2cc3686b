"""Does this transfer help, before weeks are spent on it? Both arms, briefly, on the plan's folds.

The arms are plans beside the target's, under names of their own, with the same network, patches,
batches, split, length and averaging; what differs is the start and the schedule. They are trained,
scored and compared by the commands that do it for a user, so each resumes by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, link_or_copy, whole_file, write_json
from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import read_json
from atlas_nnunet.hosttraining import TRANSFER_TRAINER, split_of
from atlas_nnunet.labelstatus import find_conversion
from atlas_nnunet.schedule import SCHEDULES
from atlas_nnunet.settings import SECTION, Training, of_plans, twin_name
from atlas_nnunet.statistics.paired_difference import MIN_CASES
from atlas_nnunet.statistics.verdict import MIXED, UNDECIDED

ARMS = ("scratch", "transfer")  # the baseline first
EPOCHS = 20
ENDING = ".nii.gz"
Call = Callable[[list[str]], int]


@dataclass(frozen=True)
class Pilot:
    """What to try.

    Attributes:
        dataset: The target.
        plans: Name of its plan.
        configuration: Of it.
        folds: To train on, validation cases pooled.
        epochs: Of each arm, of as many iterations as the plan has.
        device: "cuda", "cpu" or "mps".
    """

    dataset: Dataset
    plans: str
    configuration: str
    folds: tuple[str, ...]
    epochs: int
    device: str

    @property
    def folder(self) -> Path:
        name = f"{self.plans}__{self.configuration}.pilot"
        return self.dataset.preprocessed / "atlas_nnunet" / name

    def arm_plans(self, arm: str) -> str:
        return f"{self.plans}Pilot{arm.title()}_{self.configuration}"

    def fold_folder(self, arm: str, fold: str) -> Path:
        return self.dataset.run(TRANSFER_TRAINER, self.arm_plans(arm), self.configuration, fold)


def brief(own: Training, twin: Training | None, epochs: int) -> dict[str, Training]:
    """Arm -> its training.

    Args:
        own: Of the target's plan.
        twin: Of the scratch plan beside it, whose optimizer and rate hold; nnU-Net's own if None.
        epochs: Of each arm.

    Raises:
        TransferError: the plan starts from scratch itself.
    """
    if not own.transfers:
        raise TransferError(
            f"the plan's schedule is {own.schedule}: there is no transfer to try",
            where="--pilot", do="give the plan of the transfer with -p",
        )  # fmt: skip
    length: dict[str, Any] = {
        "epochs": epochs, "phases": (), "final_validation": True, "save_every": max(1, epochs // 4),
    }  # fmt: skip
    alike = ("iterations", "val_iterations", "seed", "mirror_axes", "ema_decay")
    same = {name: getattr(own, name) for name in alike}
    theirs = ("optimizer", "learning_rate", "weight_decay")
    rates = {name: getattr(twin, name) for name in theirs} if twin else {}
    scratch = Training.of_schedule("scratch", {**same, **rates, **length})
    return {"scratch": scratch, "transfer": replace(own, **length)}


def run_pilot(pilot: Pilot, call: Call) -> int:
    """Train, score and compare both arms; prints and leaves the answer.

    Args:
        pilot: What to try; the transfer itself is done.
        call: Runs a command of ours.

    Raises:
        TransferError: a plan that cannot be tried, or a command that did not end well.
    """
    hint = f"atlas-nnunet plan {pilot.dataset.name} -pl AtlasTransferPlanner"
    plans = read_json(pilot.dataset.plans(pilot.plans), hint)
    _refuse_other_endings(pilot)
    _tell_few(pilot, plans)
    own = of_plans(plans)
    _tell_edited(own)
    twin = _twin(pilot)
    trainings = brief(own, twin, pilot.epochs)
    rate = f"{trainings['scratch'].optimizer} at {trainings['scratch'].learning_rate:g}"
    print(f"scratch trains with {rate}, {'as its own plan says' if twin else 'as nnU-Net does'}")
    for arm in ARMS:
        _write_arm(pilot, arm, plans, trainings[arm])
        for fold in pilot.folds:
            _call(call, "train", pilot.dataset.name, pilot.configuration, fold,
                  "-tr", TRANSFER_TRAINER, "-p", pilot.arm_plans(arm),
                  "-device", pilot.device)  # fmt: skip
            _score(pilot, arm, fold, call)
    runs = [f"{arm}={pilot.fold_folder(arm, fold)}" for arm in ARMS for fold in pilot.folds]
    _call(call, "compare", *runs, "-o", pilot.folder)
    found = read_json(pilot.folder / "compare.json", "the pilot writes it")["comparisons"]
    verdicts = [comparison["verdict"] for comparison in found]
    print("\n".join(f"pilot: {_words(v['answer'])}. {v['reason']}" for v in verdicts))
    return 0


def _words(answer: str) -> str:
    """The verdict as a clause."""
    return f"the result is {answer}" if answer in (MIXED, UNDECIDED) else f"transfer {answer}"


def _twin(pilot: Pilot) -> Training | None:
    """Of the scratch plan that `plan --schedule scratch` puts beside a transfer's."""
    path = pilot.dataset.plans(twin_name(pilot.plans))
    if not path.is_file():
        return None
    found = of_plans(json.loads(path.read_text()))
    return None if found.transfers else found


def _write_arm(pilot: Pilot, arm: str, plans: Mapping[str, Any], training: Training) -> None:
    """The arm's plan, and for the transfer its starting weights: the same file."""
    section = {**plans.get(SECTION, {}), "training": training.as_json()}
    name = pilot.arm_plans(arm)
    content = {**plans, "plans_name": name, SECTION: section}
    write_json(pilot.dataset.plans(name), content, sort_keys=False)
    if arm != "transfer":
        return
    for path in (pilot.dataset.transferred, pilot.dataset.transfer_report):
        with whole_file(path(name, pilot.configuration)) as partial:
            link_or_copy(path(pilot.plans, pilot.configuration), partial)


def _score(pilot: Pilot, arm: str, fold: str, call: Call) -> None:
    """Score the cases of the fold that the final validation has predicted, and no others.

    The references are collected in a folder of the pilot's own, so the label status is named.
    """
    folder = pilot.fold_folder(arm, fold) / "validation"
    references = pilot.folder / f"references_{fold}"
    shutil.rmtree(references, ignore_errors=True)  # of another split
    references.mkdir(parents=True)
    truth = pilot.dataset.preprocessed / "gt_segmentations"
    for prediction in folder.glob("*" + ENDING):
        link_or_copy(truth / prediction.name, references / prediction.name)
    known = ("--conversion", find_conversion(truth) or "none")
    meaning = ("--dataset-json", pilot.dataset.preprocessed / "dataset.json")
    _call(call, "evaluate", folder, references, *known, *meaning, "-o", folder / "evaluation.json")


def _call(call: Call, *words: object) -> None:
    line = [str(word) for word in words]
    if call(line) != 0:
        raise TransferError(
            "a step of the pilot did not end well", where=f"atlas-nnunet {' '.join(line)}",
            do="read its message above, put it right, and call the pilot again: it resumes",
        )  # fmt: skip


def _refuse_other_endings(pilot: Pilot) -> None:
    content = read_json(pilot.dataset.preprocessed / "dataset.json", "atlas-nnunet preprocess")
    if content["file_ending"] != ENDING:
        raise TransferError(
            f"the pilot scores {ENDING} files, this data set has {content['file_ending']}",
            where=pilot.dataset.name, do="train and compare both arms by hand: README",
        )  # fmt: skip


def _tell_edited(own: Training) -> None:
    """Phases that somebody wrote into the plan have no other length than theirs."""
    if own.phases != SCHEDULES[own.schedule].phases(own.epochs, own.learning_rate):
        print(
            "note: the plan's phases are not those of its schedule; the pilot tries the "
            f"schedule's own, {own.schedule}, for its fewer epochs"
        )


def _tell_few(pilot: Pilot, plans: Mapping[str, Any]) -> None:
    """Before the training, not after it."""
    splits = [split_of(pilot.dataset, plans, pilot.configuration, f) for f in pilot.folds]
    n_cases = sum(len(split["val"]) for split in splits if split)
    if n_cases < MIN_CASES:
        print(
            f"note: fold {', '.join(pilot.folds)} validates {n_cases} cases, and fewer than "
            f"{MIN_CASES} decide nothing: give more folds, --pilot 0 1 2"
        )
