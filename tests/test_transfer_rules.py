"""Every target parameter gets one decision; adapted weights answer as the originals did."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv3d, conv_transpose2d, conv_transpose3d

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.align import address, namesakes
from atlas_nnunet.transfer.heads import Heads, canonical_heads
from atlas_nnunet.transfer.pair import Pair
from atlas_nnunet.transfer.rules import RULES, decide, follow, rule_for, transfer

BODY = "encoder.stages.1.0.convs.0.conv.weight"
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
UP = "decoder.transpconvs.0.weight"
HEAD = "decoder.seg_layers.0.weight"


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def start(pair):
    """The starting weight of a pair."""
    return follow(pair)[0]


def test_the_last_rule_takes_whatever_is_left_and_every_parameter_gets_one_decision():
    assert RULES[-1].applies(Pair("x", None, torch.ones(1)))
    weights, decisions = transfer([Pair(n, None, torch.ones(3)) for n in "abc"])
    assert list(weights) == [d.parameter for d in decisions] == list("abc")
    assert all(d.kept == 3 and d.source is None for d in decisions)


def test_a_shrunk_kernel_answers_alike_where_the_input_is_constant():
    p = Pair(BODY, torch.randn(4, 2, 3, 3, 3), torch.zeros(4, 2, 1, 3, 3))
    x = torch.randn(1, 2, 1, 9, 9).expand(1, 2, 9, 9, 9)  # constant along the shrunk axis
    before = conv3d(x, p.source, padding=(1, 1, 1))[:, :, 1:-1]  # off the zero padding
    close(before, conv3d(x, start(p), padding=(0, 1, 1))[:, :, 1:-1])


def test_a_grown_kernel_answers_alike_everywhere():
    p = Pair(BODY, torch.randn(4, 2, 1, 3, 3), torch.zeros(4, 2, 3, 3, 3))
    x = torch.randn(1, 2, 9, 9, 9)
    close(conv3d(x, p.source, padding=(0, 1, 1)), conv3d(x, start(p), padding=(1, 1, 1)))


def test_a_shrunk_up_convolution_keeps_its_mean():
    p = Pair(UP, torch.randn(4, 2, 2, 2, 2), torch.zeros(4, 2, 1, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=(2, 2, 2))
    after = conv_transpose3d(x, start(p), stride=(1, 2, 2))
    close(before.unflatten(2, (5, 2)).mean(3), after)


def test_a_grown_up_convolution_repeats_what_it_said():
    p = Pair(UP, torch.randn(4, 2, 1, 2, 2), torch.zeros(4, 2, 2, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=(1, 2, 2))
    after = conv_transpose3d(x, start(p), stride=(2, 2, 2))
    close(before.repeat_interleave(2, 2), after)


@pytest.mark.parametrize(("have", "want"), [(3, 5), (1, 5), (3, 7)])
def test_any_grown_kernel_answers_alike_everywhere(have, want):
    p = Pair(BODY, torch.randn(4, 2, have, 3, 3), torch.zeros(4, 2, want, 3, 3))
    x = torch.randn(1, 2, 9, 9, 9)
    before = conv3d(x, p.source, padding=(have // 2, 1, 1))
    close(before, conv3d(x, start(p), padding=(want // 2, 1, 1)))


def test_any_shrunk_kernel_keeps_its_inner_taps_and_its_answer_to_what_is_constant():
    p = Pair(BODY, torch.randn(4, 2, 7, 3, 3), torch.zeros(4, 2, 3, 3, 3))
    got = start(p)
    close(got[:, :, 1], p.source[:, :, 3])
    x = torch.randn(1, 2, 1, 9, 9).expand(1, 2, 12, 9, 9)
    before = conv3d(x, p.source, padding=(3, 1, 1))[:, :, 3:-3]
    close(before, conv3d(x, got, padding=1)[:, :, 3:-3])


@pytest.mark.parametrize(("have", "want"), [(2, 4), (4, 2), (2, 3), (3, 2)])
def test_an_up_convolution_of_another_stride_keeps_what_comes_from_a_voxel(have, want):
    p = Pair(UP, torch.randn(4, 2, have, 2, 2), torch.zeros(4, 2, want, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=(have, 2, 2)).unflatten(2, (5, have))
    after = conv_transpose3d(x, start(p), stride=(want, 2, 2)).unflatten(2, (5, want))
    close(before.mean(3), after.mean(3))
    close(before[:, :, :, 0], after[:, :, :, 0]) if want > have else None


def test_a_pool_that_becomes_another_axis_of_slices():
    p = Pair(UP, torch.randn(4, 2, 2, 2, 2), torch.zeros(4, 2, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=2).unflatten(2, (5, 2)).mean(3)
    slices = [conv_transpose2d(x[:, :, i], start(p), stride=2) for i in range(5)]
    close(before, torch.stack(slices, 2))


def test_a_new_block_is_silenced_whatever_its_initialisation():
    name = "encoder.stages.1.blocks.1.conv2.norm.weight"
    weight, _ = follow(Pair(name, None, torch.ones(4), missing="block_end"))
    assert not weight.any()


def test_a_parameter_that_no_rule_knows_keeps_its_start():
    for name in ("swin.attention.qkv.weight", "encoder.stages.0.blocks.0.squeeze.fc1.weight"):
        p = Pair(name, torch.randn(4, 4), torch.zeros(8, 4))
        assert rule_for(p).name == "keep_init"
        assert decide(p).kept == 32
    turned = Pair("swin.attention.qkv.weight", torch.randn(4, 8), torch.zeros(8, 4))
    assert decide(turned).kept == 32


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1), (2, 4), (3, 2)])
def test_other_numbers_of_equal_channels_answer_alike(have, want):
    p = Pair(FIRST, torch.randn(4, have, 3, 3, 3), torch.zeros(4, want, 3, 3, 3))
    assert decide(p).rule == "refit_inputs"
    x = torch.randn(1, 1, 6, 6, 6)
    before = conv3d(x.expand(1, have, 6, 6, 6), p.source)
    close(before, conv3d(x.expand(1, want, 6, 6, 6), start(p)))


def test_head_rows_follow_names_even_where_shapes_agree():
    heads = Heads(("liver", "spleen", "pancreas"), ("pancreas", "heart", "liver"))
    p = Pair(HEAD, torch.arange(3.0).reshape(3, 1), torch.full((3, 1), -1.0), heads)
    assert rule_for(p).name == "head_rows"
    assert start(p).flatten().tolist() == [2.0, -1.0, 0.0]
    d = decide(p)
    assert (d.copied, d.adapted, d.kept) == (2, 0, 1)


def test_left_never_feeds_right():
    for target in (("kidney_right",), ("background", "kidney_right")):
        heads = Heads(("kidney_left",), target)
        assert all(row.how == "kept" for row in heads.rows)


def test_a_synonym_that_swaps_sides_is_refused():
    names = {"Left Kidney": "kidney_right"}
    with pytest.raises(TransferError, match="never swapped"):
        canonical_heads(("kidney_right",), ("Left Kidney", "liver"), names)


def test_two_rows_of_the_source_for_one_of_the_target_are_refused():
    names = {"ivc": "postcava", "inferior_vena_cava": "postcava"}
    with pytest.raises(TransferError, match=r"ivc.*inferior_vena_cava"):
        canonical_heads(("ivc", "inferior_vena_cava"), ("postcava",), names)
    (row,) = canonical_heads(("ivc", "inferior_vena_cava"), ("liver",), names).rows
    assert row.how == "kept"


@given(st.integers(0, 999))
def test_softmax_from_sigmoid_decides_alike(seed):
    rng = torch.Generator().manual_seed(seed)
    names = ("liver", "spleen", "pancreas")
    heads = Heads(names, ("background", "spleen", "liver", "pancreas"))
    source = torch.randn(3, 5, generator=rng)
    features = torch.randn(5, 200, generator=rng)
    softmax = start(Pair(HEAD, source, torch.randn(4, 5, generator=rng), heads)) @ features
    sigmoid = source @ features
    best, which = sigmoid.max(0)
    order = torch.tensor([2, 1, 3])  # rows of liver, spleen, pancreas in the target
    want = torch.where(best > 0, order[which], 0)
    assert (softmax.argmax(0) == want).all()


@given(st.integers(0, 999))
def test_sigmoid_from_softmax_weighs_a_structure_against_background(seed):
    rng = torch.Generator().manual_seed(seed)
    heads = Heads(("background", "liver", "spleen"), ("spleen", "liver"))
    source, features = torch.randn(3, 5, generator=rng), torch.randn(5, 50, generator=rng)
    sigmoid = start(Pair(HEAD, source, torch.zeros(2, 5), heads)) @ features
    logits = source @ features
    close(sigmoid, torch.stack([logits[2] - logits[0], logits[1] - logits[0]]))


def test_levels_are_counted_from_the_top():
    assert address("decoder.stages.0.convs.0.conv.weight", 6) == address(
        "decoder.stages.1.convs.0.conv.weight", 7
    )
    same = "encoder.stages.2.0.convs.1.conv.weight"
    assert address(same, 5) == address(same, 6) == "encoder.level2.convs.1.conv.weight"
    places = namesakes(
        [f"decoder.transpconvs.{i}.weight" for i in range(3)], 4,
        [f"decoder.transpconvs.{i}.weight" for i in range(4)], 5,
    )  # fmt: skip
    assert places == {
        "decoder.transpconvs.0.weight": None,
        **{f"decoder.transpconvs.{i + 1}.weight": f"decoder.transpconvs.{i}.weight"
           for i in range(3)},
    }  # fmt: skip
