"""Formats of checkpoints: each is recognised, every key is accounted for, or the reading stops."""

import json
import sys
from collections import OrderedDict
from dataclasses import replace
from types import ModuleType

import checkpoint_files as files
import pytest
import torch
from test_transfer import DATASET, nnunet_checkpoint, plans, source_of, spec

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.checkpoints import read_checkpoint, refuse_other_network
from atlas_nnunet.transfer.receipt import normalisation
from atlas_nnunet.transfer.shares import Shares, forecast
from atlas_nnunet.transfer.sources import layouts, unets
from atlas_nnunet.transfer.sources.formats import FORMATS
from atlas_nnunet.transfer.sources.stored import stripped
from atlas_nnunet.transfer.starting import start_target

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")
pytest.importorskip("monai")

CASES = [(name, make) for name, makes in files.FILES.items() for make in makes]
IDS = [f"{name}-{i}" for name, makes in files.FILES.items() for i in range(len(makes))]
each_format = pytest.mark.parametrize(("name", "make"), CASES, ids=IDS)


def read(path, content):
    torch.save(content, path)
    return read_checkpoint(path)


def test_every_row_of_the_table_has_a_file_here():
    assert [row.name for row in FORMATS] == list(files.FILES)
    assert len(CASES) > len(FORMATS)


@each_format
def test_a_file_is_recognised_and_every_key_accounted_for(tmp_path, name, make):
    made = make()
    content = made.wrap(made.state)
    source = read(tmp_path / "c.pth", content)
    assert source.format == name
    assert set(source.parameters) == made.names
    assert set(source.absent) == set(source.spec.absent) == made.absent
    assert all([*source.dropped.values(), *source.absent.values()]), "a reason for each"
    entries = 0 if content is made.state else len(content) - 1
    assert len(source.parameters) + len(source.dropped) == len(made.state) + entries
    # What a receipt asks of the plan is there, whether or not the file has one.
    target = spec()
    told = normalisation(source, plans(target), "3d_fullres")
    published = next(row.intensities for row in FORMATS if row.name == name)
    if published:
        assert told["source"]["schemes"] == [published]
    assert source.plans.get("dataset_name") is None or source.plans["plans_name"]


@each_format
def test_an_unknown_key_stops(tmp_path, name, make):
    made = make()
    prefix = made.victim.split("conv_blocks")[0].split("encoder.")[0].split("swin")[0]
    prefix = prefix.split("down_")[0]
    state = {**made.state, f"{prefix}surprise.weight": torch.zeros(2)}
    with pytest.raises(TransferError, match=r"1 unknown key.*surprise\.weight") as caught:
        read(tmp_path / "c.pth", made.wrap(state))
    assert "key table" in caught.value.do


@each_format
def test_a_missing_parameter_stops(tmp_path, name, make):
    made = make()
    state = {k: v for k, v in made.state.items() if k != made.victim}
    with pytest.raises(TransferError, match="missing, first"):
        read(tmp_path / "c.pth", made.wrap(state))


@each_format
def test_another_shape_stops(tmp_path, name, make):
    made = make()
    state = {**made.state, made.victim: made.state[made.victim][:1]}
    with pytest.raises(TransferError, match="another shape, first"):
        read(tmp_path / "c.pth", made.wrap(state))


@pytest.mark.parametrize("residual", [False, True])
def test_a_plan_from_before_2_4_is_the_network_it_was(tmp_path, residual):
    own = spec(3, residual=residual)
    made = files.nnunet_old(residual)
    source = read(tmp_path / "c.pth", made.wrap(made.state))
    assert source.spec == own


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    "shape", [{}, {"kernel": 1, "stride": 1}, {"n": 5, "channels": ("a", "b")}]
)
def test_a_network_is_told_by_its_shapes(tmp_path, residual, shape):
    own = spec(residual=residual, **shape)
    source = read(tmp_path / "c.pth", files.state_of(own.build_empty()))
    assert source.spec.class_name == own.class_name
    assert source.spec.arch_kwargs == own.arch_kwargs
    assert len(source.spec.channels) == len(own.channels)
    assert len(source.spec.heads) == len(own.heads)


def test_a_batch_norm_and_no_bias_are_told_by_shapes(tmp_path):
    own = spec(3)
    kwargs = {**own.arch_kwargs, "conv_bias": False,
              "norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}  # fmt: skip
    own = replace(own, arch_kwargs=kwargs)
    source = read(tmp_path / "c.pth", files.state_of(own.build_empty()))
    assert source.spec.arch_kwargs == kwargs
    assert "encoder.stages.0.0.convs.0.norm.running_mean" in source.dropped


def test_strides_of_an_encoder_alone_are_not_guessed(tmp_path):
    state = files.state_of(spec(3).build_empty())
    state = {k: v for k, v in state.items() if k.startswith("encoder.")}
    with pytest.raises(TransferError, match="strides stand nowhere"):
        read(tmp_path / "c.pth", state)


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, OrderedDict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3},
     lambda s: {"net": s}, lambda s: {"network_weights": s}, lambda s: {"student": s, "teacher": s},
     lambda s: {"model_state_dict": files.prefixed("module.", s)},
     lambda s: files.prefixed("_orig_mod.", s), lambda s: files.prefixed("module._orig_mod.", s),
     lambda s: {"state_dict": files.prefixed("model.network.", s)}],
)  # fmt: skip
def test_wrappers_and_prefixes_change_no_weight(tmp_path, wrap):
    own = spec(3)
    _, network = source_of(own)
    source = read(tmp_path / "c.pth", wrap(network.state_dict()))
    for name, parameter in network.named_parameters():
        assert torch.equal(source.parameters[name], parameter)


@pytest.mark.parametrize(
    ("content", "words"),
    [({"state_dict": {"a": torch.zeros(1)}, "net": {"a": torch.zeros(1)}}, "two state dicts"),
     ({"state_dict": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, "unknown tensors.*ema"),
     ({"state_dict": {"a": torch.zeros(1)}}, "of no known format"),
     ({"net": {}}, "holds a tensor"), ([torch.zeros(1)], "one list"),
     (torch.zeros(1), "one Tensor"),
     ({"convInit.conv.weight": torch.zeros(8, 1, 3, 3, 3),
       "conv_blocks_context.0.0.conv3.weight": torch.zeros(1)}, "all claim it")],
)  # fmt: skip
def test_a_file_that_is_not_understood_stops_in_words(tmp_path, content, words):
    with pytest.raises(TransferError, match=words) as caught:
        read(tmp_path / "c.pth", content)
    assert caught.value.do


@pytest.mark.parametrize(
    ("field", "path"),
    [("class", "foreign_module.Network"), ("conv_op", "foreign_module.Conv"),
     ("class", "dynamic_network_architectures.architectures.unet.torch.hub.load"),
     ("class", "builtins.print"), ("nonlin", "torch.nn.functional.relu"), ("norm_op", ["x"])],
)  # fmt: skip
@pytest.mark.parametrize("by", ["nnunet", "nnssl"])
def test_a_plan_inside_calls_nothing_but_network_modules(tmp_path, monkeypatch, by, field, path):
    """The host imports and calls what a plan names: a way round `weights_only`."""
    touched = tmp_path / "touched"
    (tmp_path / "foreign_module.py").write_text(f"open({str(touched)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    own = spec(3, residual=True)
    changed = replace(own, class_name=path) if field == "class" else replace(
        own, arch_kwargs={**own.arch_kwargs, field: path})  # fmt: skip
    content = nnunet_checkpoint(own)
    content["init_args"]["plans"] = plans(changed)
    if by == "nnssl":
        if field == "class":
            return  # a name of nnssl's own list
        content["nnssl_adaptation_plan"] = files.adaptation_plan(changed)
    with pytest.raises(TransferError, match="it is not called"):
        read(tmp_path / "c.pth", content)
    assert not touched.exists()


def test_a_prefix_is_stripped_where_all_keys_have_it_and_no_two_become_one():
    one = torch.zeros(1)
    assert set(stripped({"module.a": one, "module.b": one})) == {"a", "b"}
    for keys in ({"module.a", "a"}, {"module.a", "b"}, {"backbone.a", "controller.a"}):
        assert set(stripped(dict.fromkeys(keys, one))) == keys


def test_half_a_decoder_is_damage_not_an_encoder(tmp_path):
    made = files.nnssl(True)
    whole = files.nnssl(False).state
    some = {k: v for k, v in whole.items() if k.startswith("decoder.stages.0.")}
    with pytest.raises(TransferError, match=r"missing, first: \['decoder\."):
        read(tmp_path / "c.pth", made.wrap({**made.state, **some}))


def test_nnssl_names_its_standard_network_without_arguments(tmp_path):
    network = spec(6, residual=True, heads=("x",))
    network = replace(network, arch_kwargs=unets.RES_ENC_L)
    content = {
        "network_weights": files.state_of(network.build_empty()),
        "nnssl_adaptation_plan": files.adaptation_plan(network, "ResEncL", preset=True),
    }
    source = read(tmp_path / "c.pth", content)
    assert source.spec.arch_kwargs == unets.RES_ENC_L
    assert source.plans["dataset_name"] == "Dataset745_OpenMind"
    content["nnssl_adaptation_plan"] = files.adaptation_plan(network, "PrimusM", preset=True)
    with pytest.raises(TransferError, match="PrimusM, which is no U-Net"):
        read(tmp_path / "c.pth", content)


def test_nnssls_own_objects_are_read_past_without_nnssl(tmp_path, monkeypatch):
    """A genuine nnssl checkpoint keeps its Plan as an object: nnssl itself is never imported."""
    name = "nnssl.experiment_planning.experiment_planners.plan"
    module = ModuleType(name)
    plan = type("Plan", (), {"__module__": name, "__qualname__": "Plan"})
    module.Plan = plan
    made = files.nnssl(True)
    content = made.wrap(made.state)
    content["init_args"]["plan"] = plan()
    content["init_args"]["plan"].spacing = [1, 1, 1]
    with monkeypatch.context() as patch:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            dotted = ".".join(parts[:i])
            patch.setitem(sys.modules, dotted, module if dotted == name else ModuleType(dotted))
        torch.save(content, tmp_path / "c.pth")
    assert "nnssl" not in sys.modules
    assert read_checkpoint(tmp_path / "c.pth").format == "nnssl"
    assert "nnssl" not in sys.modules


def test_the_floor_counts_what_an_encoder_alone_brings(tmp_path):
    made = files.nnssl(True)
    source = read(tmp_path / "c.pth", made.wrap(made.state))
    own = spec(3, residual=True)
    target, decisions, _ = start_target(source, own, {}, seed=0)
    shares = Shares.of(decisions)
    sizes = {n: p.numel() for n, p in target.named_parameters() if ".seg_layers." not in n}
    encoder = sum(n for name, n in sizes.items() if name.startswith("encoder."))
    assert shares.body_from_source == pytest.approx(encoder / sum(sizes.values()))
    assert shares.fractions("decoder")["kept"] == 1
    assert forecast(source.spec, own, {}) == shares


def test_transfer_takes_an_encoder_and_says_what_it_left(workspace, capsys):
    made = files.nnssl(True)
    path = workspace.folder / "encoder.pth"
    torch.save(made.wrap(made.state), path)
    folder = workspace.folder / "nnUNet_preprocessed/Dataset507_X"
    folder.mkdir(parents=True, exist_ok=True)
    own = spec(3, residual=True)
    own_plans = {**plans(own, "AtlasTransferPlans"), "dataset_name": "Dataset507_X"}
    (folder / "AtlasTransferPlans.json").write_text(json.dumps(own_plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    words = ("transfer", "Dataset507_X", "--from", path)
    assert workspace.run(*words, "--floor", 0.99) == 2
    assert "below the floor" in capsys.readouterr().err
    assert workspace.run(*words, "--floor", 0.1) == 0
    out = capsys.readouterr().out
    assert "format nnssl" in out
    assert "the file holds an encoder only" in out
    assert "projection of a contrastive method" in out
    report = json.loads(next(workspace.folder.rglob("*transfer_report.json")).read_text())
    assert report["groups"]["encoder"]["copied"] == 1
    assert report["groups"]["decoder"]["kept"] == 1


def test_another_network_is_refused_and_the_same_is_not(tmp_path):
    made = files.segresnet()
    source = read(tmp_path / "c.pth", made.wrap(made.state))
    with pytest.raises(TransferError, match=r"SegResNet .*goes into that network only"):
        refuse_other_network(source, spec(), "c.pth")
    refuse_other_network(source, source.spec, "c.pth")
    ours = read(tmp_path / "d.pth", nnunet_checkpoint(spec(3)))
    refuse_other_network(ours, spec(residual=True), "d.pth")


def test_stunet_has_the_strides_of_the_plan_in_its_file(tmp_path):
    """nnU-Net v2's file has the plan; of v1's the plan lies elsewhere, and all axes are halved."""
    halved = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    first, second = (files.stunet(version) for version in (1, 2))
    flat = second.wrap(second.state)
    arch_of(flat["init_args"])["strides"] = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    for content, expected in (
        (first.wrap(first.state), halved), (flat, [[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
    ):  # fmt: skip
        source = read(tmp_path / "c.pth", content)
        assert source.spec.arch_kwargs == {
            "dims": [4, 8, 12], "depth": [2, 2, 2], "strides": expected,
        }  # fmt: skip
        assert {n: p.shape for n, p in source.spec.build_empty().named_parameters()} == {
            n: p.shape for n, p in source.parameters.items()
        }


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (lambda init: init.pop("plans"), "no plans among init_args"),
        (lambda init: init.pop("configuration"), "no configuration among init_args"),
        (lambda init: arch_of(init).pop("strides"), "no strides of three axes"),
        (lambda init: arch_of(init).update(strides=[[1, 1], [2, 2], [2, 2]]), "of three axes"),
    ],
)
def test_a_stunet_whose_plan_is_damaged_is_refused_in_words(tmp_path, lose, said):
    made = files.stunet(2)
    content = made.wrap(made.state)
    lose(content["init_args"])
    with pytest.raises(TransferError, match=said):
        read(tmp_path / "c.pth", content)


def arch_of(init):
    return init["plans"]["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]


SEGRESNET = {"init_filters": 16, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]}
SWIN = {"depths": [2] * 4, "num_heads": [3, 6, 12, 24]}


# Millions of parameters as published: SuPreM 76e1a64's table of backbones (Swin UNETR with 14
# heads, MONAI's), STU-Net's paper (105 classes).
@pytest.mark.parametrize(
    ("shapes", "millions"),
    [(layouts.unet3d(1, 1), 19.08), (layouts.segresnet(1, 25, **SEGRESNET), 4.70),
     (layouts.swin_unetr(1, 14, feature_size=48, **SWIN), 62.19),
     (layouts.stunet(1, 105, dims=[32, 64, 128, 256, 512, 512], depth=[1] * 6), 58.26),
     (layouts.stunet(1, 105, dims=[64, 128, 256, 512, 1024, 1024], depth=[2] * 6), 440.30),
     (layouts.stunet(1, 105, dims=[96, 192, 384, 768, 1536, 1536], depth=[3] * 6), 1457.33)],
)  # fmt: skip
def test_layouts_have_as_many_parameters_as_their_papers_say(shapes, millions):
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("own", [files.monai_segresnet, files.monai_swin_unetr])
def test_layouts_are_monais_networks(tmp_path, own):
    network = own()
    made = read(tmp_path / "c.pth", files.state_of(network)).spec
    found = layouts.layout(made.class_name, len(made.channels), len(made.heads), made.arch_kwargs)
    assert found == {n: tuple(p.shape) for n, p in network.named_parameters()}
    assert made.class_name == f"atlas_nnunet.networks.{type(network).__qualname__}"
