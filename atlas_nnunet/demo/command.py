"""atlas-nnunet demo: the whole flow, scratch against transfer, on a phantom or on your folders."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import ROOTS, Dataset, write_json
from atlas_nnunet.demo.budget import (
    ARMS,
    CONFIGURATION,
    FOLDERS,
    PHANTOM,
    PRETRAIN_PLANS,
    Budget,
    quick,
)
from atlas_nnunet.demo.flow import Side, Step, evaluation, steps
from atlas_nnunet.errors import AtlasError
from atlas_nnunet.execution import Workers, map_cases
from atlas_nnunet.leakage import sentences

PHANTOM_SOURCE = Side("phantom", Path("phantom/atlas"), "Dataset711_PhantomAtlas")
PHANTOM_TARGET = Side("phantom-target", Path("phantom/target"), "Dataset712_PhantomTarget")
SOURCE_NAME, TARGET_NAME = "Dataset721_DemoSource", "Dataset722_DemoTarget"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="out", type=Path, default=Path("atlas-demo"),
                        help="folder for everything; a second call resumes")  # fmt: skip
    parser.add_argument("--source", metavar="KEY=DIR", help="pre-train on this instead")
    parser.add_argument("--target", metavar="KEY=DIR", help="transfer to this instead")
    parser.add_argument("--source-cases", type=int, default=20, help="cases to pre-train on")
    parser.add_argument("--target-cases", type=int, default=4, help="cases to fine-tune on")
    parser.add_argument("--held-out", default="8",
                        help='cases to score, a number or "rest"')  # fmt: skip
    parser.add_argument("--target-structures", nargs="+", metavar="NAME",
                        help="structures of the target task; default: all of its card")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="a few iterations: all runs, nothing is learnt")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-np", dest="processes", type=int, default=2, help="worker processes")
    parser.epilog = (
        "examples:\n  atlas-nnunet demo -o atlas-demo\n"
        "  atlas-nnunet demo -o kbp --source openkbp=DIR --target openkbp=DIR \\\n"
        "    --source-cases 60 --target-cases 4 --held-out rest \\\n"
        "    --target-structures parotid_left parotid_right ptv70"
    )


def run(args: argparse.Namespace) -> int:
    if (args.source is None) != (args.target is None):
        raise AtlasError("--source and --target go together", do="give both, or neither")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.update({name: str(out / name) for name in ROOTS})
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    clock = Clock(out / "seconds.json")
    if args.source is None:
        source, target, budget = _phantom(args, out, clock)
    else:
        source, target = _folders(args)
        budget = FOLDERS
    if args.quick:
        budget = quick(budget)
    plan = steps(
        source, target, budget, out, seed=args.seed, device=args.device, processes=args.processes
    )
    notes = _run_steps(plan, args.call_main, clock)
    return _report(args, out, source, target, clock, notes)


class Clock:
    """Seconds of each stage, added up over resumed calls, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 1)
        write_json(self.path, self.seconds, sort_keys=False)


def _phantom(args: argparse.Namespace, out: Path, clock: Clock) -> tuple[Side, Side, Budget]:
    """Write both phantom sets; a patient that is already there is not drawn again."""
    from atlas_nnunet.demo.phantom_files import (
        demo_jobs,
        write_phantom,
        write_target_description,
    )

    source = Side(PHANTOM_SOURCE.key, out / PHANTOM_SOURCE.folder, PHANTOM_SOURCE.name)
    target = Side(PHANTOM_TARGET.key, out / PHANTOM_TARGET.folder, PHANTOM_TARGET.name)
    held_out = 8 if args.held_out == "rest" else int(args.held_out)
    jobs = demo_jobs(
        source.folder, target.folder, args.seed, args.source_cases, args.target_cases, held_out
    )
    began = time.monotonic()
    _, failed = map_cases(write_phantom, jobs, workers=Workers(args.processes), describe="phantom")
    if failed:
        raise AtlasError(f"phantom not written: {failed}", do="free disk space, then run again")
    write_target_description(target.folder, args.target_cases, held_out)
    clock.add("phantom", time.monotonic() - began)
    return source, target, PHANTOM


def _folders(args: argparse.Namespace) -> tuple[Side, Side]:
    """Where both are one folder, the target's cases come after the source's: none in both."""
    (source_key, source_dir), (target_key, target_dir) = _pair(args.source), _pair(args.target)
    same = source_dir.resolve() == target_dir.resolve()
    skip = ("--skip", str(args.source_cases)) if same else ()
    chosen = ("--structures", *args.target_structures) if args.target_structures else ()
    selection = (*skip, "--train", str(args.target_cases), "--hold-out", args.held_out, *chosen)
    return (
        Side(source_key, source_dir, SOURCE_NAME, ("--train", str(args.source_cases))),
        Side(target_key, target_dir, TARGET_NAME, selection),
    )


def _pair(text: str) -> tuple[str, Path]:
    key, separator, folder = text.partition("=")
    if not separator or not Path(folder).is_dir():
        raise AtlasError(f"not KEY=DIR with an existing folder: {text!r}",
                         do="atlas-nnunet datasets lists the keys")  # fmt: skip
    return key, Path(folder)


def _run_steps(plan: list[Step], call: Callable[[list[str]], int], clock: Clock) -> list[str]:
    """Run every step; returns a note for each step that refused cases."""
    notes = []
    for number, step in enumerate(plan, 1):
        print(f"\n[{number}/{len(plan)}] atlas-nnunet {' '.join(step.argv)}", flush=True)
        began = time.monotonic()
        code = call(list(step.argv))
        clock.add(step.stage, time.monotonic() - began)
        if code == 1 and step.may_refuse:
            notes.append(f"{step.argv[0]} {step.argv[1]}: some cases were refused, see its report")
        elif code != 0:
            raise AtlasError(
                f"step {number} ended with code {code}", where=" ".join(step.argv),
                do="read its message above, put it right, and call the demo again: it resumes",
            )  # fmt: skip
    return notes


def _report(
    args: argparse.Namespace, out: Path, source: Side, target: Side, clock: Clock, notes: list[str]
) -> int:
    from atlas_nnunet.demo.figures import cases_picture, curves_picture, overlay_picture
    from atlas_nnunet.demo.report import write_report
    from atlas_nnunet.demo.result import DemoResult, result_table
    from atlas_nnunet.statistics.pairing import case_means

    data = Dataset(target.name)
    runs = {"pretrain": Dataset(source.name).run(
        "AtlasPretrainTrainer", PRETRAIN_PLANS, CONFIGURATION, "all")}  # fmt: skip
    runs |= {
        arm: data.run("AtlasTransferTrainer", plans, CONFIGURATION, "all")
        for arm, plans in ARMS.items()
    }
    report = data.transfer_report(ARMS["transfer"], CONFIGURATION)
    result = DemoResult(
        title=f"{source.key} to {target.key}: scratch against transfer",
        arms={arm: _read(evaluation(out, arm)) for arm in ARMS},
        transfer_report=_read(report),
        curves={arm: _read(run / "curves.json") for arm, run in runs.items()},
        seconds=clock.seconds,
        pictures={},
        notes=[*notes, *(["--quick: too short to learn from"] if args.quick else [])],
    )
    shared = sentences(_read(data.conversion), result.cases, source.name)
    result = replace(result, notes=[*result.notes, *shared])
    case = result.cases[0]
    masks = {"reference": data.raw / "labelsTs" / f"{case}.nii.gz"}
    masks |= {arm: out / "predicted" / arm / f"{case}.nii.gz" for arm in ("scratch", "transfer")}
    pictures = {
        "Case by case": cases_picture(list(case_means(result.pairs("dice")).values())),
        "Training curves": curves_picture(result.curves),
        f"One case: {case}": overlay_picture(
            data.raw / "imagesTs" / f"{case}_0000.nii.gz", masks, _read(data.raw / "dataset.json")
        ),
    }
    write_report(replace(result, pictures=pictures), out / "report.html")
    table = result_table(result)
    (out / "table.txt").write_text(table + "\n")
    total = sum(clock.seconds.values())
    print(f"\n{table}\n\n{total:.0f} s in all; the page: {out / 'report.html'}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
