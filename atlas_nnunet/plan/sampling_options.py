"""Options of `plan` for how often cases and structures are drawn in training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.settings import SAMPLINGS, Sampling

# Option that replaces one value of the chosen preset: name -> (type, explanation).
NUMBERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "source_balance": (
        float,
        "weight of a case: (cases of its data source)^-VALUE; 0: all alike, 1: all sources alike",
    ),
    "tumor_cases": (float, "weight of a case that shows a tumour, relative to one that does not"),
    "tumor_share": (
        float,
        "share of foreground patches that are centred on a tumour, in cases that show one",
    ),
}
NAMES = ("sampling", *NUMBERS, "structure_weight", "case_weight")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling in training, kept in the plan")
    group.add_argument(
        "--sampling",
        choices=sorted(SAMPLINGS),
        help="preset for the options below. uniform: as nnU-Net (default of "
        "AtlasTransferPlanner); pretraining: tumours and small data sources more often (default "
        "of AtlasPretrainPlanner)",
    )
    for name, (kind, text) in NUMBERS.items():
        group.add_argument("--" + name.replace("_", "-"), type=kind, help=text)
    group.add_argument(
        "--structure-weight",
        nargs="+",
        metavar="NAME=WEIGHT",
        help="how often foreground patches are centred on a structure, relative to others; "
        "default 1, 0: never",
    )
    group.add_argument(
        "--case-weight",
        nargs="+",
        metavar="CASE=WEIGHT",
        help="factor on the weight of a case; default 1, 0: never drawn",
    )


def read_sampling(args: argparse.Namespace, default: Sampling) -> Sampling:
    """The weights that the options describe.

    Args:
        args: With the attributes NAMES.
        default: The planner's, where `--sampling` is not given.

    Raises:
        PlanError: a weight cannot be read or is out of its range.
    """
    base = SAMPLINGS[args.sampling] if args.sampling else default
    changes: dict[str, Any] = {
        name: getattr(args, name) for name in NUMBERS if getattr(args, name) is not None
    }
    for option, name in (("structure_weight", "structures"), ("case_weight", "cases")):
        if getattr(args, option) is not None:
            changes[name] = _weights(getattr(args, option), "--" + option.replace("_", "-"))
    return replace(base, **changes)


def _weights(pairs: list[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = None
        if not name or value is None or name in found:
            why = "is given twice" if name in found else "is not of the form NAME=WEIGHT"
            raise PlanError(
                f"{pair!r} {why}", where=option, do=f"for example: {option} NAME=2 OTHER=0.5"
            )
        found[name] = value
    return found
