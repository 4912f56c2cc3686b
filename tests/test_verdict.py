"""The verdict: Dice and false positives both have a word, and few cases have none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.statistics.verdict import HARMS, HELPS, UNDECIDED, cases_lacking, verdict


def arms(first, second, name="liver"):
    return {f"case_{i}": {name: pair} for i, pair in enumerate(zip(first, second, strict=True))}


GAIN = arms([0.5 + 0.01 * i for i in range(10)], [0.6 + 0.012 * i for i in range(10)])
LOSS = {case: {"liver": own["liver"][::-1]} for case, own in GAIN.items()}
DRAW = arms([0.5, 0.6] * 5, [0.6, 0.5] * 5)
ALARMS = arms([0.0] * 8, [3.0 + i for i in range(8)], "tumour")
FEWER = {case: {"tumour": own["tumour"][::-1]} for case, own in ALARMS.items()}


@pytest.mark.parametrize(
    ("dice", "alarms", "answer"),
    [
        (GAIN, {}, HELPS),
        (GAIN, FEWER, HELPS),
        (GAIN, ALARMS, HARMS),  # the Dice of PanTS rose too
        (LOSS, {}, HARMS),
        (LOSS, FEWER, HARMS),
        (DRAW, {}, UNDECIDED),
        (DRAW, FEWER, UNDECIDED),
        (DRAW, ALARMS, HARMS),
        ({}, {}, UNDECIDED),
    ],
)
def test_the_answer_weighs_dice_and_false_positives(dice, alarms, answer):
    told = verdict(dice, alarms)
    assert told.answer == answer
    assert (told.more_cases == 0) == (answer != UNDECIDED)


def test_a_published_gain_that_cost_194_scans_harms():
    dice = arms([0.16] * 50, [0.24] * 50, "lesion")
    scans = arms([1.0 if i < 7 else 0.0 for i in range(300)],
                 [1.0 if i < 201 else 0.0 for i in range(300)], "lesion")  # fmt: skip
    told = verdict(dice, scans, unit="scans")
    assert told.answer == HARMS
    assert "clearly rise: 0.67 scans a case against 0.02 over the 300" in told.reason
    assert told.dice.difference == pytest.approx(0.08)


def test_false_positives_of_a_case_are_summed_over_its_structures():
    alarms = {f"c{i}": {"liver": (0.0, 1.0), "spleen": (0.5, 2.0), "aorta": (math.nan, 9.0)}
              for i in range(6)}  # fmt: skip
    told = verdict({}, alarms)
    assert (told.false_positives.mean_a, told.false_positives.mean_b) == (0.5, 3.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_fewer_than_six_cases_decide_nothing(rows):
    told = verdict(arms([a for a, _ in rows], [b for _, b in rows]), {})
    assert told.answer == UNDECIDED
    assert "decide nothing" in told.reason or not rows


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12))
def test_swapping_the_arms_turns_helps_into_harms(rows):
    forth, back = (verdict(arms(*sides), {}) for sides in (
        ([a for a, _ in rows], [b for _, b in rows]), ([b for _, b in rows], [a for a, _ in rows])
    ))  # fmt: skip
    opposite = {HELPS: HARMS, HARMS: HELPS, UNDECIDED: UNDECIDED}
    assert back.answer == opposite[forth.answer]
    assert back.more_cases == forth.more_cases


def test_how_many_more_cases_by_hand():
    # mean 0.05, standard deviation 0.1: (1.96 * 0.1 / 0.05)^2 = 15.4, so 16 in all, 12 more
    spread = 0.1 * math.sqrt(3 / 4)
    differences = [0.05 + spread, 0.05 - spread, 0.05 + spread, 0.05 - spread]
    assert cases_lacking(differences) == 12
    assert cases_lacking([-d for d in differences]) == 12
    assert cases_lacking([0.3, 0.3]) == 4, "six at least"
    assert cases_lacking([0.1, -0.1]) is None
    assert cases_lacking([0.1, 0.2, -0.3]) is None, "a mean of 1e-17 is zero"
    assert cases_lacking([0.1]) is None
    assert cases_lacking([0.1 * math.sin(i) + 0.02 for i in range(9)]) >= 1
