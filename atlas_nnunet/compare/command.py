"""atlas-nnunet compare: several runs -> paired differences with intervals, curves, a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from atlas_nnunet.artefacts import whole_file, without_nan, write_json
from atlas_nnunet.errors import ComparisonError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="NAME=DIR",
                        help="arm and evaluation: evaluation.json, nnU-Net's summary.json, a "
                        "folder with one, or nnU-Net's fold_N; a NAME given several times has "
                        "several seeds or folds")  # fmt: skip
    parser.add_argument("--runs", type=Path, dest="listed", metavar="FILE.json",
                        help='a list of {"name", "evaluation", "cases", "iterations", "seed", '
                        '"curve": [[iterations, dice]]}; the first two are needed')  # fmt: skip
    parser.add_argument("--baseline", metavar="NAME", help="default: the first NAME")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER",
                        help="write compare.json and compare.html there")  # fmt: skip
    parser.epilog = (
        "examples:\n  atlas-nnunet compare scratch=predicted/scratch transfer=predicted/transfer\n"
        "  atlas-nnunet compare --runs runs.json -o compared --baseline scratch"
    )


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.compare.report import report
    from atlas_nnunet.compare.result import compare
    from atlas_nnunet.compare.runs import gather
    from atlas_nnunet.compare.show import text

    if not args.runs and args.listed is None:
        raise ComparisonError("nothing to compare", do="name runs, NAME=DIR, or --runs FILE.json")
    result = compare(gather(args.runs, args.listed), args.baseline)
    if args.output is not None:
        with whole_file(args.output / "compare.html") as partial:
            partial.write_text(report(result))
        write_json(args.output / "compare.json", without_nan(result))
    print(text(result))
    if args.output is not None:
        print(f"\nwritten: {args.output / 'compare.json'}, {args.output / 'compare.html'}")
    return 0
