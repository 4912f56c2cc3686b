"""The vocabulary: one name a structure, and a side is never changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.structures import (
    ABDOMENATLAS_ORGANS,
    ABDOMENATLAS_TUMORS,
    PARENTS,
    SYNONYMS,
    canonical,
    overlaps,
    parts_last,
    side_of,
)


def test_the_atlas_has_25_organs_and_7_tumour_types_under_their_own_names():
    names = (*ABDOMENATLAS_ORGANS, *ABDOMENATLAS_TUMORS)
    assert (len(ABDOMENATLAS_ORGANS), len(set(names))) == (25, 32)
    assert all(canonical(name) == name for name in names)


@pytest.mark.parametrize("alias", sorted(SYNONYMS))
def test_synonyms_end_at_a_canonical_name_and_keep_their_side(alias):
    assert canonical(canonical(alias)) == canonical(alias) == SYNONYMS[alias]
    assert side_of(canonical(alias)) == side_of(alias)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("Right Kidney", "kidney_right"), ("left_kidney", "kidney_left"), ("LIVER", "liver"),
        ("inferior vena cava", "postcava"), ("vertebrae_L5", "vertebrae_l5"),
        ("celiac_truck", "celiac_trunk"), ("kidney_left", "kidney_left"), ("thing", "thing"),
        ("left rib 1", "rib_left_1"), ("RIGHT-RIB-12", "rib_right_12"),
        ("right_lung", "lung_right"), ("left atrial appendage", "atrial_appendage_left"),
    ],
)  # fmt: skip
def test_names_of_other_sets(name, want):
    assert canonical(name) == want


@pytest.mark.parametrize("name", ["kidney_lesion", "liver_lesion", "spinal_cord_canal"])
def test_what_is_wider_than_a_structure_is_not_called_by_its_name(name):
    assert canonical(name) == name, "a lesion may be a cyst; the canal holds more than the cord"


PLAIN = st.sampled_from([*ABDOMENATLAS_ORGANS, *ABDOMENATLAS_TUMORS, *SYNONYMS]).filter(
    lambda name: side_of(name) is None
)
SIDES = st.sampled_from(["left", "right"])
SPELT = st.sampled_from([str.upper, str.title, lambda s: s.replace("_", " "),
                         lambda s: s.replace("_", "-"), lambda s: f" {s} "])  # fmt: skip


@given(PLAIN, SIDES, SPELT)
def test_a_side_survives_wherever_it_stands_and_however_it_is_spelt(name, side, spelt):
    front, behind = canonical(spelt(f"{side}_{name}")), canonical(spelt(f"{name}_{side}"))
    assert side_of(front) == side_of(behind) == side
    assert canonical(front) == front
    assert canonical(spelt(name)) == canonical(name)
    other = {"left": "right", "right": "left"}[side]
    assert canonical(f"{other}_{name}") != front


def test_no_name_is_canonical_and_a_synonym_at_once():
    assert not SYNONYMS.keys() & {*SYNONYMS.values(), *PARENTS, *sum(PARENTS.values(), ())}


def test_parts_may_overlap_their_wholes_and_nothing_else():
    pairs = overlaps(["liver", "spleen", "liver_tumor", "hepatic_vessel", "hepatic_vessel_tumor"])
    assert pairs == {
        frozenset(p) for p in (
            ("liver", "liver_tumor"), ("liver", "hepatic_vessel"),
            ("liver", "hepatic_vessel_tumor"), ("hepatic_vessel", "hepatic_vessel_tumor"),
        )
    }  # fmt: skip
    for everything in (("c", "*"), ("*", "c")):
        assert overlaps(["a", "b", "c"], [everything]) == {frozenset("ac"), frozenset("bc")}
    assert overlaps(["a", "b"], [("a", "elsewhere")]) == set()
    assert set(ABDOMENATLAS_TUMORS) <= PARENTS.keys(), "every tumour lies in something"


@given(st.permutations(["liver_tumor", "liver_lesion", "liver", "spleen", "liver_segment_3"]))
def test_parts_come_after_all_in_which_they_lie_and_else_nothing_moves(names):
    ordered = parts_last(names)
    assert sorted(ordered) == sorted(names)
    place = {name: i for i, name in enumerate(ordered)}
    assert place["liver"] < place["liver_segment_3"] < place["liver_lesion"] < place["liver_tumor"]
    assert parts_last(ordered) == ordered
