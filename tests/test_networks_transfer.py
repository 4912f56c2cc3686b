"""Released weights in their own networks: every backbone parameter, and a word on the rest."""

import json
from dataclasses import replace

import checkpoint_files as files
import numpy as np
import pytest
import torch
from fingerprints import tiny, write_set
from networks import source_of
from support import Workspace
from test_networks import FIXED, SMALL, randomised, spec
from test_transfer_receipt import NEW, OLD, normalised, scaled

from atlas_nnunet.errors import TransferError
from atlas_nnunet.networks.parts import group_of, reads_image
from atlas_nnunet.networks.suite import BEFORE, NETWORKS, SINCE
from atlas_nnunet.transfer.checkpoints import read_checkpoint, refuse_other_network
from atlas_nnunet.transfer.intensities import affine
from atlas_nnunet.transfer.pair import takes_a_shift
from atlas_nnunet.transfer.rules import Decision
from atlas_nnunet.transfer.starting import start_target

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")
pytest.importorskip("monai")

# Format -> network, and the groups that its files hold.
BACKBONE, WHOLE = ("encoder", "decoder"), ("encoder", "decoder", "head")
RELEASED = {
    "models_genesis": ("unet", WHOLE), "universal_unet": ("unet", BACKBONE),
    "unet3d_backbone": ("unet", BACKBONE), "segresnet": ("segresnet", WHOLE),
    "universal_swin_unetr": ("swinunetr", BACKBONE), "voco_swin_unetr": ("swinunetr", ("encoder",)),
    "swin_unetr": ("swinunetr", WHOLE), "stunet": ("stunet", WHOLE),
}  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("released"))
    write_set(found, 501, *tiny())
    write_set(found, 502, *tiny(), channels=("CT", "PET"))
    return found


def released(space, name, values=torch.randn):
    """A file of a format, with weights that are not all alike."""
    torch.manual_seed(3)
    made = files.FILES[name][0]()
    own = {k: values(v.shape) if v.is_floating_point() else v for k, v in made.state.items()}
    path = space.folder / f"{name}.pth"
    torch.save(made.wrap(own), path)
    return path


def transferred(space, number, plans="AtlasTransferPlans"):
    folder = space.folder / f"nnUNet_preprocessed/Dataset{number}_Set/atlas_nnunet"
    report = json.loads((folder / f"{plans}__3d_fullres.transfer_report.json").read_text())
    stored = torch.load(folder / f"{plans}__3d_fullres.transferred.pth", weights_only=True)
    return report, stored["network_weights"]


@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_load_whole(space, name, capsys):
    """Plan and transfer without a word on the network: the file says which it is."""
    network, groups = RELEASED[name]
    path = released(space, name)
    source = read_checkpoint(path)
    words = ("--preset", "unet", "-pl", "AtlasTransferPlanner")
    assert space.run("plan", 501, *words, "--from", path) == 0
    forecast = capsys.readouterr().out
    folder = space.folder / "nnUNet_preprocessed/Dataset501_Set"
    planned = json.loads((folder / "AtlasTransferPlans.json").read_text())
    architecture = planned["configurations"]["3d_fullres"]["architecture"]
    planned, own = architecture["arch_kwargs"], dict(source.spec.arch_kwargs)
    if network not in FIXED:
        own["strides"] = planned["strides"]
    assert planned == own, "source and plan say it alike"
    assert space.run("transfer", 501, "--from", path) == 0
    told = capsys.readouterr().out
    report, weights = transferred(space, 501)
    assert report["source"]["class"] == NETWORKS[network].class_name
    body = [Decision(**row) for row in report["rows"]]
    assert {d.group for d in body} == set(WHOLE)
    for decision in body:
        if decision.group in groups and decision.group != "head":
            assert decision.kept == decision.adapted == 0, decision
            assert torch.equal(weights[decision.parameter], source.parameters[decision.source])
        else:
            assert decision.copied == 0, "names of the file's classes are not in it"
    for group in BACKBONE:
        assert report["groups"][group]["copied"] == (group in groups)
        assert report["groups"][group]["kept"] == (group not in groups)
    table = told[told.index("parameters   loaded") :].splitlines()[1:5]
    assert all(row in forecast for row in table), "what plan said is what transfer did"
    levels = [r for r in report["forward"]["rows"] if r["place"].startswith("encoder level")]
    assert len(levels) == NETWORKS[network].halvings(own) + 1
    assert {row["correlation"] for row in levels} == {1.0}
    unused = {group_of(parameter) for parameter in report["unused"]}
    assert unused <= {"head"}
    missing = [d for d in body if d.group not in groups]
    assert {d.rule for d in missing} <= {"new_part"}


def test_another_number_of_image_channels_goes_into_every_layer_on_the_image(space):
    path = released(space, "swin_unetr")
    words = ("--preset", "unet", "-pl", "AtlasTransferPlanner")
    assert space.run("plan", 502, *words, "--from", path) == 0
    assert space.run("transfer", 502, "--from", path) == 0
    report, weights = transferred(space, 502)
    source = read_checkpoint(path).parameters
    adapted = [r["parameter"] for r in report["rows"] if r["adapted"]]
    assert adapted == [n for n in weights if reads_image(n) and weights[n].ndim > 1]
    assert len(adapted) == 3
    for parameter in adapted:
        assert torch.allclose(weights[parameter], source[parameter].repeat(1, 2, 1, 1, 1) / 2)
    assert report["groups"]["encoder"]["kept"] == 0


def test_heads_join_by_the_names_that_a_key_table_gives(space):
    path = released(space, "segresnet")
    names = [f"structure_{i}" for i in range(32)]
    names[4], names[9] = "spleen", "liver"
    table = space.folder / "heads.json"
    table.write_text(json.dumps({"heads": names}))
    words = ("--from", path, "--key-table", table)
    plan = ("plan", 501, "--preset", "unet", "-pl", "AtlasTransferPlanner", "-p", "Named")
    assert space.run(*plan, *words) == 0
    assert space.run("transfer", 501, "-p", "Named", *words) == 0
    report, weights = transferred(space, 501, "Named")
    assert report["heads"] == {"background": None, "liver": "liver", "spleen": "spleen"}
    for part in ("weight", "bias"):
        rows = read_checkpoint(path).parameters[f"conv_final.2.conv.{part}"]
        head = weights[f"conv_final.2.conv.{part}"]
        assert torch.equal(head[1], rows[9]), "sigmoid to softmax: the background is zero"
        assert torch.equal(head[2], rows[4])
        assert not head[0].any()


def test_a_source_goes_into_its_own_network_only(space, capsys):
    path = released(space, "segresnet")
    assert space.run("plan", 501, "--preset", "unet", "-p", "UNet") == 0
    assert space.run("plan", 501, "--preset", "unet", "--network", "unet", "-p", "Other") == 0
    capsys.readouterr()
    for plans in ("UNet", "Other"):
        assert space.run("transfer", 501, "--from", path, "-p", plans) == 2
        said = capsys.readouterr().err
        assert "goes into that network only" in said
        assert f"-pl AtlasTransferPlanner --from {path}" in said


def test_of_other_widths_little_fits_and_the_floor_says_so(space, capsys):
    path = released(space, "segresnet")
    assert space.run("plan", 501, "--preset", "unet", "--network", "segresnet", "-p", "W") == 0
    capsys.readouterr()
    assert space.run("transfer", 501, "--from", path, "-p", "W") == 2
    said = capsys.readouterr().err
    assert "below the floor" in said
    assert "keep_init" in said


def test_two_swin_unetrs_of_one_shape_and_two_functions_are_kept_apart(space):
    source = read_checkpoint(released(space, "swin_unetr"))
    assert source.spec.arch_kwargs["merging"] == BEFORE
    other = {**source.spec.arch_kwargs, "merging": SINCE}
    refuse_other_network(source, source.spec, "c.pth")
    with pytest.raises(TransferError, match=r"monai_before_1\.5.*goes into that network only"):
        refuse_other_network(source, replace(source.spec, arch_kwargs=other), "c.pth")


ON_IMAGE = {
    "unet": ["down_tr64.ops.0.conv1"],
    "stunet": ["conv_blocks_context.0.0.conv1", "conv_blocks_context.0.0.conv3"],
}


@pytest.mark.parametrize("name", ON_IMAGE)
def test_every_layer_on_the_image_is_folded(name):
    """STU-Net's shortcut has no norm behind it: there the difference would stay."""
    own = spec(name)
    source, network = source_of(own)
    assert takes_a_shift(source.parameters)
    folds = affine(scaled(OLD), scaled(NEW))
    target, _, _ = start_target(source, own, {}, seed=0, folds=folds)
    hu = np.random.default_rng(0).uniform(-500, 500, (1, 1, 12, 12, 12))
    for layer in ON_IMAGE[name]:
        with torch.no_grad():
            before, after = (
                net.get_submodule(layer)(normalised(hu, numbers))[..., 1:-1, 1:-1, 1:-1]
                for net, numbers in ((network, OLD), (target, NEW))
            )
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_checkpoint_gives_every_logit_again(name, tmp_path):
    """nnU-Net's format, plan inside: the network is known by its plan, and so is every head row."""
    from networks import DATASET, plans

    from atlas_nnunet.transfer.starting import write_checkpoint

    own = spec(name, heads=("liver", "kidney_left", "kidney_right"))
    network = randomised(own.build(deep_supervision=False)).eval()
    made = plans(own)
    write_checkpoint(tmp_path / "c.pth", network, made, "3d_fullres", DATASET, "0" * 64)
    source = read_checkpoint(tmp_path / "c.pth")
    assert source.spec == own
    assert not source.absent
    names = {n: n for n in own.heads}
    target, decisions, _ = start_target(source, own, names, seed=1)
    assert sum(d.kept + d.adapted for d in decisions) == 0
    target.decoder.deep_supervision = False
    patch = torch.randn(1, 1, 32, 64, 32)
    with torch.no_grad():
        assert torch.equal(target.eval()(patch), network(patch))
    assert set(SMALL[name]) < set(source.spec.arch_kwargs)
