"""The verdict: Dice, sensitivity and false positives count beyond their margins, and few cases
decide nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.statistics.verdict import (
    ANSWERS,
    BETTER,
    HARMS,
    HELPS,
    MIXED,
    UNDECIDED,
    Margins,
    verdict,
)


def arms(first, second, name="liver"):
    return {f"case_{i}": {name: pair} for i, pair in enumerate(zip(first, second, strict=True))}


def turned(pairs):
    return {c: {s: pair[::-1] for s, pair in own.items()} for c, own in pairs.items()}


GAIN = arms([0.5 + 0.01 * i for i in range(10)], [0.6 + 0.012 * i for i in range(10)])
LOSS = turned(GAIN)
DRAW = arms([0.5, 0.6] * 5, [0.6, 0.5] * 5)
MORE_ML = arms([0.0] * 8, [3.0 + i for i in range(8)], "tumour")
LITTLE_ML = arms([0.0] * 8, [0.01] * 8, "tumour")
MORE_SCANS = arms([0.0] * 12, [1.0] * 10 + [0.0] * 2, "scan")
FOUND = arms([0.0] * 9 + [1.0], [1.0] * 10)
NEVER = {}


@pytest.mark.parametrize(
    ("dice", "detected", "ml", "scans", "answer"),
    [
        (GAIN, NEVER, NEVER, NEVER, HELPS),
        (GAIN, NEVER, turned(MORE_ML), NEVER, HELPS),
        (GAIN, NEVER, LITTLE_ML, NEVER, HELPS),
        (GAIN, NEVER, MORE_ML, NEVER, MIXED),
        (GAIN, NEVER, NEVER, MORE_SCANS, MIXED),
        (GAIN, turned(FOUND), NEVER, NEVER, MIXED),
        (GAIN, FOUND, LITTLE_ML, NEVER, HELPS),
        (LOSS, NEVER, NEVER, NEVER, HARMS),
        (LOSS, NEVER, turned(MORE_ML), NEVER, MIXED),
        (LOSS, NEVER, MORE_ML, MORE_SCANS, HARMS),
        (DRAW, NEVER, NEVER, NEVER, UNDECIDED),
        (DRAW, NEVER, LITTLE_ML, NEVER, UNDECIDED),
        (DRAW, NEVER, MORE_ML, NEVER, HARMS),
        (DRAW, NEVER, turned(MORE_ML), NEVER, HELPS),
        (DRAW, FOUND, NEVER, MORE_SCANS, MIXED),
        (NEVER, NEVER, NEVER, NEVER, UNDECIDED),
    ],
)
def test_the_answer_weighs_every_measure_and_swapping_the_arms_turns_it(
    dice, detected, ml, scans, answer
):
    given_ = {"dice": dice, "detected": detected, "false_positive_ml": ml, "false_scans": scans}
    forth = verdict(given_)
    back = verdict({name: turned(pairs) for name, pairs in given_.items()})
    assert forth.answer == answer
    assert back.answer == {HELPS: HARMS, HARMS: HELPS}.get(answer, answer)
    for found in (forth, back):
        assert (found.more_cases == 0) == (answer != UNDECIDED)
    assert forth.more_cases == back.more_cases


def test_the_table_has_an_answer_for_everything_and_all_four_occur():
    assert set(ANSWERS) == {(a, b) for a in (True, False) for b in (True, False)}
    assert sorted(ANSWERS.values()) == sorted({HELPS, HARMS, MIXED, UNDECIDED})
    assert all(hasattr(Margins(), measure) for measure in BETTER)


def test_a_large_gain_of_dice_outweighs_a_hundredth_of_a_millilitre():
    dice = arms([0.40 + 0.01 * i for i in range(12)], [0.80 + 0.012 * i for i in range(12)])
    found = verdict({"dice": dice, "false_positive_ml": LITTLE_ML})
    assert found.measures["false_positive_ml"].beyond() == 1, "clearly more, but of no weight"
    assert found.answer == HELPS
    assert verdict(
        {"dice": dice, "false_positive_ml": LITTLE_ML}, margins=Margins(false_positive_ml=0.0)
    ).answer == MIXED  # fmt: skip


def test_a_published_gain_that_cost_194_scans_is_mixed():
    dice = arms([0.16] * 50, [0.24] * 50, "lesion")
    scans = arms([1.0 if i < 7 else 0.0 for i in range(300)],
                 [1.0 if i < 201 else 0.0 for i in range(300)], "scan")  # fmt: skip
    found = verdict({"dice": dice, "false_scans": scans})
    assert found.answer == MIXED
    assert "scans with a false component: 67.0% against 2.3% of 300" in found.reason
    assert "clearly more (margin 5 points)" in found.reason
    assert found.measures["dice"].difference == pytest.approx(0.08)


@pytest.mark.parametrize("measure", BETTER)
def test_a_margin_moves_the_answer_of_its_measure_alone(measure):
    pairs = arms([0.1 + 0.001 * i for i in range(10)], [0.5] * 10)
    none = dict.fromkeys(("dice", "detected", "false_positive_ml", "false_scans"), 0.0)
    decided = verdict({measure: pairs}, margins=Margins(**none))
    assert decided.answer == (HELPS if BETTER[measure] == 1 else HARMS)
    within = verdict({measure: pairs}, margins=Margins(**{**none, measure: 0.4}))
    assert within.answer == UNDECIDED
    others = {name: 0.4 for name in none if name != measure}
    assert verdict({measure: pairs}, margins=Margins(**others, **{measure: 0.0})).answer != (
        UNDECIDED
    )


def test_false_positives_of_a_case_are_summed_over_its_structures():
    pairs = {f"c{i}": {"liver": (0.0, 1.0), "spleen": (0.5, 2.0)} for i in range(6)}
    found = verdict({"false_positive_ml": pairs}).measures["false_positive_ml"]
    assert (found.mean_a, found.mean_b) == (0.5, 3.0)


def test_sensitivity_is_printed_with_the_false_positives():
    reason = verdict({"dice": GAIN, "detected": FOUND, "false_positive_ml": LITTLE_ML}).reason
    assert "sensitivity 1.000 against 0.100, clearly higher" in reason
    assert "false positives 0.01 ml per scan against 0.00 over the 8" in reason
    assert "not clearly different (margin 1 ml)" in reason
    assert "sensitivity is unknown" in verdict({"dice": GAIN}).reason


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_fewer_than_six_cases_decide_nothing(rows):
    pairs = arms([a for a, _ in rows], [b for _, b in rows])
    found = verdict(dict.fromkeys(BETTER, pairs))
    assert found.answer == UNDECIDED
    assert "decide nothing" in found.reason or not rows


def test_the_plan_is_said_to_be_for_80_percent_power():
    found = verdict({"dice": arms([0.5] * 6, [0.52, 0.49, 0.55, 0.5, 0.48, 0.53])})
    assert found.answer == UNDECIDED
    assert f"about {found.more_cases} more cases would decide the Dice" in found.reason
    assert "80 % power" in found.reason
    assert "no estimate" in verdict({"dice": DRAW}).reason
    assert math.isfinite(found.more_cases)
