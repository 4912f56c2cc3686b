"""Normalisation folded, the forward check, and the receipt as JSON, table and page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import plans, source_of, spec

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.forward import as_table, forward_check, look
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.intensities import affine, scheme, to_source
from atlas_nnunet.transfer.page import receipt_page
from atlas_nnunet.transfer.pair import takes_a_shift
from atlas_nnunet.transfer.patch import patch_size, real_patch
from atlas_nnunet.transfer.receipt import receipt, refuse_below
from atlas_nnunet.transfer.starting import start_target

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

OLD = {"mean": 100.0, "std": 50.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
NEW = {"mean": 40.0, "std": 80.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0}
BOTH = pytest.mark.parametrize("residual", [False, True])


def scaled(*channels, schemes=None):
    return {
        "schemes": schemes or ["CTNormalization"] * len(channels),
        "intensities": {str(i): own for i, own in enumerate(channels)},
    }


def as_plan(own, *channels, **others):
    return plans(
        own, **others, foreground_intensity_properties_per_channel=scaled(*channels)["intensities"]
    )


def normalised(hu, numbers):
    clipped = np.clip(hu, numbers["percentile_00_5"], numbers["percentile_99_5"])
    return torch.from_numpy((clipped - numbers["mean"]) / numbers["std"]).float()


@BOTH
@pytest.mark.parametrize("n", [1, 2])
def test_a_folded_first_convolution_answers_alike_off_the_border(residual, n):
    source, network = source_of(spec(residual=residual))
    own = spec(residual=residual, width=8, channels=("CT",) * n)
    folds = affine(scaled(OLD), scaled(*[NEW] * n))
    target, decisions, _ = start_target(source, own, {}, seed=0, folds=folds)
    hu = np.random.default_rng(0).uniform(-500, 500, (1, 1, 12, 12, 12))
    first = [
        (net.encoder.stem if residual else net.encoder.stages[0][0]).convs[0].conv
        for net in (network, target)
    ]
    with torch.no_grad():
        before = first[0](normalised(hu, OLD))
        after = first[1](normalised(hu, NEW).repeat(1, n, 1, 1, 1))
    inner = (slice(None), slice(None), *[slice(1, -1)] * 3)
    torch.testing.assert_close(
        before.repeat(1, 2, 1, 1, 1)[inner], after[inner], atol=1e-4, rtol=1e-4
    )
    border = (before.repeat(1, 2, 1, 1, 1) - after).abs().max()
    assert border > 1e-2, "zero padding means another intensity on either side: said, not hidden"
    assert {d.rule for d in decisions if "fold" in d.rule} >= {"fold_normalisation + wider"}


def test_what_has_no_bias_takes_no_shift():
    bare = spec()
    bare = replace(bare, arch_kwargs={**bare.arch_kwargs, "conv_bias": False})
    for own, expected in ((spec(), True), (spec(residual=True), True), (bare, False)):
        assert takes_a_shift([n for n, _ in own.build_empty().named_parameters()]) == expected
    one = "swinViT.patch_embed.proj.weight"
    assert takes_a_shift([one, one.replace("weight", "bias")])
    assert not takes_a_shift(
        [one, one.replace("weight", "bias"), "encoder1.layer.conv1.conv.weight"]
    )
    assert not takes_a_shift([])


def test_each_channel_is_folded_by_its_own_numbers():
    source, network = source_of(spec(channels=("CT", "CT2")))
    other = {**OLD, "std": 25.0, "mean": 0.0}
    folds = affine(scaled(OLD, other), scaled(NEW, OLD))
    target, _, _ = start_target(source, spec(channels=("CT", "CT2")), {}, seed=0, folds=folds)
    hu = np.random.default_rng(0).uniform(-500, 500, (2, 1, 9, 9, 9))
    seen = [
        torch.stack([normalised(hu[0], a), normalised(hu[1], b)], 1)
        for a, b in ((OLD, other), (NEW, OLD))
    ]
    torch.testing.assert_close(to_source(seen[1], folds), seen[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        a, b = (
            net.encoder.stages[0][0].convs[0].conv(x)[..., 1:-1, 1:-1, 1:-1]
            for net, x in zip((network, target), seen, strict=True)
        )
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_nothing_is_folded_where_nothing_differs_or_it_is_not_affine():
    assert affine(scaled(OLD), scaled(OLD)) == ()
    assert affine(scaled(OLD), scaled({**OLD, "percentile_99_5": 1.0})) == ()
    assert affine(scaled(OLD), scaled(NEW, schemes=["ZScoreNormalization"])) == ()
    assert affine(scaled(OLD, OLD), scaled(NEW)) == ()
    assert affine(scheme(plans(spec()), "3d_fullres"), scaled(NEW)) == ()


@BOTH
def test_equal_networks_agree_fully_and_others_do_not(residual):
    source, network = source_of(spec(residual=residual))
    own = spec(residual=residual, width=8, heads=("kidney_right", "liver", "kidney_left"))
    target, _, heads = start_target(source, own, {}, seed=0)
    target.eval()
    patch = torch.randn(1, 1, 16, 16, 16)
    check = look(source, target, patch, heads)
    found = check.rows
    assert [a.place for a in found] == [
        *(f"encoder level {i}" for i in range(4)), *(f"logits {n}" for n in own.heads),
    ]  # fmt: skip
    assert all(a.correlation > 0.999 for a in found)
    assert [v.structure for v in check.voxels] == list(own.heads)
    assert not any(v.differs for v in check.voxels)
    assert sum(v.n_source for v in check.voxels) > 1000
    check_strangers = forward_check(network, source_of(own, seed=9)[1], patch, heads)
    assert any(v.differs for v in check_strangers.voxels)
    strangers = check_strangers.rows
    assert sum(abs(a.correlation) for a in strangers[:4]) < 0.3 * 4, "means do not count"
    assert "encoder level 0" in as_table(check)
    assert "of these in the target" in as_table(check)
    assert not target.training, "left as it was"
    shifted = forward_check(network, target, patch, heads, shift=1).rows
    assert [a.correlation is None for a in shifted[:4]] == [False, False, False, True]


def test_the_check_gives_the_source_what_its_own_preprocessing_would_have_left():
    own = spec()
    bare = replace(own, arch_kwargs={**own.arch_kwargs, "norm_op": None, "norm_op_kwargs": None})
    source, _ = source_of(bare)
    folds = affine(scaled(OLD), scaled(NEW))
    target, _, heads = start_target(source, bare, {}, seed=0, folds=folds)
    patch = torch.randn(1, 1, 32, 32, 32)
    with_folds, without = (
        look(source, target, patch, heads, folds=f).rows[0].correlation for f in (folds, ())
    )
    assert with_folds > without


def test_what_cannot_be_compared_is_said():
    volumes, slices = spec(), spec(axes=2)
    source, network = source_of(volumes)
    target, _, heads = start_target(source, slices, {}, seed=0)
    (only,) = forward_check(network, target, torch.randn(1, 1, 16, 16), heads).rows
    assert only.correlation is None
    assert "3 axes" in only.why_not
    deeper, _, heads = start_target(source, spec(5), {}, seed=0)
    found = forward_check(network, deeper, torch.randn(1, 1, 32, 32, 32), heads).rows
    assert found[4].why_not == "the source has no such level"
    (only,) = forward_check(network, deeper, torch.randn(1, 1, 16, 16, 16), heads).rows
    assert "refuses the patch [1, 1, 16, 16, 16]" in only.why_not
    line = torch.nn.Linear(1, 1)
    check = forward_check(line, network, torch.randn(1, 1, 16, 16, 16), heads)
    assert check.rows[0].correlation is None
    assert "no network" in check.why_not


def test_an_encoder_alone_is_looked_at_as_far_as_it_goes():
    source, _ = source_of(spec())
    alone = {n: p for n, p in source.parameters.items() if n.startswith("encoder.")}
    source = replace(source, parameters=alone)
    target, decisions, heads = start_target(source, spec(), {}, seed=0)
    assert {d.rule for d in decisions if d.group != "encoder"} == {"new_part"}
    found = look(source, target, torch.randn(1, 1, 16, 16, 16), heads)
    assert [a.correlation for a in found.rows] == pytest.approx([1.0] * 4)
    assert "no decoder" in found.why_not
    assert "decisions were not compared: the source has no decoder" in as_table(found)
    with pytest.raises(TransferError, match="new_part") as caught:
        refuse_below(0.9, decisions, "x.pth")
    assert "does not have" in caught.value.do
    nowhere = replace(source, spec=replace(source.spec, class_name="no.such.Network"))
    (only,) = look(nowhere, target, torch.randn(1, 1, 16, 16, 16), heads).rows
    assert "cannot be built" in only.why_not
    assert patch_size([20, 20], replace(spec(), arch_kwargs={})) == [20, 20]


def test_a_real_patch_is_the_middle_of_a_case_and_noise_is_called_noise(tmp_path):
    import blosc2

    size = patch_size([16, 96, 8], spec(), spec(3), spec(6, axes=2))
    assert size == [16, 64, 16], "two voxels are left at the bottom"
    assert patch_size([40, 40, 40], spec(3), spec(4)) == [40, 40, 40]
    assert patch_size([40, 40, 40], spec(3), spec(5)) == [32, 32, 32]
    patch, which = real_patch(tmp_path, size, 1)
    assert "noise" in which
    assert patch.shape == (1, 1, 16, 64, 16)
    case = np.zeros((1, 20, 70, 4), np.float32)
    case[0, 10, 35, 2] = 7
    blosc2.asarray(case, urlpath=str(tmp_path / "case_1.b2nd"))
    blosc2.asarray(case.astype(np.int16), urlpath=str(tmp_path / "case_1_seg.b2nd"))
    patch, which = real_patch(tmp_path, size, 1)
    assert which == "the middle of case_1"
    assert patch.shape == (1, 1, 16, 64, 16)
    assert patch[0, 0, 8, 32].max() == 7
    assert "noise" in real_patch(tmp_path, size, 3)[1]


def test_a_refusal_names_what_failed_and_the_mode_that_would_serve():
    for own, residual, mode, rule in (
        (spec(6), False, "inherit", "new_level"),
        (spec(residual=True, blocks=8), True, "aligned", "new_block_inside"),
        (spec(width=2), False, "aligned", "narrower"),
        (spec(), True, "aligned", "residual_to_plain"),
    ):
        source, _ = source_of(spec(residual=residual))
        _, decisions, _ = start_target(source, own, {}, seed=0)
        with pytest.raises(TransferError, match=rule) as caught:
            refuse_below(0.75, decisions, "x.pth")
        assert f"--mode {mode}" in caught.value.do
        failed = re.search(rf"{rule}: (\d+) parameters", str(caught.value))
        assert int(failed[1]) == sum(d.rule == rule and d.group != "head" for d in decisions) > 0


def written(own, source, target_plans, **how):
    target, decisions, heads = start_target(source, own, {}, seed=0, **how)
    patch = torch.randn(1, len(own.channels), 32, 32, 32)
    found = look(source, target, patch, heads, **how)
    return receipt(source, decisions, heads, target_plans, "3d_fullres", "key", spec=own,
                   folds=how.get("folds", ()), patch="a patch", forward=found)  # fmt: skip


def test_the_receipt_says_what_differs():
    source, _ = source_of(spec(blocks=3))
    source = replace(source, plans=as_plan(source.spec, OLD, transpose_forward=[0, 1, 2]))
    own = spec(residual=True, channels=("CT", "PET"))
    content = written(own, source, as_plan(own, NEW, NEW, transpose_forward=[2, 0, 1]))
    assert content["schema"] == 3
    assert "encoder.stages.1.0.convs.2.conv.weight" in content["unused"]
    assert any("encoder is plain, the target's residual" in note for note in content["notes"])
    assert any("PET" in note for note in content["notes"])
    assert any("[2, 0, 1]" in note for note in content["notes"])
    assert "not corrected" in content["normalisation"]["said"]
    folded = written(spec(), replace(source_of(spec())[0], plans=source.plans),
                     as_plan(spec(), NEW), folds=affine(scaled(OLD), scaled(NEW)))  # fmt: skip
    said = folded["normalisation"]["said"]
    assert "-1000.0, 1000.0" in said
    assert "zero padding" in said


def test_the_page_has_a_line_for_every_parameter_and_loads_nothing():
    source, _ = source_of(spec())
    own = spec(5, heads=("liver", "<lesion & co>"))
    content = written(own, source, plans(own))
    html = receipt_page(content)
    names = [n for n, _ in own.build_empty().named_parameters()]
    assert all(f"<td>{name}</td>" in html for name in names)
    assert "&lt;lesion &amp; co&gt;" in html
    assert "<lesion" not in html
    assert not re.search(r"<script|http|src=", html)
    assert html == receipt_page(json.loads(json.dumps(content))), "as read from disk"


def test_heads_of_no_target_do_not_break_the_check():
    _, network = source_of(spec())
    found = forward_check(network, network, torch.randn(1, 1, 16, 16, 16), Heads(("a",), ("b",)))
    assert [a.correlation for a in found.rows] == pytest.approx([1.0] * 4)
