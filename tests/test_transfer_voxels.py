"""The forward check compares decisions, on a patch that contains what could be lost."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from networks import plans, source_of, spec

from atlas_nnunet.transfer.forward import as_table, forward_check, look
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.page import receipt_page
from atlas_nnunet.transfer.patch import real_patch, wanted_labels
from atlas_nnunet.transfer.receipt import receipt
from atlas_nnunet.transfer.starting import start_target
from atlas_nnunet.transfer.voxels import TOLERATED, VoxelAgreement, note_on, voxel_agreement

BG = "background"
FINEST = "decoder.seg_layers.2"


def logits(*rows):
    return torch.tensor(rows).float()


def by_name(found):
    return {own.structure: own for own in found}


def test_voxels_are_counted_by_what_each_network_decides():
    heads = Heads(("liver", "liver_tumor"), (BG, "liver", "liver_tumor"))
    source = logits([9, 9, 9, 9, -1], [1, 1, 1, -1, -1])  # 3 tumour, 1 liver, 1 nothing
    copied = torch.cat([torch.zeros(1, 5), source])
    found = by_name(voxel_agreement(source, copied, heads))
    assert found["liver_tumor"] == VoxelAgreement("liver_tumor", 3, 0, 0, 0.0, "liver")
    assert found["liver"] == VoxelAgreement("liver", 1, 1, 4, 1.0, None)
    assert found["liver"].n_added == 3
    joined = torch.stack([torch.zeros(5), source[0], source[0] + source[1]])
    for own in voxel_agreement(source, joined, heads):
        assert own.agreement == 1
        assert not own.differs


def test_a_region_contains_the_classes_inside_it():
    heads = Heads((BG, "liver", "liver_tumor"), ("liver",))
    source = logits([0, 0, 9], [9, 1, 0], [0, 9, 0])
    (found,) = voxel_agreement(source, logits([1, 1, -1]), heads)
    assert (found.n_source, found.n_both, found.n_target) == (2, 2, 2)
    classes = Heads((BG, "liver", "liver_tumor"), (BG, "liver"))
    (found,) = voxel_agreement(source, logits([0, 0, 1], [1, 1, 0]), classes)
    assert found.n_source == 2, "the target has no class for the tumour: it is liver there"
    both = Heads((BG, "liver", "liver_tumor"), (BG, "liver", "liver_tumor"))
    assert by_name(voxel_agreement(source, source, both))["liver"].n_source == 1


def test_a_region_contains_all_classes_nested_inside_it():
    names = (BG, "pancreas", "pancreas_lesion", "pancreas_tumor")
    source = logits([0, 0, 0, 9], [9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0])
    (found,) = voxel_agreement(source, logits([1, 1, 1, -1]), Heads(names, ("pancreas",)))
    assert (found.n_source, found.n_both, found.n_target) == (3, 3, 3)


def test_voxels_that_the_source_cannot_assign_to_a_side_are_left_out():
    names = (BG, "kidney_left", "kidney_right", "kidney_tumor")
    source = logits([0, 0, 0, 9], [9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0])
    (left,) = voxel_agreement(source, logits([1, -1, 1, -1]), Heads(names, ("kidney_left",)))
    assert (left.n_source, left.n_both, left.n_target) == (1, 1, 1)
    (both,) = voxel_agreement(source, logits([1, 1, 1, -1]), Heads(names, ("kidney",)))
    assert (both.n_source, both.n_both) == (3, 3), "a kidney tumour is in one of the kidneys"


@pytest.mark.parametrize(
    ("n_both", "n_target", "differs"),
    [
        (95, 95, False),
        (94, 94, True),
        (100, 105, False),
        (100, 106, True),
    ],
)
def test_more_than_the_stated_share_lost_or_added_is_a_note(n_both, n_target, differs):
    own = VoxelAgreement("liver_tumor", 100, n_both, n_target, n_both / 100, "liver")
    assert TOLERATED == 0.05
    assert own.differs == differs
    notes = note_on([own, VoxelAgreement("liver", 5, 5, 5, 1.0)], "the middle of case_1")
    assert len(notes) == differs
    for note in notes:
        assert f"liver_tumor ({n_both} of the source's 100 voxels" in note
        assert "5% on the middle of case_1, for 1 of 2" in note
    assert note_on([VoxelAgreement("liver", 0, 0, 0, None)], "a patch") == []


def nested_source():
    """A network with a tumour wherever its liver logit is above 2, and liver in half of a patch."""
    own = spec(heads=("liver", "liver_tumor"))
    source, network = source_of(own)
    patch = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    weight, bias = (source.parameters[f"{FINEST}.{part}"] for part in ("weight", "bias"))
    with torch.no_grad():
        weight[0] *= 30
        network.load_state_dict(source.parameters, strict=False)
        answer = network(patch)
        answer = answer[0] if isinstance(answer, list) else answer
        bias[0] -= answer[0, 0].median()
        weight[1], bias[1] = weight[0] / 2, bias[0] / 2 - 1
    return source, patch


@pytest.mark.host
def test_a_nested_tumour_survives_the_whole_transfer_and_the_receipt_says_how():
    pytest.importorskip("nnunetv2")
    source, patch = nested_source()
    own = spec(heads=(BG, "liver", "liver_tumor"), width=8)
    target, decisions, heads = start_target(source, own, {}, seed=0)
    check = look(source, target, patch, heads)
    found = by_name(check.voxels)
    assert found["liver_tumor"].n_source > 1000
    assert found["liver"].n_source > 1000
    assert all(voxels.agreement > 0.999 for voxels in check.voxels), "but for rounding"
    content = receipt(
        source,
        decisions,
        heads,
        plans(own),
        "3d_fullres",
        "key",
        spec=own,
        patch="a patch",
        forward=check,
    )
    assert content["heads"]["liver_tumor"] == "liver_tumor + liver"
    assert [row["how"] for row in content["head_rows"]] == ["joined"] * 3
    assert content["forward"]["voxels"] == [asdict(voxels) for voxels in check.voxels]
    assert not any("decisions differ" in note for note in content["notes"])
    with torch.no_grad():  # as if the row had been copied
        parameters = dict(target.named_parameters())
        for part in ("weight", "bias"):
            rows = parameters[f"{FINEST}.{part}"]
            rows[2] -= rows[1]
    spoilt = look(source, target, patch, heads)
    assert by_name(spoilt.voxels)["liver_tumor"].agreement < 0.01
    assert "liver_tumor" in as_table(spoilt)
    content = receipt(
        source,
        decisions,
        heads,
        plans(own),
        "3d_fullres",
        "key",
        spec=own,
        patch="a patch",
        forward=spoilt,
    )
    (note,) = [note for note in content["notes"] if "decisions differ" in note]
    assert "most of the others go to liver" in note
    html = receipt_page(json.loads(json.dumps(content)))
    assert "<td>liver_tumor + liver</td>" in html
    assert "of these in the target" in html
    assert "decisions differ by more than 5%" in html
    assert "<tr class=kept><td>liver_tumor</td>" in html


@pytest.mark.host
def test_joined_logits_are_compared_with_the_sum_that_they_start_from():
    pytest.importorskip("nnunetv2")
    source, _ = source_of(spec(heads=(BG, "spleen", "liver")))
    target, _, heads = start_target(source, spec(heads=("liver", "spleen")), {}, seed=0)
    check = look(source, target, torch.randn(1, 1, 16, 16, 16), heads)
    logit_rows = [row for row in check.rows if row.place.startswith("logits")]
    assert [row.place for row in logit_rows] == ["logits liver", "logits spleen"]
    assert all(row.correlation > 0.9999 for row in logit_rows)


@pytest.mark.host
def test_networks_that_answer_on_different_grids_are_not_compared():
    pytest.importorskip("nnunetv2")
    source, network = source_of(spec(heads=("liver",)))
    own = spec(heads=("liver",))
    target, _, heads = start_target(source, own, {}, seed=0)

    class Coarse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.inner = target.encoder, target.decoder

        def decoder(self, features):
            answer = self.inner(features)
            answer = answer[0] if isinstance(answer, list) else answer
            return answer[..., ::2, ::2, ::2]

    check = forward_check(network, Coarse(), torch.randn(1, 1, 16, 16, 16), heads)
    assert check.voxels == ()
    assert "different grids, [16, 16, 16] and [8, 8, 8]" in check.why_not
    assert "different grids" in as_table(check)
    assert check.rows[-1].correlation > 0.5


def test_the_patch_lies_around_the_most_deeply_nested_structure_that_some_case_has(tmp_path):
    blosc2 = pytest.importorskip("blosc2")
    heads = Heads(("liver", "liver_tumor", "spleen"), (BG, "liver", "liver_tumor", "heart"))
    labels = {"background": 0, "Liver": 1, "liver_tumour": 2, "heart": 3}
    names = {"Liver": "liver", "liver_tumour": "liver_tumor"}
    wanted = wanted_labels(heads, {"labels": labels}, names)
    assert wanted == [("liver_tumor", (2,)), ("liver", (1,))]
    regions = {"background": 0, "liver": [1, 2], "liver_tumor": [2]}
    found = wanted_labels(replace(heads, target=("liver", "liver_tumor")), {"labels": regions}, {})
    assert found == [("liver_tumor", (2,)), ("liver", (1, 2))]
    for case, voxel, value in (("a", (3, 3, 3), 1), ("b", (20, 5, 38), 2), ("c", (9, 9, 9), 2)):
        image, seg = np.zeros((1, 24, 40, 40), np.float32), np.zeros((1, 24, 40, 40), np.int16)
        seg[0][voxel], image[0][voxel] = value, 7
        if case == "a":
            seg[0, 3, 3, [14, 30]], image[0, 3, 3, 14] = value, 7
        blosc2.asarray(image, urlpath=str(tmp_path / f"{case}.b2nd"))
        blosc2.asarray(seg, urlpath=str(tmp_path / f"{case}_seg.b2nd"))
    patch, which = real_patch(tmp_path, [16, 48, 16], 1, wanted)
    assert which == "around liver_tumor in b"
    assert patch.shape == (1, 1, 16, 48, 16)
    assert patch.max() == 7
    assert patch[0, 0, 12, 4 + 5, 14] == 7, "inside the case where it is large enough, else padded"
    patch, which = real_patch(tmp_path, [16, 16], 1, wanted)
    assert (which, patch.max()) == ("around liver_tumor in b", 7)
    assert real_patch(tmp_path, [16, 16, 16], 1, [("heart", (3,))])[1] == "the middle of a"
    patch, which = real_patch(tmp_path, [16, 16, 16], 1, wanted[1:])
    assert which == "around liver in a"
    assert patch[0, 0, 3, 3, 8] == 7, "centred on the voxel nearest to the structure's middle"
    assert "noise" in real_patch(tmp_path, [16, 16, 16], 2, wanted)[1]
