"""atlas-nnunet evaluate: predictions + references -> evaluation.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import without_nan, write_json
from atlas_nnunet.errors import EvaluationError
from atlas_nnunet.execution import Workers, add_arguments, map_cases, print_refused
from atlas_nnunet.host import read_json
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.leakage import sentences
from atlas_nnunet.structures import canonical

ENDING = ".nii.gz"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, help="folder of CASE.nii.gz")
    parser.add_argument("references", type=Path, help="folder of CASE.nii.gz, all are scored")
    parser.add_argument("--dataset-json", type=Path, dest="dataset_json",
                        help="meaning of the values; default: beside the predictions")  # fmt: skip
    parser.add_argument("--conversion", type=Path,
                        help="conversion.json: unlabelled structures are not scored")  # fmt: skip
    parser.add_argument("--structures", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--tolerance-mm", type=float, default=2.0, dest="tolerance_mm",
                        help="of the surface distance; default 2")  # fmt: skip
    parser.add_argument("-o", dest="output", type=Path, help="default: in the predictions' folder")
    add_arguments(parser)
    parser.epilog = (
        "example:\n  atlas-nnunet evaluate predicted $nnUNet_raw/Dataset507_Pancreas/labelsTs"
    )


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.evaluate.cases import (
        EMPTY_POLICY,
        SCHEMA,
        Job,
        leakage_of,
        score_case,
        summary,
        unknown_references,
    )

    coding = Coding.of_dataset_json(_dataset_json(args))
    structures = _chosen(coding, args.structures)
    conversion = read_json(args.conversion, "check --conversion") if args.conversion else None
    references = {
        p.name.removesuffix(ENDING): p for p in sorted(args.references.resolve().glob("*" + ENDING))
    }
    if not references:
        raise EvaluationError(f"no *{ENDING}", where=str(args.references),
                              do="name the folder of reference masks")  # fmt: skip
    predictions = args.predictions.resolve()
    unknown = {c: unknown_references(conversion, c, structures) for c in references}
    jobs = {
        case: Job(case, path, predictions / path.name, coding,
                  tuple(s for s in structures if s not in unknown[case]), args.tolerance_mm)
        for case, path in references.items()
    }  # fmt: skip
    scores, refused = map_cases(score_case, jobs, workers=Workers.of(args), describe="evaluate")
    means = summary(scores, structures)
    content = {
        "schema": SCHEMA,
        "tolerance_mm": args.tolerance_mm,
        "empty_policy": EMPTY_POLICY,
        "structures": list(structures),
        "cases": scores,
        "not_scored": {case: names for case, names in unknown.items() if names},
        "refused": {case: error.what for case, error in refused.items()},
        **means,
    }
    beside = args.conversion or args.references.parent / "conversion.json"
    known = read_json(beside, "check --conversion") if beside.is_file() else {}
    content |= leakage_of(known, scores, structures)
    output = args.output or args.predictions / "evaluation.json"
    write_json(output, without_nan(content))
    print(_table(means))
    left_out = sum(map(len, unknown.values()))
    if left_out:
        print(f"{left_out} references are unlabelled and not scored, see not_scored in {output}")
    for sentence in sentences(known, scores):
        print(sentence)
    print_refused(refused)
    print(f"written: {output}")
    return 1 if refused else 0


def _dataset_json(args: argparse.Namespace) -> dict[str, Any]:
    """The one given, else the one beside the predictions, else the references' data set's."""
    tried = [args.dataset_json] if args.dataset_json else [
        args.predictions / "dataset.json", args.references.parent / "dataset.json",
    ]  # fmt: skip
    for path in tried:
        if path.is_file():
            return json.loads(path.read_text())
    raise EvaluationError(f"no dataset.json at {[str(p) for p in tried]}",
                          do="name it with --dataset-json")  # fmt: skip


def _chosen(coding: Coding, names: list[str] | None) -> tuple[str, ...]:
    own = {canonical(s): s for s in coding.structures}
    unknown = [n for n in names or () if canonical(n) not in own]
    if unknown:
        raise EvaluationError(f"no such structures: {unknown}", where="--structures",
                              do=f"choose among {list(coding.structures)}")  # fmt: skip
    return tuple(own[canonical(n)] for n in names) if names else coding.structures


def _table(means: dict[str, Any]) -> str:
    rows = [f"{'structure':32}{'n':>5}{'Dice':>9}{'NSD':>9}"]
    rows += [
        f"{name:32}{m['n']:>5}{m['dice']:>9.4f}{m['nsd']:>9.4f}"
        for name, m in means["mean"].items()
    ]
    overall = means["mean_of_structures"]
    return "\n".join([*rows, f"{'mean':32}{'':5}{overall['dice']:>9.4f}{overall['nsd']:>9.4f}"])
