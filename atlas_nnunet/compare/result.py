"""What compare.json holds (nan: no number): a function of the runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_nnunet.compare.curves import levels, mean_curve, reaching
from atlas_nnunet.compare.matching import Setting, left_out, settings
from atlas_nnunet.compare.runs import Run
from atlas_nnunet.errors import ComparisonError
from atlas_nnunet.statistics.pairing import Pairs, mean, over_cases
from atlas_nnunet.statistics.verdict import verdict

SCHEMA = 1


def compare(arms: Mapping[str, Sequence[Run]], baseline: str | None = None) -> dict[str, Any]:
    """Every arm against the baseline.

    Args:
        arms: Name -> runs; their order does not matter.
        baseline: Name of an arm; the first one if None.

    Raises:
        ComparisonError: no such baseline, one arm only, or arms that share nothing.
    """
    baseline = next(iter(arms)) if baseline is None else baseline
    if baseline not in arms:
        raise ComparisonError(f"no arm is called {baseline!r}", where="--baseline",
                              do=f"one of {list(arms)}")  # fmt: skip
    if len(arms) < 2:
        raise ComparisonError(f"one arm only: {baseline}", do="name another: NAME=DIR")
    arms = {name: sorted(runs, key=_order) for name, runs in arms.items()}
    others = [name for name in arms if name != baseline]
    comparisons = [
        _comparison(setting, baseline, name)
        for name in others
        for setting in settings(arms[baseline], arms[name])
    ]
    return {
        "schema": SCHEMA,
        "baseline": baseline,
        "arms": [baseline, *others],
        "runs": {name: [run.as_json() for run in runs] for name, runs in arms.items()},
        "comparisons": comparisons,
        **{f"by_{field}": levels(arms, field) for field in ("cases", "iterations")},
    }


def _order(run: Run) -> tuple:
    known = run.facts
    return (known.cases or 0, known.iterations or 0, known.seed or 0, run.source, run.sha256)


def _comparison(setting: Setting, baseline: str, arm: str) -> dict[str, Any]:
    pairs = setting.pairs()
    names = setting.structures
    unit = "ml" if _all_have_ml(pairs) else "structures"
    alarms = pairs["false_positive_ml" if unit == "ml" else "false_positives"]
    told = verdict(pairs["dice"], alarms, names=(baseline, arm), unit=unit)
    curves = [mean_curve(side) for side in setting.sides]
    return {
        "arm": arm,
        "cases": setting.cases,
        "iterations": setting.iterations,
        "setting": setting.words,
        "runs": [len(side) for side in setting.sides],
        "tolerance_mm": setting.tolerance_mm,
        "tolerances_mm": setting.tolerances_mm,
        "structures": names,
        "dice": _differences(pairs["dice"], names),
        "nsd": _differences(pairs["nsd"], names),
        "false_positives": _false_positives(pairs, names),
        "verdict": {"answer": told.answer, "reason": told.reason, "more_cases": told.more_cases,
                    "false_positives": {"unit": unit, **asdict(told.false_positives)}},
        "curves": [list(curve) for curve in curves],
        "reaching": reaching(curves[0], curves[1]),
        "notes": [*setting.notes, *left_out(setting)],
    }  # fmt: skip


def _differences(pairs: Pairs, names: Sequence[str]) -> dict[str, Any]:
    return {
        "structures": {name: asdict(over_cases(pairs, name)) for name in names},
        "mean_of_a_case": asdict(over_cases(pairs)),
    }


def _all_have_ml(pairs: Mapping[str, Pairs]) -> bool:
    counted, measured = (
        sum(len(own) for own in pairs[measure].values())
        for measure in ("false_positives", "false_positive_ml")
    )
    return counted == measured


def _false_positives(pairs: Mapping[str, Pairs], names: Sequence[str]) -> dict[str, Any]:
    """Structure -> cases without it, in how many each arm found it all the same, and how much.

    Over several runs an arm's number is the mean over them, so it need not be whole.
    """
    found = {}
    for name in names:
        rows, ml = ([own[name] for own in pairs[measure].values() if name in own]
                    for measure in ("false_positives", "false_positive_ml"))  # fmt: skip
        if rows:
            found[name] = {
                "cases": len(rows),
                "found": [mean(row[side] for row in rows) * len(rows) for side in (0, 1)],
                "mean_ml": [mean(row[side] for row in ml) for side in (0, 1)],
            }
    return found
