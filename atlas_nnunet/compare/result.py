"""What compare.json holds (nan: no number): a function of the runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_nnunet.compare.curves import levels, mean_curve, reaching
from atlas_nnunet.compare.matching import Setting, left_out, settings
from atlas_nnunet.compare.runs import Run
from atlas_nnunet.errors import ComparisonError
from atlas_nnunet.statistics.pairing import PairedRuns, Pairs, mean, over_cases
from atlas_nnunet.statistics.verdict import Margins, verdict

SCHEMA = 2


def compare(
    arms: Mapping[str, Sequence[Run]], baseline: str | None = None, margins: Margins | None = None
) -> dict[str, Any]:
    """Every arm against the baseline.

    Args:
        arms: Name -> runs; their order does not matter.
        baseline: Name of an arm; the first one if None.
        margins: Of the verdict; its defaults if None.

    Raises:
        ComparisonError: no such baseline, one arm only, or arms that share nothing.
    """
    margins = margins or Margins()
    baseline = next(iter(arms)) if baseline is None else baseline
    if baseline not in arms:
        raise ComparisonError(f"no arm is called {baseline!r}", where="--baseline",
                              do=f"one of {list(arms)}")  # fmt: skip
    if len(arms) < 2:
        raise ComparisonError(f"one arm only: {baseline}", do="name another: NAME=DIR")
    arms = {name: sorted(runs, key=_order) for name, runs in arms.items()}
    others = [name for name in arms if name != baseline]
    comparisons = [
        _comparison(setting, baseline, name, margins)
        for name in others
        for setting in settings(arms[baseline], arms[name])
    ]
    return {
        "schema": SCHEMA,
        "baseline": baseline,
        "margins": asdict(margins),
        "arms": [baseline, *others],
        "runs": {name: [run.as_json() for run in runs] for name, runs in arms.items()},
        "comparisons": comparisons,
        **{f"by_{field}": levels(arms, field) for field in ("cases", "iterations")},
    }


def _order(run: Run) -> tuple:
    known = run.facts
    return (known.cases or 0, known.iterations or 0, known.seed or 0, run.source, run.sha256)


def _comparison(setting: Setting, baseline: str, arm: str, margins: Margins) -> dict[str, Any]:
    scores = setting.scores(margins.component_ml)
    names = setting.structures
    conclusion = verdict(
        _known(scores),
        names=(baseline, arm),
        margins=margins,
        false_scan=_false_scan(scores, margins),
    )
    dice = conclusion.measures["dice"]
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
        "dice": _differences(scores["dice"], names),
        "nsd": _differences(scores["nsd"], names),
        "false_positives": _false_positives(scores, names),
        "sensitivity": _sensitivity(scores["detected"].pairs, names),
        "verdict": {
            "answer": conclusion.answer,
            "reason": conclusion.reason,
            "more_cases": conclusion.more_cases,
            "measures": {name: asdict(d) for name, d in conclusion.measures.items()},
        },
        "interval": {"covers": setting.covers(dice), "caution": dice.caution},
        "curves": [list(curve) for curve in curves],
        "reaching": reaching(curves[0], curves[1]),
        "notes": [*setting.notes, *left_out(setting)],
    }


def _known(scores: Mapping[str, PairedRuns]) -> dict[str, PairedRuns | Pairs]:
    """What the verdict may use.

    A measure that some evaluations lack (nnU-Net's summary.json knows no millilitres) would speak
    of other scans than the rest: it is left out, and scans with any false positive are counted.
    """
    known: dict[str, PairedRuns | Pairs] = {name: scores[name] for name in ("dice", "detected")}
    if _complete(scores, "false_positive_ml"):
        known["false_positive_ml"] = scores["false_positive_ml"]
    with_size = _complete(scores, "false_component_ml")
    known["false_scans"] = scores["false_scans" if with_size else "any_false_scans"]
    return known


def _false_scan(scores: Mapping[str, PairedRuns], margins: Margins) -> str:
    if _complete(scores, "false_component_ml"):
        return f"a false component of more than {margins.component_ml:g} ml"
    return "any false positive"


def _complete(scores: Mapping[str, PairedRuns], measure: str) -> bool:
    """Whether a measure has a value wherever false positives are counted."""
    counted, measured = (
        sum(len(own) for own in scores[name].pairs.values())
        for name in ("false_positives", measure)
    )
    return counted == measured


def _differences(runs: PairedRuns, names: Sequence[str]) -> dict[str, Any]:
    return {
        "structures": {name: asdict(over_cases(runs, name)) for name in names},
        "mean_of_a_case": asdict(over_cases(runs)),
    }


def _false_positives(scores: Mapping[str, PairedRuns], names: Sequence[str]) -> dict[str, Any]:
    """Structure -> cases without it, in how many of them each arm found it, and how much.

    Over several runs an arm's number is the mean over them, so it need not be whole.
    """
    found = {}
    for name in names:
        rows, ml = (
            _of_structure(scores[measure].pairs, name)
            for measure in ("false_positives", "false_positive_ml")
        )
        if rows:
            found[name] = {
                "cases": len(rows),
                "found": [mean(row[side] for row in rows) * len(rows) for side in (0, 1)],
                "mean_ml": [mean(row[side] for row in ml) for side in (0, 1)],
            }
    return found


def _sensitivity(pairs: Pairs, names: Sequence[str]) -> dict[str, Any]:
    """Structure -> cases with it, and the share of them in which each arm found it."""
    found = {}
    for name in names:
        rows = _of_structure(pairs, name)
        if rows:
            shares = [mean(row[side] for row in rows) for side in (0, 1)]
            found[name] = {"cases": len(rows), "detected": shares}
    return found


def _of_structure(pairs: Pairs, name: str) -> list[tuple[float, float]]:
    return [own[name] for own in pairs.values() if name in own]
