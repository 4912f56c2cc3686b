"""Scratch against transfer at 1, 2, 4 and 8 target cases: Dice, NSD, iterations; and ablations.

    python benchmarks/transfer.py phantom -o FOLDER
    python benchmarks/transfer.py openkbp --data DIR -o FOLDER
    python benchmarks/transfer.py tumours -o FOLDER

Every arm of a number of cases and a seed has the same cases, split, held-out patients, number of
iterations and batch size. Arms of one plan have the same patches as well, drawn alike. Each arm has
the learning rate that suited its kind best on the phantom demo (docs/LOG.md), not tuned here.
Killed, it goes on where it was. Leaves a folder for each table, with compare.json and compare.html
of `atlas-nnunet compare`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transfer_sets import SETS, Set, held_out

from atlas_nnunet.artefacts import ROOTS, Dataset, write_json
from atlas_nnunet.cli import main as atlas
from atlas_nnunet.host import read_json
from atlas_nnunet.settings import SECTION, Training

CONFIGURATION = "3d_fullres"
TRAINER = "AtlasTransferTrainer"
CASES = (1, 2, 4, 8)
ABLATION_CASES = 4
MOST_SEEDS = 10  # the splits stand in one file, which decides what is done before
SCRATCH_RATE, TRANSFER_RATE, PRETRAIN_RATE = 1e-2, 3e-3, 3e-3  # AdamW; docs/LOG.md
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
        settings: Of the training, beside its length, rate and seed.
    """

    plans: str = "aligned"
    parts: tuple[str, ...] = ("encoder", "decoder", "head")
    source: str | None = "all"
    settings: dict[str, Any] = field(default_factory=dict)

    def training(self, length: tuple[int, int], seed: int) -> Training:
        schedule, rate = "head_then_all", TRANSFER_RATE
        if self.source is None:
            schedule, rate = "scratch", SCRATCH_RATE
        common = {"epochs": length[0], "iterations": length[1], "val_iterations": 6, "seed": seed,
                  "final_validation": False, "optimizer": "adamw", "learning_rate": rate,
                  "save_every": length[0]}  # fmt: skip
        own = {**common, **self.settings}
        return Training.of_schedule(own.pop("schedule", schedule), own)


ARMS = {
    "scratch": Arm(source=None),
    "aligned": Arm(),
    "encoder only": Arm(parts=("encoder",)),
    "inherit": Arm("inherit"),
    "native": Arm("native"),
    "scratch native": Arm("native", source=None),
    "without tumours": Arm(source="organs"),
    "nnunet": Arm(settings={"schedule": "nnunet"}),
    "decoder then all": Arm(settings={"schedule": "decoder_then_all"}),
    "layer decay": Arm(settings={"schedule": "layer_decay"}),
    "frozen encoder": Arm(settings={"schedule": "frozen_encoder"}),
    "EMA": Arm(settings={"ema_decay": 0.98}),
    "L2-SP": Arm(settings={"l2_sp": 0.01}),
}
MAIN = ("scratch", "aligned", "encoder only", "inherit", "native", "scratch native")
# Table -> arms (the first is the baseline), numbers of target cases.
TABLES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "main": (MAIN, CASES),
    "parts": (("encoder only", "aligned"), CASES),  # runs of "main" once more
    "tumours": (("without tumours", "aligned", "scratch"), (2, 8)),
    "schedules": (
        ("aligned", "nnunet", "decoder then all", "layer decay", "frozen encoder", "EMA", "L2-SP"),
        (ABLATION_CASES,),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training: an arm, so many cases, a seed."""

    arm: str
    cases: int
    seed: int

    @property
    def plans(self) -> str:
        return f"{self.arm.title().replace(' ', '').replace('-', '')}Seed{self.seed}Plans"

    @property
    def fold(self) -> int:
        """nnU-Net's number of the split: a seed chooses the cases, more cases hold fewer."""
        return self.seed * len(CASES) + CASES.index(self.cases)

    def folder(self, out: Path) -> Path:
        return out / "runs" / f"{self.arm.replace(' ', '_')}_{self.cases}_{self.seed}"


def call(*words: object) -> None:
    """One command of ours.

    Raises:
        RuntimeError: it did not end well.
    """
    line = [str(word) for word in words]
    print(f"\natlas-nnunet {' '.join(line)}", flush=True)
    if atlas(line):
        raise RuntimeError(f"atlas-nnunet {' '.join(line)}")


def prepare(chosen: Set, out: Path, data: Path | None, device: str) -> None:
    """Data sets, pre-trainings, plans and splits."""
    chosen.write(out, data)
    budget = chosen.budget
    for name in (*chosen.sources.values(), chosen.target):
        call("fingerprint", name, "-np", 2)
    for name in chosen.sources.values():
        call("plan", name, "--preset", "cpu", "--memory-gb", budget.memory_gb, "--spacing",
             *budget.source_mm, "--epochs", budget.pretrain[0], "--iterations", budget.pretrain[1],
             "--val-iterations", 6, "--optimizer", "adamw", "--learning-rate", PRETRAIN_RATE,
             "--no-final-validation", "--save-every", 5)  # fmt: skip
        call("preprocess", name, "-np", 2)
        call("train", name, CONFIGURATION, "all", "-device", device)
    for name, options in PLANS.items():
        spacing = () if name == "inherit" else ("--spacing", *budget.target_mm)
        call(
            "plan",
            chosen.target,
            "-pl",
            "AtlasTransferPlanner",
            "-p",
            base(name),
            "--from",
            checkpoint(chosen.sources["all"]),
            *options,
            "--memory-gb",
            budget.memory_gb,
            *spacing,
        )
        call("preprocess", chosen.target, "-p", base(name), "-np", 2)
    write_json(Dataset(chosen.target).preprocessed / "splits_final.json", splits(chosen))


def base(name: str) -> str:
    return f"{name.title()}Plans"


def checkpoint(source: str) -> Path:
    run = Dataset(source).run("AtlasPretrainTrainer", "AtlasPretrainPlans", CONFIGURATION, "all")
    return run / "checkpoint_final.pth"


def splits(chosen: Set) -> list[dict[str, list[str]]]:
    """nnU-Net's splits, by `Run.fold`: nested in the number of cases, the held-out to validate."""
    candidates, rest = held_out(chosen)
    found = []
    for seed in range(MOST_SEEDS):
        order = np.random.default_rng(seed).permutation(candidates)
        found += [{"train": sorted(map(str, order[:n])), "val": rest} for n in CASES]
    return found


def start(run: Run, chosen: Set) -> None:
    """The run's own plan, and its starting weights."""
    arm, target = ARMS[run.arm], Dataset(chosen.target)
    plans = read_json(target.plans(base(arm.plans)), "this benchmark makes it")
    training = arm.training(chosen.budget.finetune, run.seed)
    axes = tuple(plans[SECTION]["training"]["mirror_axes"])
    changed = Training(**{**vars(training), "mirror_axes": axes})
    plans |= {"plans_name": run.plans, SECTION: {"training": changed.as_json()}}
    write_json(target.plans(run.plans), plans, sort_keys=False)
    if arm.source is not None:
        call(
            "transfer",
            target.name,
            "-p",
            run.plans,
            "--from",
            checkpoint(chosen.sources[arm.source]),
            "--seed",
            run.seed,
            "--parts",
            *arm.parts,
        )


def work(job: tuple[Run, str, Path, str]) -> str:
    """Train, predict and score one run; returns what went wrong, empty if nothing."""
    run, name, out, device = job
    chosen, folder = SETS[name], run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = chosen.scored(out)
    with (folder / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            call("train", chosen.target, CONFIGURATION, run.fold, "-tr", TRAINER, "-p", run.plans,
                 "-device", device)  # fmt: skip
            call("predict", "-i", images, "-o", folder / "predicted", "-d", chosen.target, "-p",
                 run.plans, "-f", run.fold, "-device", device, "-step_size", 0.75,
                 "--disable_tta", "--disable_progress_bar")  # fmt: skip
            call("evaluate", folder / "predicted", labels, "--dataset-json",
                 Dataset(chosen.target).raw / "dataset.json", "--conversion",
                 Dataset(chosen.target).conversion, "-o", folder / "evaluation.json",
                 "-np", 1, "--tolerance-mm", chosen.tolerance_mm)  # fmt: skip
        except Exception:
            traceback.print_exc()
            return f"{run}: see {folder / 'log.txt'}"
    return ""


def entry(run: Run, chosen: Set, out: Path) -> dict[str, Any]:
    """A run as `atlas-nnunet compare --runs` takes it; its curve is nnU-Net's online Dice on
    patches of the held-out cases."""
    epochs, iterations = chosen.budget.finetune
    trained = Dataset(chosen.target).run(TRAINER, run.plans, CONFIGURATION, str(run.fold))
    dice = read_json(trained / "curves.json", "the run is not done")["dice"]
    return {
        "name": run.arm, "evaluation": str(run.folder(out) / "evaluation.json"),
        "cases": run.cases, "seed": run.seed, "iterations": epochs * iterations,
        "curve": [[(epoch + 1) * iterations, value] for epoch, value in enumerate(dice)],
    }  # fmt: skip


def runs_of(tables: Iterable[str], seeds: int) -> Iterator[Run]:
    """Whole seeds first, so that what is there after an hour can be read."""
    seen = set()
    for seed in range(seeds):
        for table in tables:
            arms, numbers = TABLES[table]
            for run in (Run(arm, n, seed) for n in numbers for arm in arms):
                if run not in seen:
                    seen.add(run)
                    yield run


def pinned(cores: Any) -> None:
    """A worker has one core, and torch as many threads."""
    os.sched_setaffinity(0, {cores.get()})


def train_all(jobs: Sequence[tuple[Run, str, Path, str]], processes: int) -> list[str]:
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in sorted(os.sched_getaffinity(0))[:processes]:
        cores.put(core)
    failed, began = [], time.monotonic()
    with context.Pool(processes, pinned, (cores,)) as pool:
        for number, wrong in enumerate(pool.imap(work, jobs), 1):
            minutes = (time.monotonic() - began) / 60
            print(f"{number}/{len(jobs)} runs, {minutes:.0f} min {wrong}", flush=True)
            failed += [wrong] if wrong else []
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="for openkbp: the folder of its cases")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, choices=range(1, MOST_SEEDS + 1), default=3)
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-np", dest="processes", type=int, default=2, help="trainings at once")
    args = parser.parse_args()
    out, chosen = args.out.resolve(), SETS[args.set].on(args.device)
    os.environ.update({name: str(out / name) for name in ROOTS})
    os.environ["nnUNet_n_proc_DA"] = "0" if args.device == "cpu" else "8"
    tables = [t for t in args.tables if t in chosen.tables]
    prepare(chosen, out, args.data, args.device)
    runs = list(runs_of(tables, args.seeds))
    with (out / "start.txt").open("a") as log, redirect_stdout(log):
        for run in runs:
            start(run, chosen)
    failed = train_all([(run, args.set, out, args.device) for run in runs], args.processes)
    print(*failed, sep="\n")
    for table in tables:
        arms, numbers = TABLES[table]
        listed = [r for r in runs if r.arm in arms and r.cases in numbers]
        done = [r for r in listed if (r.folder(out) / "evaluation.json").is_file()]
        ordered = sorted(done, key=lambda r: (arms.index(r.arm), r.cases, r.seed))
        write_json(out / table / "runs.json", [entry(r, chosen, out) for r in ordered])
        print(f"\n{table}: {len(done)} of {len(listed)} runs")
        call("compare", "--runs", out / table / "runs.json", "-o", out / table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
