"""nnU-Net's summary with label status: laws of what counts, on summaries worked out by hand."""

import copy
import json
import math

import pytest

from atlas_nnunet.errors import EvaluationError, SourceError
from atlas_nnunet.scoring.stock_summary import heed_status

DESCRIPTION = {"labels": {"background": 0, "liver": [1, 3], "kidney": 2, "tumour": 3},
               "file_ending": ".nii.gz"}  # fmt: skip
LIVER, KIDNEY, TUMOUR = "(1, 3)", "2", "3"


def summary(dice):
    """A summary of key -> one Dice a case, with the means that nnU-Net would take."""
    cases = [dict(zip(dice, column, strict=True)) for column in zip(*dice.values(), strict=True)]
    mean = {key: {"Dice": sum(own) / len(own)} for key, own in dice.items()}
    return {
        "metric_per_case": [
            {"reference_file": f"/refs/c{i}.nii.gz", "prediction_file": f"/pred/c{i}.nii.gz",
             "metrics": {key: {"Dice": value} for key, value in own.items()}}
            for i, own in enumerate(cases)
        ],
        "mean": mean,
        "foreground_mean": {"Dice": sum(m["Dice"] for m in mean.values()) / len(mean)},
    }  # fmt: skip


def conversion(**status):
    return {"cases": {f"c{i}": {"status": status.get(f"c{i}", {})} for i in range(3)}}


SCORES = {LIVER: [1.0, 0.8, 0.6], KIDNEY: [0.0, 0.9, 0.0], TUMOUR: [0.5, 0.5, 0.5]}


def heeded(known, scores=SCORES):
    before = summary(scores)
    kept = copy.deepcopy(before)
    result = heed_status(before, DESCRIPTION, known, "summary.json")
    assert before == kept, "the argument is not changed"
    return result


def test_without_status_nothing_changes():
    assert heeded(None) == summary(SCORES)
    assert heeded(conversion(c0={"kidney": "pseudo"}, c1={"kidney": "absent"})) == summary(SCORES)


def test_unlabelled_cells_count_in_no_mean_and_the_others_keep_their_numbers():
    result = heeded(conversion(c0={"kidney": "unlabelled"}, c2={"kidney": "unlabelled"}))
    cells = [entry["metrics"][KIDNEY]["Dice"] for entry in result["metric_per_case"]]
    assert cells == pytest.approx([math.nan, 0.9, math.nan], nan_ok=True)
    assert result["mean"] == {LIVER: {"Dice": pytest.approx(0.8)}, KIDNEY: {"Dice": 0.9},
                              TUMOUR: {"Dice": 0.5}}  # fmt: skip
    assert result["foreground_mean"]["Dice"] == pytest.approx((0.8 + 0.9 + 0.5) / 3)


def test_a_structure_that_nobody_labelled_anywhere_is_nan_and_not_in_the_foreground():
    result = heeded(conversion(**{f"c{i}": {"kidney": "unlabelled"} for i in range(3)}))
    assert math.isnan(result["mean"][KIDNEY]["Dice"])
    assert result["foreground_mean"]["Dice"] == pytest.approx((0.8 + 0.5) / 2)
    nothing = dict.fromkeys(("liver", "kidney", "tumour"), "unlabelled")
    result = heeded(conversion(c0=nothing, c1=nothing, c2=nothing))
    assert math.isnan(result["foreground_mean"]["Dice"]), "never 0"


def test_a_known_structure_that_is_nowhere_stays_nan_as_in_nnunet():
    empty = {**SCORES, TUMOUR: [math.nan] * 3}
    result = heeded(conversion(c0={"kidney": "unlabelled"}), empty)
    assert math.isnan(result["foreground_mean"]["Dice"])


def test_heeding_twice_is_heeding_once_and_the_file_may_be_read_back():
    known = conversion(c0={"kidney": "unlabelled"}, c1={"liver": "unlabelled"})
    once = heeded(known)
    again = heed_status(json.loads(json.dumps(once)), DESCRIPTION, known, "summary.json")
    assert json.dumps(again, sort_keys=True) == json.dumps(once, sort_keys=True)


def test_keys_may_be_numbers_and_tuples_as_nnunet_has_them_in_memory():
    named = {LIVER: (1, 3), KIDNEY: 2, TUMOUR: 3}
    known = conversion(c0={"kidney": "unlabelled"})
    result = heeded(known, {named[key]: own for key, own in SCORES.items()})
    texts = heeded(known)
    assert {key: result["mean"][key] for key in named.values()} == {
        named[key]: own for key, own in texts["mean"].items()
    }


def test_what_cannot_be_looked_up_is_refused():
    with pytest.raises(SourceError, match="does not know this case"):
        heeded({"cases": {"c0": {"status": {}}, "c1": {"status": {}}}})
    with pytest.raises(EvaluationError, match="label 7 has no name"):
        heeded(conversion(), {"7": [1.0, 1.0, 1.0]})
