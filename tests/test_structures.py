"""The vocabulary: one name a structure, and a side is never changed."""

import pytest

from atlas_nnunet.structures import (
    ABDOMENATLAS_ORGANS,
    ABDOMENATLAS_TUMORS,
    PARENTS,
    SYNONYMS,
    canonical,
    overlaps,
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
        ("right_lung", "lung_right"), ("left atrial appendage", "atrial_appendage_left"),
    ],
)  # fmt: skip
def test_names_of_other_sets(name, want):
    assert canonical(name) == want


def test_a_lesion_is_not_called_a_tumour():
    assert canonical("kidney_lesion") == "kidney_lesion"


def test_parts_may_overlap_their_wholes_and_nothing_else():
    pairs = overlaps(["liver", "spleen", "liver_tumor", "hepatic_vessel", "hepatic_vessel_tumor"])
    assert pairs == {
        frozenset(p) for p in (
            ("liver", "liver_tumor"), ("liver", "hepatic_vessel"),
            ("liver", "hepatic_vessel_tumor"), ("hepatic_vessel", "hepatic_vessel_tumor"),
        )
    }  # fmt: skip
    assert overlaps(["a", "b", "c"], [("c", "*")]) == {frozenset("ac"), frozenset("bc")}
    assert set(ABDOMENATLAS_TUMORS) <= PARENTS.keys(), "every tumour lies in something"
