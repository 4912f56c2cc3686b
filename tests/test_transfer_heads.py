"""Head rows: the source's decision survives where a row can carry it, and is claimed only there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool3d, conv3d

from atlas_nnunet.errors import TransferError
from atlas_nnunet.structures import PARENTS, innermost, parts_of, related_lesions
from atlas_nnunet.transfer.heads import (
    COPIED,
    JOINED,
    KEPT,
    SEVERAL_PARENTS,
    Heads,
    canonical_heads,
    heads_table,
)
from atlas_nnunet.transfer.pair import Pair
from atlas_nnunet.transfer.rules import decide, follow

HEAD = "decoder.seg_layers.0"
BG = "background"
N_TUMOUR = 10_022
SEEDS = st.integers(0, 999)


def normal(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def target_logits(logits, heads, seed=0):
    """What the target answers where the source answers `logits`: features are the logits and one
    constant, so that the source's head is the identity with a bias of zero."""
    n = logits.shape[0]
    start = normal(seed, len(heads.target), n)
    return follow(Pair(f"{HEAD}.weight", torch.eye(n).double(), start, heads))[0] @ logits


def how(heads):
    return {row.name: row.how for row in heads.rows}


def claim(heads, name):
    return next(row.claim for row in heads.rows if row.name == name)


def smooth(seed, side=48):
    noise = normal(seed, 1, 1, side, side, side)
    for _ in range(2):
        noise = avg_pool3d(noise, 7, stride=1, padding=3)
    return (noise / noise.std())[0, 0]


def liver_with_tumours(seed):
    """Smooth logits, tumour inside liver, exactly N_TUMOUR tumour voxels with the smaller logit."""
    liver, tumour = 20 * (smooth(seed) + 0.5), smooth(seed + 1)
    inside = tumour[liver > 0].sort(descending=True).values
    tumour = tumour - (inside[N_TUMOUR - 1] + inside[N_TUMOUR]) / 2
    return liver, torch.where(liver > 0, tumour, -1 - tumour.abs())


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_every_tumour_voxel_of_a_volume_survives_in_a_softmax_head(seed):
    liver, tumour = liver_with_tumours(seed)
    mixing = torch.linalg.qr(normal(seed, 8, 8)).Q  # features from which both logits are read
    features = torch.stack([liver + 0.3, tumour - 0.2, *normal(seed + 2, 6, *liver.shape)])
    features = torch.einsum("fc,cxyz->fxyz", mixing, features)[None]
    weight, bias = mixing.T[:2, :, None, None, None], torch.tensor([-0.3, 0.2]).double()
    heads = Heads(("liver", "liver_tumor"), (BG, "liver", "liver_tumor"))
    own, own_bias = (
        follow(Pair(f"{HEAD}.{part}", have, normal(seed, 3, *have.shape[1:]), heads))[0]
        for part, have in (("weight", weight), ("bias", bias))
    )
    source, target = conv3d(features, weight, bias)[0], conv3d(features, own, own_bias)[0]
    want = torch.where(source[1] > 0, 2, torch.where(source[0] > 0, 1, 0))
    assert int((want == 2).sum()) == N_TUMOUR
    got = target.argmax(0)
    assert int(((got == 2) & (want == 2)).sum()) == N_TUMOUR
    assert torch.equal(got, want), "background and liver survive as well"
    copied = torch.cat([torch.zeros_like(source[:1]), source]).argmax(0)
    assert int((copied == 2).sum()) < 0.1 * N_TUMOUR, "a row alone loses its tumours to the liver"


CHAIN = ("pancreas", "pancreas_lesion", "pancreas_tumor", "pancreas_pdac")


@given(SEEDS, st.permutations(CHAIN), st.permutations(CHAIN), st.integers(1, 4))
def test_the_innermost_positive_region_of_a_chain_wins(seed, source, target, length):
    chain = CHAIN[:length]
    heads = Heads(tuple(n for n in source if n in chain), (BG, *(n for n in target if n in chain)))
    logits = normal(seed, 4, 300)
    for depth in range(1, 4):  # a part is positive only inside its whole
        logits[depth] = torch.where(logits[depth - 1] > 0, logits[depth], -logits[depth].abs())
    ordered = torch.stack([logits[CHAIN.index(n)] for n in heads.source])
    got = target_logits(ordered, heads, seed).argmax(0)
    depth = (logits[:length] > 0).sum(0)  # 0: nothing
    names = (BG, *chain)
    want = torch.tensor([heads.target.index(names[d]) for d in depth.tolist()])
    assert torch.equal(got, want)


@given(SEEDS)
def test_a_tumour_that_the_source_sees_outside_its_organ_is_decided_by_the_sum(seed):
    heads = Heads(("liver", "liver_tumor"), (BG, "liver", "liver_tumor"))
    liver, tumour = -normal(seed, 200).abs(), normal(seed + 1, 200)
    got = target_logits(torch.stack([liver, tumour]), heads).argmax(0)
    assert torch.equal(got, torch.where(liver + tumour > 0, 2, 0))


@given(SEEDS)
def test_a_tumour_in_one_of_several_organs_wins_above_an_eighth_of_their_logits(seed):
    names = ("kidney_left", "kidney_right", "kidney_tumor")
    heads = Heads(names, (BG, *names))
    logits = normal(seed, 3, 300)
    got = target_logits(logits, heads).argmax(0)
    tumour = logits[2] * SEVERAL_PARENTS > logits[:2].max(0).values.clamp(min=0)
    assert torch.equal(got == 3, tumour)
    assert not (tumour & (logits[2] <= 0)).any()
    alone = (logits[2] > 0) & (logits[2] > logits[:2].max(0).values)
    assert not (alone & ~tumour).any(), "no voxel is lost that the row alone would keep"
    assert "no exact row exists" in claim(heads, "kidney_tumor")


def test_a_tumour_in_a_union_does_not_add_the_unions_row():
    heads = Heads(("kidney_left", "kidney_right", "kidney_tumor"), (BG, "kidney", "kidney_tumor"))
    logits = torch.tensor([[5.0], [-12.0], [1.0]]).double()
    assert target_logits(logits, heads).argmax(0).tolist() == [2]


def test_siblings_in_one_organ_both_add_it_and_their_own_logits_decide():
    names = ("pancreas", "pancreas_tumor", "pancreas_cyst")
    heads = Heads(names, (BG, *names))
    logits = torch.tensor([[9.0, 9, 9], [1, 2, -1], [2, 1, -1]]).double()
    assert target_logits(logits, heads).argmax(0).tolist() == [3, 2, 1]


@given(SEEDS, st.booleans(), st.booleans())
def test_a_union_adds_no_voxel_that_the_source_gives_to_none_of_its_parts(seed, old, new):
    parts = ("kidney_left", "kidney_right")
    heads = Heads((BG, *parts) if old else parts, (BG, "kidney") if new else ("kidney",))
    logits = normal(seed, len(heads.source), 300)
    answer = target_logits(logits, heads)
    got = answer.argmax(0) == 1 if new else answer[0] > 0
    source = logits.argmax(0) > 0 if old else (logits > 0).any(0)
    assert not (got & ~source).any()
    assert got.any(), "and adds some"
    left, right = logits[-2:]
    assert torch.equal(got, left + right > (2 * logits[0] if old else 0))
    assert how(heads)["kidney"] == JOINED
    assert "no exact row exists" in claim(heads, "kidney")


def test_unions_are_found_through_the_vocabulary_and_only_if_complete():
    lobes = [f"lung_{n}_lobe_right" for n in ("upper", "middle", "lower")]
    assert parts_of("lung", ["lung_left", "lung_right"]) == ("lung_left", "lung_right")
    assert parts_of("lung", ["lung_left", *lobes]) == ("lung_left", *lobes)
    assert parts_of("lung", ["lung_left", *lobes[:2]]) == ()
    assert parts_of("adrenal_gland", ["adrenal_gland_right", "adrenal_gland_left"])
    assert parts_of("pancreas", ["pancreas_head", "pancreas_tail"]) == ()
    assert parts_of("kidney_left", ["kidney_left_left", "kidney_left_right"]) == ()
    heads = Heads(("kidney_left",), ("kidney", "lung"))
    assert how(heads) == {"kidney": KEPT, "lung": KEPT}
    assert "only kidney_left" in claim(heads, "kidney")


@pytest.mark.parametrize("target", [("kidney_left", "kidney_right"), (BG, "kidney_left")])
def test_a_side_is_never_taken_from_the_whole(target):
    heads = Heads(("kidney", "lung"), target)
    assert set(how(heads).values()) == {KEPT}
    assert "does not say where left is" in claim(heads, "kidney_left")
    assert "left is" in heads_table(heads)


@given(SEEDS)
def test_a_region_inside_another_is_positive_wherever_its_class_wins(seed):
    heads = Heads((BG, "liver", "liver_tumor", "spleen"), ("liver_tumor", "liver"))
    logits = normal(seed, 4, 300)
    tumour, liver = target_logits(logits, heads)
    assert (tumour[logits.argmax(0) == 2] > 0).all()
    assert (liver[logits.argmax(0) == 1] > 0).all()
    assert torch.equal(tumour > 0, logits[2] > (logits[0] + logits[1]) / 2)
    assert torch.equal(liver > 0, logits[1] > logits[0])
    shifted = target_logits(logits + normal(seed + 1, 1, 300), heads)
    torch.testing.assert_close(shifted, torch.stack([tumour, liver]))  # as softmax itself


def test_in_a_liver_that_is_clearly_liver_the_tumour_region_stays_negative():
    heads = Heads((BG, "liver", "liver_tumor"), ("liver", "liver_tumor"))
    clear = torch.tensor([[-5.0, 10], [10, -5], [-3, -8]]).double()  # liver, background
    answer = target_logits(clear, heads)
    assert (answer > 0).tolist() == [[True, False], [False, False]]
    assert clear[2, 0] > clear[0, 0], "against background alone it would be positive"


ALIKE = [("liver", "liver_tumor", "spleen"), (BG, "spleen", "liver", "liver_tumor")]


@pytest.mark.parametrize("names", ALIKE)
def test_between_heads_that_mean_the_same_every_row_is_copied_bit_by_bit(names):
    heads = Heads(names, (names[0], *names[:0:-1]))
    assert set(how(heads).values()) == {COPIED}
    rows = normal(0, len(names), 5).float()
    got, _ = follow(Pair(f"{HEAD}.weight", rows, torch.zeros_like(rows), heads))
    for name, row in zip(heads.target, got, strict=True):
        assert torch.equal(row, rows[names.index(name)])
    found = decide(Pair(f"{HEAD}.weight", rows, torch.zeros_like(rows), heads))
    assert (found.copied, found.adapted, found.kept) == (rows.numel(), 0, 0)


def test_a_lesion_starts_from_its_tumour_and_the_other_way_round_and_says_so():
    for source, target, relation in (
        ("pancreas_tumor", "pancreas_lesion", "is a part of"),
        ("pancreas_lesion", "pancreas_tumor", "contains"),
        ("kidney_tumor", "kidney_lesion", "is a part of"),
        ("pancreas_tumor", "pancreas_pdac", "contains"),
    ):
        heads = Heads((source, "spleen"), (target,))
        assert heads.sources(heads.rows[0]) == source
        assert heads.rows[0].how == JOINED
        assert f"{source}, which {relation} {target}" in claim(heads, target)
        assert "not the same structure" in heads_table(heads)
    names = {"pancreatic_lesion": "pancreas_lesion"}
    heads = canonical_heads(("pancreas_tumor",), ("pancreatic_lesion",), names)
    assert heads.rows[0].how == JOINED
    assert Heads(("liver_tumor",), ("pancreas_lesion",)).rows[0].how == KEPT
    assert Heads(("pancreas_tumor",), ("pancreas_cyst",)).rows[0].how == KEPT


def test_in_softmax_a_lesion_that_has_its_own_row_does_not_start_another_class():
    source = ("pancreas", "pancreas_lesion")
    classes = Heads(source, (BG, *source, "pancreas_tumor"))
    assert how(classes)["pancreas_tumor"] == KEPT
    regions = Heads(source, (*source, "pancreas_tumor"))
    assert how(regions)["pancreas_tumor"] == JOINED, "regions do not compete"


def test_the_nearest_relation_comes_first_and_organs_have_none():
    assert related_lesions("pancreas_pdac")[:2] == ("pancreas_tumor", "pancreas_lesion")
    assert related_lesions("pancreas_lesion")[0] == "pancreas_tumor"
    assert related_lesions("pancreas") == related_lesions("liver") == ()
    for name in PARENTS:
        assert all(
            innermost(other, [name]) or innermost(name, [other]) for other in related_lesions(name)
        )
    assert innermost("liver_tumor", ["spleen", "liver", "liver_lesion"]) == "liver_lesion"
    assert innermost("kidney_tumor", ["kidney_left", "kidney_right"]) is None


def test_each_row_is_counted_as_it_came():
    heads = Heads(
        (BG, "liver", "kidney_left", "kidney_right"), (BG, "liver", "kidney", "heart", "spleen")
    )
    p = Pair(f"{HEAD}.weight", normal(0, 4, 6), normal(1, 5, 6), heads)
    found = decide(p)
    assert (found.copied, found.adapted, found.kept) == (12, 6, 12)
    got = follow(p)[0]
    assert torch.equal(got[3:], p.target[3:])
    torch.testing.assert_close(got[2], (p.source[2] + p.source[3]) / 2)


def test_background_is_zero_only_if_a_class_was_joined():
    for source, want in ((("liver",), JOINED), (("spleen",), KEPT)):
        heads = Heads(source, (BG, "liver"))
        assert how(heads)[BG] == want
        got = follow(Pair(f"{HEAD}.bias", normal(0, 1), normal(1, 2), heads))[0]
        assert bool(got[0]) == (want == KEPT)


def test_two_rows_of_one_name_are_refused_also_where_they_would_serve_a_union():
    names = {"left kidney": "kidney_left", "kidney left": "kidney_left"}
    source = ("left kidney", "kidney left", "kidney_right")
    with pytest.raises(TransferError, match=r"left kidney.*kidney_left"):
        canonical_heads(source, ("kidney",), names)


def test_the_source_of_a_row_is_written_as_a_sum():
    heads = Heads((BG, "liver", "liver_lesion", "liver_tumor"), ("liver", "liver_tumor", "heart"))
    assert [heads.sources(row) for row in heads.rows] == [
        "liver - background",
        "liver_tumor - 0.333 background - 0.333 liver - 0.333 liver_lesion",
        None,
    ]
