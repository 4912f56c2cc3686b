"""What each rule claims, on whole networks: the same input gives the same output."""

from dataclasses import replace

import pytest
import torch
from networks import source_of, spec

from atlas_nnunet.structures import canonical
from atlas_nnunet.transfer.shares import Shares
from atlas_nnunet.transfer.starting import start_target

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

BOTH = pytest.mark.parametrize("residual", [False, True])


def started(source, own, **how):
    """The target network in evaluation mode, and rule by parameter."""
    network, decisions, _ = start_target(source, own, {}, seed=5, **how)
    return network.eval(), {d.parameter: d for d in decisions}


def close(a, b, atol=2e-3):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-3)


def all_close(network, x, target, y=None):
    """All outputs, deep supervision included."""
    with torch.no_grad():
        for a, b in zip(network(x), target(x if y is None else y), strict=True):
            close(a, b)


def nothing_left(decisions):
    return Shares.of(list(decisions.values())).body_from_source == 1


@BOTH
@pytest.mark.parametrize("width", [8, 12, 7])
def test_a_wider_network_answers_alike(residual, width):
    source, network = source_of(spec(residual=residual))
    target, decisions = started(source, spec(residual=residual, width=width))
    all_close(network, torch.randn(1, 1, 16, 16, 16), target)
    assert nothing_left(decisions)


@BOTH
def test_copies_of_a_channel_do_not_stay_copies(residual):
    source, _ = source_of(spec(residual=residual))
    target, _ = started(source, spec(residual=residual, width=8))
    sum(o.square().mean() for o in target(torch.randn(1, 1, 16, 16, 16))).backward()
    first = target.encoder.stem if residual else target.encoder.stages[0][0]
    weight = first.convs[0].conv.weight
    assert torch.equal(weight[:4], weight[4:])
    one, other = weight.grad[:4].flatten(1), weight.grad[4:].flatten(1)
    assert (torch.cosine_similarity(one, other) < 0.999).any(), "Adam would keep them equal"


@BOTH
@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 5)])
def test_a_network_with_grown_kernels_answers_alike(residual, have, want):
    source, network = source_of(spec(residual=residual, all_kernels=have))
    target, decisions = started(source, spec(residual=residual, all_kernels=want))
    all_close(network, torch.randn(1, 1, 16, 16, 16), target)
    assert nothing_left(decisions)


@BOTH
def test_a_network_from_slices_to_volumes_answers_alike_slice_by_slice(residual):
    source, network = source_of(spec(residual=residual, axes=2))
    target, decisions = started(source, spec(residual=residual))
    assert nothing_left(decisions)
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        for a, b in zip(network(x), target(x[:, :, None].repeat(1, 1, 8, 1, 1)), strict=True):
            close(a[:, :, None].expand_as(b), b)


@BOTH
def test_a_network_from_volumes_to_slices_takes_every_parameter(residual):
    source, _ = source_of(spec(residual=residual))
    target, decisions = started(source, spec(residual=residual, axes=2))
    assert nothing_left(decisions)
    name = "decoder.stages.2.convs.0.conv.weight"
    close(dict(target.named_parameters())[name], source.parameters[name].sum(2))


@BOTH
@pytest.mark.parametrize(("have", "want"), [(1, 2), (2, 1), (2, 4)])
def test_other_numbers_of_equal_image_channels_answer_alike(residual, have, want):
    source, network = source_of(spec(residual=residual, channels=("CT",) * have))
    target, decisions = started(source, spec(residual=residual, channels=("CT",) * want))
    x = torch.randn(1, 1, 16, 16, 16)
    all_close(network, x.repeat(1, have, 1, 1, 1), target, x.repeat(1, want, 1, 1, 1))
    assert nothing_left(decisions)


@BOTH
def test_several_rules_at_once_still_answer_alike(residual):
    source, network = source_of(spec(residual=residual, all_kernels=1))
    own = spec(residual=residual, width=8, channels=("CT", "PET"), all_kernels=3,
               heads=("kidney_right", "heart", "liver", "kidney_left"))  # fmt: skip
    target, decisions = started(source, own)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for a, b in zip(network(x), target(x.repeat(1, 2, 1, 1, 1)), strict=True):
            close(a, b[:, [2, 3, 0]])
    assert nothing_left(decisions)
    first = "encoder.stem" if residual else "encoder.stages.0.0"
    assert decisions[f"{first}.convs.0.conv.weight"].rule == "refit_kernel + refit_inputs + wider"
    assert decisions["decoder.seg_layers.0.weight"].rule == "wider + head_rows"


@BOTH
@pytest.mark.parametrize("stages", [3, 5])
def test_networks_of_other_depth_see_the_same_on_the_levels_they_share(residual, stages):
    source, network = source_of(spec(residual=residual))
    target, _ = started(source, spec(stages, residual=residual))
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        for a, b in zip(network.encoder(x), target.encoder(x), strict=False):
            assert torch.equal(a, b)


@BOTH
def test_a_narrower_network_takes_the_first_channels_of_every_parameter(residual):
    source, _ = source_of(spec(residual=residual, width=8))
    target, decisions = started(source, spec(residual=residual, width=4))
    shares = Shares.of(list(decisions.values()))
    assert shares.fractions("encoder", "decoder")["kept"] == 0
    assert shares.body_from_source == pytest.approx(0), "there is no claim to count"
    name = "decoder.stages.2.convs.0.conv.weight"
    want = torch.cat([source.parameters[name][:4, :4], source.parameters[name][:4, 8:12]], 1)
    assert torch.equal(dict(target.named_parameters())[name], want)


def test_a_new_residual_block_is_the_identity_under_relu():
    source, network = source_of(spec(residual=True, nonlin="torch.nn.ReLU"))
    target, decisions = started(source, spec(residual=True, blocks=4, nonlin="torch.nn.ReLU"))
    all_close(network, torch.randn(1, 1, 16, 16, 16), target)
    rules = [decisions[f"encoder.stages.1.blocks.2.conv{i}.norm.weight"].rule for i in (1, 2)]
    assert rules == ["new_block_inside", "new_block"]


def test_a_new_residual_block_applies_one_more_leaky_relu_and_nothing_else():
    source, network = source_of(spec(residual=True))
    target, _ = started(source, spec(residual=True, blocks=3))
    with torch.no_grad():
        x = network.encoder.stem(torch.randn(1, 1, 16, 16, 16))
        close(target.encoder.stages[0](x), torch.nn.LeakyReLU()(network.encoder.stages[0](x)))


def test_a_skip_path_is_found_with_and_without_its_pooling():
    source, _ = source_of(spec(residual=True))
    own = spec(residual=True)
    strides = [[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2]]
    own = replace(own, arch_kwargs={**own.arch_kwargs, "strides": strides})
    target, decisions = started(source, own)
    names = ["encoder.stages.1.blocks.0.skip.0.conv.weight"]
    names += ["encoder.stages.1.blocks.0.skip.1.conv.weight"]
    assert names[0] in decisions
    assert torch.equal(dict(target.named_parameters())[names[0]], source.parameters[names[1]])
    assert nothing_left(decisions)


def test_fewer_residual_blocks_are_the_first_ones():
    source, network = source_of(spec(residual=True, blocks=3))
    target, decisions = started(source, spec(residual=True, blocks=2))
    assert nothing_left(decisions)
    with torch.no_grad():
        x = network.encoder.stem(torch.randn(1, 1, 16, 16, 16))
        close(target.encoder.stages[0](x), network.encoder.stages[0].blocks[:2](x))


def test_a_new_plain_convolution_keeps_its_start_and_says_why():
    source, _ = source_of(spec())
    _, decisions = started(source, spec(blocks=3, decoder=2))
    for name in ("encoder.stages.1.0.convs.2.conv.weight", "decoder.stages.1.convs.1.conv.weight"):
        assert decisions[name].rule == "new_conv"
        assert "identity" in decisions[name].because


def test_a_residual_stage_from_a_plain_one_computes_what_that_did():
    source, network = source_of(spec(nonlin="torch.nn.ReLU"))
    target, decisions = started(source, spec(residual=True, blocks=3, nonlin="torch.nn.ReLU"))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        stem = target.encoder.stem(x)
        close(stem, network.encoder.stages[0][0].convs[0](x))
        close(target.encoder.stages[0](stem), stem)  # what it lacks, its own first block, is silent
        for level in (1, 2, 3):
            below = torch.randn(1, 4 * 2 ** (level - 1), 8, 8, 8)
            close(target.encoder.stages[level](below), network.encoder.stages[level](below))
    skip = next(
        n for n in decisions if n.startswith("encoder.stages.1.blocks.0.skip") and "norm" in n
    )
    assert decisions[skip].rule == "silent_skip"
    assert decisions["encoder.stages.0.blocks.0.conv2.norm.weight"].rule == "new_block"


def test_a_plain_network_of_one_convolution_a_stage_gives_a_residual_one_that_is_alive():
    source, _ = source_of(spec(blocks=1))
    target, _ = started(source, spec(residual=True))
    with torch.no_grad():
        for features in target.encoder(torch.randn(1, 1, 16, 16, 16)):
            assert features.std() > 0


def test_from_residual_to_plain_the_first_convolution_is_exact_and_the_rest_is_named():
    source, network = source_of(spec(residual=True))
    target, decisions = started(source, spec())
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        close(target.encoder.stages[0][0].convs[0](x), network.encoder.stem(x))
    crossed = {n for n, d in decisions.items() if d.rule == "residual_to_plain"}
    assert {n.split(".")[2] for n in crossed} == {"1", "2", "3"}, "level 0 has no counterpart"
    assert all("no claim" in decisions[n].because for n in crossed)
    assert not any(decisions[n].claim for n in crossed)


@BOTH
def test_a_level_of_the_source_may_serve_the_level_above(residual):
    source, network = source_of(spec(residual=residual))
    own = spec(3, residual=residual)
    widths = {**own.arch_kwargs, "features_per_stage": [8, 16, 32]}
    target, _ = started(source, replace(own, arch_kwargs=widths), shift=1)
    with torch.no_grad():
        for level in (1, 2):
            below = torch.randn(1, 4 * 2**level, 8, 8, 8)
            there = network.encoder.stages[level + 1]
            assert torch.equal(target.encoder.stages[level](below), there(below))


SOFTMAX = ("background", "kidney_right", "liver", "kidney_left")


@BOTH
def test_a_softmax_network_from_a_sigmoid_one_decides_alike_on_every_level(residual):
    source, network = source_of(spec(residual=residual))  # liver, kidney_left, kidney_right
    target, decisions = started(source, spec(residual=residual, heads=SOFTMAX))
    with torch.no_grad():
        x = torch.randn(1, 1, 16, 16, 16)
        for sigmoid, softmax in zip(network(x), target(x), strict=True):
            best, which = sigmoid[0].max(0)
            want = torch.where(best > 0, torch.tensor([2, 3, 1])[which], 0)
            sure = best.abs() > 1e-4
            assert torch.equal(softmax[0].argmax(0)[sure], want[sure])
    assert decisions["decoder.seg_layers.0.weight"].kept == 0


@BOTH
def test_a_sigmoid_network_from_a_softmax_one_weighs_against_background(residual):
    source, network = source_of(spec(residual=residual, heads=SOFTMAX))
    target, _ = started(source, spec(residual=residual, heads=("liver", "heart")))
    with torch.no_grad():
        x = torch.randn(1, 1, 16, 16, 16)
        for softmax, sigmoid in zip(network(x), target(x), strict=True):
            close(sigmoid[:, 0], softmax[:, 2] - softmax[:, 0])


def test_a_left_kidney_never_starts_from_a_right_one():
    source, _ = source_of(spec(heads=("liver", "kidney_right", "spleen")))
    own = spec(heads=("liver", "Left Kidney", "spleen"))
    names = {name: canonical(name) for name in (*source.spec.heads, *own.heads)}
    target, decisions, heads = start_target(source, own, names, seed=5)
    assert [heads.sources(row) for row in heads.rows] == [heads.source[0], None, heads.source[2]]
    fresh, _, _ = start_target(source, spec(heads=("a", "b", "c")), {}, seed=5)
    for level in range(3):
        name = f"decoder.seg_layers.{level}.weight"
        row = dict(target.named_parameters())[name][1]
        assert torch.equal(row, dict(fresh.named_parameters())[name][1])
        assert next(d for d in decisions if d.parameter == name).kept == row.numel()
