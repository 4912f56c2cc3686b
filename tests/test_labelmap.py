"""What a coding must keep: every voxel of every structure, and a count of what had to give way."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.errors import LabelMapError
from atlas_nnunet.labelmap import Coding, ValueMap

NAMES = ("liver", "spleen", "vessel", "tumor")
PAIRS = [frozenset((a, b)) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
SHAPE = (3, 3, 2)


@st.composite
def codings(draw):
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]
    return Coding.of(names, draw(st.sets(st.sampled_from(PAIRS))))


@st.composite
def codings_and_masks(draw):
    coding = draw(codings())
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return coding, {s: rng.random(SHAPE) < 0.5 for s in coding.structures}


@given(codings_and_masks())
def test_every_structure_is_rebuilt_but_for_the_voxels_that_were_counted(case):
    coding, masks = case
    codes, conflicts = coding.encode(masks.items(), SHAPE)
    told = Coding.of_dataset_json(coding.as_dataset_json())  # as nnU-Net and others read it
    lost = Counter()
    for (loser, _), voxels in conflicts.items():
        lost[loser] += voxels
    for name, mask in masks.items():
        rebuilt = told.mask_of(codes, name)
        assert not (rebuilt & ~mask).any(), "nothing is invented"
        assert (mask & ~rebuilt).sum() == lost[name], "what is lost is counted"
    order = list(masks)
    assert all(order.index(loser) < order.index(winner) for loser, winner in conflicts)


@given(codings_and_masks())
def test_joining_voxel_by_voxel_gives_what_encode_gives(case):
    """`predict` lays regions over one another with `join` alone; both must mean the same."""
    coding, masks = case
    codes, _ = coding.encode(masks.items(), SHAPE)
    for at in np.ndindex(SHAPE):
        members: frozenset[str] = frozenset()
        for new in (s for s in coding.structures if masks[s][at]):
            kept = {m for m in members if frozenset((m, new)) in coding.codes}
            members = frozenset({*kept, new})
        assert coding.codes[codes[at]] == members


@given(codings())
def test_a_code_joined_with_what_it_holds_stays(coding):
    for code, members in enumerate(coding.codes):
        for column, name in enumerate(coding.structures):
            after = coding.codes[coding.join[code, column]]
            assert name in after, "the structure laid on top is always there"
            assert after <= members | {name}
            assert (after == members) == (name in members)


@given(codings_and_masks(), st.randoms(use_true_random=False))
def test_the_masks_of_disjoint_structures_may_come_in_any_priority(case, random):
    coding, masks = case
    seen = np.zeros(SHAPE, bool)
    for name, mask in masks.items():
        masks[name], seen = mask & ~seen, seen | mask
    shuffled = random.sample(coding.structures, len(coding.structures))
    pairs = {p for p in PAIRS if p in coding.codes}
    other = Coding.of(shuffled, pairs)
    for chosen in (coding, other):
        codes, conflicts = chosen.encode([(s, masks[s]) for s in chosen.structures], SHAPE)
        assert not conflicts
        assert all((chosen.mask_of(codes, n) == m).all() for n, m in masks.items())


@given(codings_and_masks())
def test_where_all_may_overlap_nothing_is_lost(case):
    names = case[0].structures
    coding = Coding.of(names, PAIRS)
    codes, conflicts = coding.encode(case[1].items(), SHAPE)
    assert not conflicts
    assert all((coding.mask_of(codes, n) == m).all() for n, m in case[1].items())


@given(codings())
def test_codes_are_consecutive_distinct_and_singles_come_first(coding):
    assert len(set(coding.codes)) == len(coding.codes)
    n = len(coding.structures)
    assert coding.codes[: n + 1] == (frozenset(), *(frozenset([s]) for s in coding.structures))
    declared = coding.as_dataset_json()
    assert ("regions_class_order" in declared) == coding.has_overlap
    values = {v for own in declared["labels"].values() for v in np.atleast_1d(own).tolist()}
    assert values == set(range(len(coding.codes)))


@pytest.mark.host
@given(codings())
def test_nnunet_reads_the_declaration_as_we_mean_it(coding):
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    declared = coding.as_dataset_json()
    manager = LabelManager(declared["labels"], declared.get("regions_class_order"))
    assert manager.has_regions == coding.has_overlap
    assert manager.num_segmentation_heads == len(coding.structures) + (not coding.has_overlap)
    if coding.has_overlap:
        own = [tuple(np.atleast_1d(r).tolist()) for r in manager.foreground_regions]
        assert own == [tuple(coding.codes_of(s)) for s in coding.structures]


def test_a_kidney_tumour_keeps_its_side():
    pairs = [frozenset(("kidney_tumor", k)) for k in ("kidney_left", "kidney_right")]
    coding = Coding.of(("kidney_left", "kidney_right", "kidney_tumor"), pairs)
    left, right = np.array([True, True, False, False]), np.array([False, False, True, True])
    tumor = np.array([True, False, True, False])
    masks = {"kidney_left": left, "kidney_right": right, "kidney_tumor": tumor}
    codes, conflicts = coding.encode(masks.items(), (4,))
    assert not conflicts
    assert all((coding.mask_of(codes, n) == m).all() for n, m in masks.items())


def test_impossible_codings_and_orders_are_refused():
    with pytest.raises(LabelMapError, match="twice"):
        Coding.of(("liver", "liver"), [])
    many = [f"s{i}" for i in range(9)]
    with pytest.raises(LabelMapError, match="254"):
        Coding.of(many, [frozenset((a, b)) for a in many for b in many if a != b])
    coding = Coding.of(("liver", "spleen"), [])
    empty = np.zeros(SHAPE, bool)
    for names in (("spleen", "liver"), ("liver", "liver"), ("heart",)):
        with pytest.raises(LabelMapError, match="order"):
            coding.encode([(n, empty) for n in names], SHAPE)
    with pytest.raises(LabelMapError, match="holds 9"):
        coding.mask_of(np.array([9]), "liver")
    with pytest.raises(LabelMapError, match="'lever'"):
        coding.mask_of(np.array([1]), "lever")


def test_a_foreign_description_loses_no_voxel_though_it_names_few_sets():
    """nnU-Net's own example: a kidney that holds its tumour, and no code for a tumour alone."""
    labels = {"background": 0, "kidney": [1, 2], "tumor": [2], "ignore": 3}
    coding = Coding.of_dataset_json({"labels": labels, "regions_class_order": [1, 2]})
    assert coding.ignore == 3
    drawn = np.array([0, 0, 1, 1, 2, 2])
    laid = [coding.join[drawn[i], i % 2] for i in range(6)]
    assert laid == [1, 2, 1, 2, 2, 2]
    assert (coding.mask_of(np.array([0, 1, 2, 3]), "kidney") == [0, 1, 1, 0]).all()
    with pytest.raises(LabelMapError, match="without a label"):
        Coding.of_dataset_json({"labels": {"background": 0, "kidney": []}})


@st.composite
def value_maps(draw):
    values = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True))
    sets = st.frozensets(st.sampled_from(NAMES), max_size=2)
    return ValueMap("toy", {v: draw(sets) for v in values})


@given(value_maps(), st.integers(0, 99))
def test_a_source_structure_is_the_union_of_its_values(values, seed):
    mask = np.random.default_rng(seed).choice([0, *values.sets], SHAPE)
    for name in NAMES:
        own = [v for v, members in values.sets.items() if name in members]
        if own:
            assert (values.mask_of(mask, name) == np.isin(mask, own)).all()
        else:
            with pytest.raises(LabelMapError, match="no value stands for"):
                values.mask_of(mask, name)


@given(value_maps(), st.integers(0, 99))
def test_a_lossless_map_can_be_undone_and_no_other(values, seed):
    """From the structures' masks alone; every value occurs, so a loss cannot hide."""
    fill = np.random.default_rng(seed).choice([0, *values.sets], 40)
    mask = np.concatenate([[0, *values.sets], fill])
    masks = {name: values.mask_of(mask, name) for name in values.structures}
    back = {members: value for value, members in values.sets.items()} | {frozenset(): 0}
    rebuilt = [back[frozenset(n for n in masks if masks[n][i])] for i in range(len(mask))]
    assert (np.array(rebuilt) == mask).all() == values.is_lossless


@given(value_maps())
def test_lossless_means_that_no_two_values_look_alike_afterwards(values):
    signatures = [tuple(name in members for name in NAMES) for members in values.sets.values()]
    distinct = len(set(signatures)) == len(signatures) and all(map(any, signatures))
    assert values.is_lossless == distinct


def test_an_unnamed_value_stops_and_says_where_to_name_it():
    with pytest.raises(LabelMapError, match=r"values \[7\]") as caught:
        ValueMap("kits23", {1: frozenset({"liver"})}).check([0, 1, 7], "case_1")
    assert "datasets.json" in caught.value.do
