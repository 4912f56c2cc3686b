"""atlas-nnunet compare: several runs -> paired differences with intervals, curves, a page."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from atlas_nnunet.artefacts import whole_file, without_nan, write_json
from atlas_nnunet.errors import ComparisonError

# Field of Margins, as an option; unit; help.
MARGINS = (
    ("dice", "DICE", "the verdict counts a difference in Dice if its interval is beyond this "
     "(default: 0)"),
    ("detected", "SHARE", "the same for the sensitivity, in [0, 1] (default: 0.05)"),
    ("false-positive-ml", "ML", "the same for false positives in ml per scan (default: 1)"),
    ("false-scans", "SHARE", "the same for the share of scans with a false component of more than "
     "--component-ml, in [0, 1] (default: 0.05)"),
)  # fmt: skip


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
    for name, unit, help_text in MARGINS:
        parser.add_argument(f"--margin-{name}", type=_margin, metavar=unit,
                            dest=f"margin_{name.replace('-', '_')}", help=help_text)  # fmt: skip
    parser.add_argument("--component-ml", type=_margin, metavar="ML",
                        help="a false component counts above this volume in ml "
                        "(default: 0.5, a sphere of 10 mm)")  # fmt: skip
    parser.epilog = (
        "examples:\n  atlas-nnunet compare scratch=predicted/scratch transfer=predicted/transfer\n"
        "  atlas-nnunet compare --runs runs.json -o compared --baseline scratch"
    )


def _margin(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"a margin is a finite number of at least 0, not {text}")
    return value


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.compare.report import report
    from atlas_nnunet.compare.result import compare
    from atlas_nnunet.compare.runs import gather
    from atlas_nnunet.compare.show import text
    from atlas_nnunet.statistics.verdict import Margins

    if not args.runs and args.listed is None:
        raise ComparisonError("nothing to compare", do="name runs, NAME=DIR, or --runs FILE.json")
    fields = {name: getattr(args, f"margin_{name}", None) for name in asdict(Margins())}
    given = {**fields, "component_ml": args.component_ml}
    margins = Margins(**{name: value for name, value in given.items() if value is not None})
    result = compare(gather(args.runs, args.listed), args.baseline, margins)
    if args.output is not None:
        with whole_file(args.output / "compare.html") as partial:
            partial.write_text(report(result))
        write_json(args.output / "compare.json", without_nan(result))
    print(text(result))
    if args.output is not None:
        print(f"\nwritten: {args.output / 'compare.json'}, {args.output / 'compare.html'}")
    return 0
