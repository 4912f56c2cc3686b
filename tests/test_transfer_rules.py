"""Every target parameter gets one decision; adapted weights answer as the originals did."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv3d, conv_transpose3d

from atlas_nnunet.transfer.align import address, namesakes
from atlas_nnunet.transfer.rules import (
    RULES,
    Heads,
    Pair,
    decide,
    head_rows,
    kernel_refits,
    refit_inputs,
    refit_kernel,
    rule_for,
    transfer,
)

BODY = "encoder.stages.0.0.convs.0.conv.weight"
UP = "decoder.transpconvs.0.weight"
HEAD = "decoder.seg_layers.0.weight"


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_last_rule_takes_whatever_is_left_and_every_parameter_gets_one_decision():
    assert RULES[-1].applies(Pair("x", None, torch.ones(1)))
    weights, decisions = transfer([Pair(n, None, torch.ones(3)) for n in "abc"])
    assert list(weights) == [d.parameter for d in decisions] == list("abc")
    assert all(d.kept == 3 and d.source is None for d in decisions)


def test_a_shrunk_kernel_answers_alike_where_the_input_is_constant():
    p = Pair(BODY, torch.randn(4, 2, 3, 3, 3), torch.zeros(4, 2, 1, 3, 3))
    x = torch.randn(1, 2, 1, 9, 9).expand(1, 2, 9, 9, 9)  # constant along the shrunk axis
    before = conv3d(x, p.source, padding=(1, 1, 1))[:, :, 1:-1]  # off the zero padding
    close(before, conv3d(x, refit_kernel(p), padding=(0, 1, 1))[:, :, 1:-1])


def test_a_grown_kernel_answers_alike_everywhere():
    p = Pair(BODY, torch.randn(4, 2, 1, 3, 3), torch.zeros(4, 2, 3, 3, 3))
    x = torch.randn(1, 2, 9, 9, 9)
    close(conv3d(x, p.source, padding=(0, 1, 1)), conv3d(x, refit_kernel(p), padding=(1, 1, 1)))


def test_a_shrunk_up_convolution_keeps_its_mean():
    p = Pair(UP, torch.randn(4, 2, 2, 2, 2), torch.zeros(4, 2, 1, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=(2, 2, 2))
    after = conv_transpose3d(x, refit_kernel(p), stride=(1, 2, 2))
    close(before.unflatten(2, (5, 2)).mean(3), after)


def test_a_grown_up_convolution_repeats_what_it_said():
    p = Pair(UP, torch.randn(4, 2, 1, 2, 2), torch.zeros(4, 2, 2, 2, 2))
    x = torch.randn(1, 4, 5, 5, 5)
    before = conv_transpose3d(x, p.source, stride=(1, 2, 2))
    after = conv_transpose3d(x, refit_kernel(p), stride=(2, 2, 2))
    close(before.repeat_interleave(2, 2), after)


def test_kernels_that_cannot_be_refitted_keep_their_initialisation():
    p = Pair(BODY, torch.randn(4, 2, 5, 5, 5), torch.zeros(4, 2, 3, 3, 3))
    assert not kernel_refits(p)
    assert rule_for(p).name == "keep_init"


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1)])
def test_other_numbers_of_equal_channels_answer_alike(have, want):
    p = Pair(BODY, torch.randn(4, have, 3, 3, 3), torch.zeros(4, want, 3, 3, 3))
    assert rule_for(p).name == "refit_inputs"
    x = torch.randn(1, 1, 6, 6, 6)
    before = conv3d(x.expand(1, have, 6, 6, 6), p.source)
    close(before, conv3d(x.expand(1, want, 6, 6, 6), refit_inputs(p)))


def test_head_rows_follow_names_even_where_shapes_agree():
    heads = Heads(("liver", "spleen", "pancreas"), ("pancreas", "heart", "liver"))
    p = Pair(HEAD, torch.arange(3.0).reshape(3, 1), torch.full((3, 1), -1.0), heads)
    assert rule_for(p).name == "head_rows"
    assert head_rows(p).flatten().tolist() == [2.0, -1.0, 0.0]
    d = decide(p)
    assert (d.copied, d.adapted, d.kept) == (2, 0, 1)


def test_left_never_feeds_right():
    heads = Heads(("kidney_left",), ("kidney_right",))
    assert not heads.shared
    assert not Heads(("kidney_left", "kidney_right"), ("kidney",)).shared


@given(st.integers(0, 999))
def test_softmax_from_sigmoid_decides_alike(seed):
    rng = torch.Generator().manual_seed(seed)
    names = ("liver", "spleen", "pancreas")
    heads = Heads(names, ("background", "spleen", "liver", "pancreas"))
    source = torch.randn(3, 5, generator=rng)
    features = torch.randn(5, 200, generator=rng)
    softmax = head_rows(Pair(HEAD, source, torch.randn(4, 5, generator=rng), heads)) @ features
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
    sigmoid = head_rows(Pair(HEAD, source, torch.zeros(2, 5), heads)) @ features
    logits = source @ features
    close(sigmoid, torch.stack([logits[2] - logits[0], logits[1] - logits[0]]))


def test_levels_are_counted_from_the_top():
    assert address("decoder.stages.0.convs.0.conv.weight", 6) == address(
        "decoder.stages.1.convs.0.conv.weight", 7
    )
    same = "encoder.stages.2.0.convs.1.conv.weight"
    assert address(same, 5) == address(same, 6) == same
    places = namesakes(
        [f"decoder.transpconvs.{i}.weight" for i in range(3)], 4,
        [f"decoder.transpconvs.{i}.weight" for i in range(4)], 5,
    )  # fmt: skip
    assert places == {
        "decoder.transpconvs.0.weight": None,
        **{f"decoder.transpconvs.{i + 1}.weight": f"decoder.transpconvs.{i}.weight"
           for i in range(3)},
    }  # fmt: skip
