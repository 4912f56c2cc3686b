"""The paired difference: antisymmetric, order-free, seeded, and honest about its interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.statistics.paired_difference import paired_difference

scores = st.floats(0, 1) | st.just(math.nan)
pairs = st.lists(st.tuples(scores, scores), max_size=12)


def of(rows, **options):
    return paired_difference(*zip(*rows, strict=True), resamples=500, **options) if rows else (
        paired_difference([], [])
    )  # fmt: skip


def bits(*values):
    """-0.0 and 0.0 are one number."""
    return [repr(v + 0.0) for v in values]


@given(pairs, st.randoms())
def test_the_order_of_cases_does_not_matter_to_the_last_bit(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert repr(of(shuffled)) == repr(of(rows))


mirrored = pairs.map(lambda rows: rows + [row[::-1] for row in rows])


@given(pairs | mirrored)
def test_swapping_the_arms_negates_to_the_last_bit(rows):
    result, swapped = of(rows), of([(b, a) for a, b in rows])
    ours = (result.mean_a, result.mean_b, result.difference, result.low, result.high)
    theirs = (swapped.mean_b, swapped.mean_a, -swapped.difference, -swapped.high, -swapped.low)
    assert bits(*ours) == bits(*theirs)
    assert swapped.n == result.n
    opposite = {"gain": "loss", "loss": "gain"}
    assert swapped.verdict == opposite.get(result.verdict, result.verdict)


@given(pairs)
def test_pairs_with_a_gap_do_not_count_and_the_interval_holds_the_difference(rows):
    whole = [r for r in rows if not any(map(math.isnan, r))]
    result = of(rows)
    assert result.n == len(whole)
    if len(whole) >= 2:
        assert result.low - 1e-9 <= result.difference <= result.high + 1e-9
        assert result.difference == pytest.approx(result.mean_b - result.mean_a, abs=1e-9)
    else:
        assert math.isnan(result.low)
        assert result.verdict == "cannot be told apart"


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        a = rng.normal(0.5, 0.2, 25)
        d = paired_difference(a, a + rng.normal(0.05, 0.1, 25), resamples=600)
        covered += d.low <= 0.05 <= d.high
    assert 0.89 <= covered / 300 <= 0.98


def test_pairing_finds_what_spread_between_cases_hides():
    a = np.linspace(0, 0.9, 10)
    assert paired_difference(a, a + 0.02 + 0.001 * np.arange(10) % 0.003).verdict == "gain"
    assert paired_difference(a, a - 0.02).verdict == "loss"
    assert paired_difference(a, a[::-1]).verdict == "cannot be told apart"


def test_same_seed_same_numbers():
    rng = np.random.default_rng(1)
    a, b = rng.random(9), rng.random(9)
    assert paired_difference(a, b, seed=3) == paired_difference(a, b, seed=3)
    assert paired_difference(a, b, seed=3) != paired_difference(a, b, seed=4)


def test_few_cases_decide_nothing_however_clear_they_look():
    a = np.linspace(0.1, 0.2, 9)
    assert [paired_difference(a[:n], a[:n] + 0.5).verdict for n in (2, 5, 6, 9)] == [
        "cannot be told apart", "cannot be told apart", "gain", "gain",
    ]  # fmt: skip
