"""Scratch against transfer on few target cases: Dice, NSD, iterations; and ablations.

    python benchmarks/transfer.py phantom -o FOLDER
    python benchmarks/transfer.py openkbp --data DIR -o FOLDER
    python benchmarks/transfer.py tumours -o FOLDER

Each is budgeted for 45 minutes on two cores, and so is each further table (--tables). All arms of
a number of cases and a seed have the same cases, split, held-out patients, number of iterations and
batch size; arms of one plan have the same patches as well. A killed run resumes. Each table leaves
a folder with compare.json and compare.html of `atlas-nnunet compare`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transfer_arms import ARMS, CASES, MEASURED, MOST_SEEDS, PLANS, TABLES, Run, runs_of
from transfer_sets import SETS, Set, held_out

from atlas_nnunet.artefacts import ROOTS, Dataset, write_json
from atlas_nnunet.cli import main as atlas
from atlas_nnunet.host import read_json
from atlas_nnunet.hosttraining import PRETRAIN_TRAINER, TRANSFER_TRAINER
from atlas_nnunet.settings import SECTION

CONFIGURATION = "3d_fullres"
PRETRAIN_RATE = 3e-3  # of AdamW, as all rates here; docs/LOG.md


def call(*words: object) -> None:
    """One command of ours.

    Raises:
        RuntimeError: it did not end well.
    """
    line = [str(word) for word in words]
    print(f"\natlas-nnunet {' '.join(line)}", flush=True)
    if atlas(line):
        raise RuntimeError(f"atlas-nnunet {' '.join(line)}")


def prepare(chosen: Set, out: Path, args: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Datasets, pre-trainings, plans and splits, as far as these runs need them."""
    chosen.write(out, args.data)
    budget = chosen.budget
    arms = [ARMS[run.arm] for run in runs]
    sources = {arm.source for arm in arms} - {None} | {"all"}
    names = [name for key, name in chosen.sources.items() if key in sources]
    for name in (*names, chosen.target):
        call("fingerprint", name, "-np", 2)
    for name in names:
        call("plan", name, "--preset", "cpu", "--memory-gb", budget.memory_gb, "--spacing",
             *budget.source_mm, "--epochs", budget.pretrain[0], "--iterations", budget.pretrain[1],
             "--val-iterations", 6, "--optimizer", "adamw", "--learning-rate", PRETRAIN_RATE,
             "--no-final-validation", "--save-every", 5)  # fmt: skip
        call("preprocess", name, "-np", 2)
    failed = side_by_side(pretrain, [(name, out, args.device) for name in names], args.processes)
    if failed:
        raise RuntimeError("\n".join(failed))
    for name in {arm.plans for arm in arms}:
        spacing = () if name == "inherit" else ("--spacing", *budget.target_mm)
        call("plan", chosen.target, "-pl", "AtlasTransferPlanner", "-p", base(name),
             "--from", checkpoint(chosen.sources["all"]), *PLANS[name],
             "--memory-gb", budget.memory_gb, *spacing)  # fmt: skip
        call("preprocess", chosen.target, "-p", base(name), "-np", 2)
    write_json(Dataset(chosen.target).splits_for_training, splits(chosen))


def pretrain(job: tuple[str, Path, str]) -> str:
    """One pre-training; returns what went wrong, empty if nothing."""
    name, out, device = job
    return logged(out / f"pretrain_{name}.txt",
                  [("train", name, CONFIGURATION, "all", "-device", device)])  # fmt: skip


def base(name: str) -> str:
    return f"{name.title()}Plans"


def checkpoint(source: str) -> Path:
    run = Dataset(source).run(PRETRAIN_TRAINER, "AtlasPretrainPlans", CONFIGURATION, "all")
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
    arm = replace(arm, rate=chosen.rates.get(run.arm, arm.rate))
    training = arm.training(chosen.budget.finetune, run.seed)
    axes = tuple(plans[SECTION]["training"]["mirror_axes"])
    changed = replace(training, mirror_axes=axes).as_json()
    plans |= {"plans_name": run.plans, SECTION: {"training": changed}}
    write_json(target.plans(run.plans), plans, sort_keys=False)
    if arm.source is not None:
        call("transfer", target.name, "-p", run.plans,
             "--from", checkpoint(chosen.sources[arm.source]), "--seed", run.seed,
             "--parts", *arm.parts)  # fmt: skip


def work(job: tuple[Run, str, Path, str]) -> str:
    """Train, predict and score one run; returns what went wrong, empty if nothing."""
    run, name, out, device = job
    chosen, folder = SETS[name], run.folder(out)
    target = Dataset(chosen.target)
    images, labels = chosen.scored(out)
    status = ("--conversion", target.conversion) if target.conversion.is_file() else ()
    return logged(folder / "log.txt", [
        ("train", chosen.target, CONFIGURATION, run.fold, "-tr", TRANSFER_TRAINER,
         "-p", run.plans, "-device", device),
        ("predict", "-i", images, "-o", folder / "predicted", "-d", chosen.target, "-p",
         run.plans, "-f", run.fold, "-device", device, "-step_size", 0.75,
         "--disable_tta", "--disable_progress_bar"),
        ("evaluate", folder / "predicted", labels, "--dataset-json", target.raw / "dataset.json",
         *status, "-o", folder / "evaluation.json", "-np", 1,
         "--tolerance-mm", chosen.tolerance_mm),
    ])  # fmt: skip


def logged(path: Path, commands: Sequence[tuple]) -> str:
    """Run commands, their output into a file; returns where to read what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            for words in commands:
                call(*words)
        except Exception:
            traceback.print_exc()
            return f"see {path}"
    return ""


def entry(run: Run, chosen: Set, out: Path) -> dict[str, Any]:
    """A run as `atlas-nnunet compare --runs` takes it; its curve is nnU-Net's online Dice on
    patches of the held-out cases."""
    epochs, iterations = chosen.budget.finetune
    trained = Dataset(chosen.target).run(TRANSFER_TRAINER, run.plans, CONFIGURATION, str(run.fold))
    dice = read_json(trained / "curves.json", "the run is not done")["dice"]
    return {
        "name": run.arm, "evaluation": str(run.folder(out) / "evaluation.json"),
        "cases": run.cases, "seed": run.seed, "iterations": epochs * iterations,
        "curve": [[(epoch + 1) * iterations, value] for epoch, value in enumerate(dice)],
    }  # fmt: skip


def pinned(cores: Any) -> None:
    """A worker has its cores, and torch as many threads."""
    os.sched_setaffinity(0, cores.get())


def side_by_side(
    function: Callable[[Any], str], jobs: Sequence[Any], processes: int
) -> list[str]:  # fmt: skip
    """Run trainings in so many processes, one core each; alone, a training has all cores.

    Returns:
        What went wrong.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    cores = sorted(os.sched_getaffinity(0))
    shared = [{core} for core in cores[:processes]] if len(jobs) > 1 else [set(cores)]
    for own in shared:
        queue.put(own)
    failed, began = [], time.monotonic()
    with context.Pool(len(shared), pinned, (queue,)) as pool:
        for number, wrong in enumerate(pool.imap(function, jobs), 1):
            minutes = (time.monotonic() - began) / 60
            print(f"{number}/{len(jobs)} trainings, {minutes:.0f} min {wrong}", flush=True)
            failed += [wrong] if wrong else []
        pool.close()  # its workers end by themselves: killed, they would leave semaphores behind
        pool.join()
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="for openkbp: the folder of its cases")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=MEASURED)
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), help="only these of a table")
    parser.add_argument("--seeds", type=int, choices=range(1, MOST_SEEDS), default=3)
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-np", dest="processes", type=int, default=2, help="trainings at once")
    args = parser.parse_args()
    out, chosen = args.out.resolve(), SETS[args.set].on(args.device)
    os.environ.update({name: str(out / name) for name in ROOTS})
    os.environ["nnUNet_n_proc_DA"] = "0" if args.device == "cpu" else "8"
    tables = [t for t in args.tables if t in chosen.tables]
    runs = [r for r in runs_of(tables, args.seeds) if not args.arms or r.arm in args.arms]
    prepare(chosen, out, args, runs)
    with (out / "start.txt").open("a") as log, redirect_stdout(log):
        for run in runs:
            start(run, chosen)
    jobs = [(run, args.set, out, args.device) for run in runs]
    failed = side_by_side(work, jobs, args.processes)
    print(*failed, sep="\n")
    for table in tables:
        arms, numbers = TABLES[table]
        listed = [run for run in runs if run.arm in arms and run.cases in numbers]
        done = [r for r in listed if (r.folder(out) / "evaluation.json").is_file()]
        ordered = sorted(done, key=lambda r: (arms.index(r.arm), r.cases, r.seed))
        write_json(out / table / "runs.json", [entry(r, chosen, out) for r in ordered])
        print(f"\n{table}: {len(done)} of {len(listed)} runs")
        call("compare", "--runs", out / table / "runs.json", "-o", out / table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
