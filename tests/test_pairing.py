"""Pairing: by case and structure, never by position; runs are averaged, not counted as patients."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.statistics.pairing import averaged, case_means, over_cases, paired, pooled

NAMES = ("liver", "spleen")
value = st.floats(0, 1) | st.just(math.nan)
scores = st.dictionaries(
    st.sampled_from([f"case_{i}" for i in range(9)]),
    st.dictionaries(st.sampled_from(NAMES), value),
    max_size=9,
)


@given(scores, scores)
def test_a_pair_is_what_both_have_a_number_for(a, b):
    pairs = paired(a, b)
    for case, own in pairs.items():
        for name, (left, right) in own.items():
            assert (left, right) == (a[case][name], b[case][name])
    counted = sum(math.isfinite(v) and math.isfinite(b.get(c, {}).get(n, math.nan))
                  for c, own in a.items() for n, v in own.items())  # fmt: skip
    assert counted == sum(map(len, pairs.values()))


@given(st.lists(scores, max_size=4), st.randoms())
def test_the_order_of_runs_does_not_matter_to_the_last_bit(runs, random):
    shuffled = list(runs)
    random.shuffle(shuffled)
    theirs = averaged(shuffled)
    assert {c: {n: repr(v) for n, v in own.items()} for c, own in averaged(runs).items()} == {
        c: {n: repr(v) for n, v in own.items()} for c, own in theirs.items()
    }


def test_the_same_run_several_times_is_one_run():
    pairs = paired({"a": {"liver": 0.25}, "b": {"liver": 0.5}}, {"b": {"liver": 1.0}})
    assert pairs == {"b": {"liver": (0.5, 1.0)}}
    assert pooled([pairs] * 3) == pairs
    assert over_cases(pooled([pairs] * 3)).n == 1


def test_a_mean_counts_the_structures_that_both_arms_have():
    a = {"x": {"liver": 0.8, "spleen": math.nan}, "y": {"liver": 0.5, "spleen": 0.1}}
    b = {"x": {"liver": 0.9, "spleen": 0.0}, "y": {"liver": 0.5, "spleen": 0.3}}
    pairs = paired(a, b)
    means = case_means(pairs)
    assert means["x"] == (0.8, 0.9), "the false alarm has no counterpart"
    assert means["y"] == pytest.approx((0.3, 0.4))
    assert over_cases(pairs, "spleen").n == 1
    assert over_cases(pairs).difference == pytest.approx(0.1)
