"""atlas-nnunet evaluate: predictions + references -> evaluation.json."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import EvaluationError
from atlas_nnunet.execution import Workers, add_arguments, print_refused
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.leakage import sentences as leakage_sentences
from atlas_nnunet.structures import canonical

NONE = "none"  # --conversion none


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, help="folder of CASE.nii.gz")
    parser.add_argument("references", type=Path, help="folder of CASE.nii.gz, all are scored")
    parser.add_argument(
        "--dataset-json",
        type=Path,
        dest="dataset_json",
        help="meaning of the values; default: beside the predictions",
    )
    parser.add_argument(
        "--conversion",
        type=Path,
        help="conversion.json with the label status of the references: unlabelled "
        "structures are not scored, pseudo-labels are counted; default: the one in "
        f"the parent folder of the references; {NONE}: all is annotated",
    )
    parser.add_argument("--structures", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=2.0,
        dest="tolerance_mm",
        help="tolerance of the surface distance for structures for which the "
        "dataset card publishes none; default 2",
    )
    parser.add_argument("-o", dest="output", type=Path, help="default: in the predictions' folder")
    add_arguments(parser)
    parser.epilog = (
        "example:\n  atlas-nnunet evaluate predicted $nnUNet_raw/Dataset507_Pancreas/labelsTs"
    )


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.scoring.evaluation import (
        NAME,
        Task,
        evaluate,
        references_in,
        sentences,
        table,
    )

    if not (args.tolerance_mm > 0 and math.isfinite(args.tolerance_mm)):
        raise EvaluationError(
            f"not a tolerance: {args.tolerance_mm:g}",
            where="--tolerance-mm",
            do="give a number of mm above 0",
        )
    coding = Coding.of_dataset_json(_dataset_json(args))
    conversion = _conversion(args)
    task = Task(
        predictions=args.predictions.resolve(),
        references=references_in(args.references),
        folder=args.references,
        coding=coding,
        structures=_chosen(coding, args.structures),
        conversion=conversion,
        fallback_mm=args.tolerance_mm,
    )
    result = evaluate(task, Workers.of(args))
    output = args.output or args.predictions / NAME
    result.write(output)
    print(table(result.content))
    for sentence in sentences(result.content, output):
        print(sentence)
    for sentence in leakage_sentences(conversion or {}, result.content["cases"]):
        print(sentence)
    print_refused(result.refused)
    print(f"written: {output}")
    return 1 if result.refused else 0


def _conversion(args: argparse.Namespace) -> dict[str, Any] | None:
    """The one given, else the one that belongs to the references."""
    from atlas_nnunet.labelstatus import read_conversion
    from atlas_nnunet.scoring.evaluation import conversion_of

    if args.conversion is None:
        return conversion_of(args.references)
    if str(args.conversion) == NONE:
        return None
    return read_conversion(args.conversion, "check --conversion")


def _dataset_json(args: argparse.Namespace) -> dict[str, Any]:
    """The one given, else the one beside the predictions, else the references' data set's."""
    tried = (
        [args.dataset_json]
        if args.dataset_json
        else [
            args.predictions / "dataset.json",
            args.references.parent / "dataset.json",
        ]
    )
    for path in tried:
        if path.is_file():
            return json.loads(path.read_text())
    raise EvaluationError(
        f"no dataset.json at {[str(p) for p in tried]}", do="name it with --dataset-json"
    )


def _chosen(coding: Coding, names: list[str] | None) -> tuple[str, ...]:
    own = {canonical(s): s for s in coding.structures}
    unknown = [n for n in names or () if canonical(n) not in own]
    if unknown:
        raise EvaluationError(
            f"no such structures: {unknown}",
            where="--structures",
            do=f"choose among {list(coding.structures)}",
        )
    return tuple(own[canonical(n)] for n in names) if names else coding.structures
