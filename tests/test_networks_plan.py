"""Plans for the suite's networks: patch, memory and batch by rule; and what is refused."""

import json
import math

import pytest
import torch
from fingerprints import abdominal, prostate, tiny, write_set
from support import Workspace
from test_networks import FIXED, SMALL

from atlas_nnunet.host import NetworkSpec, network_spec, resolve_configuration
from atlas_nnunet.networks.suite import NETWORKS
from atlas_nnunet.plan.presets import PRESETS

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")
pytest.importorskip("monai")

SETS = {701: abdominal(), 702: prostate(), 703: tiny()}
BUDGET = PRESETS["unet"].reference_3d  # of 8 GB, two patches


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("suite"))
    for number, fingerprint in SETS.items():
        write_set(found, number, *fingerprint)
    write_set(found, 705, [[1.0, 1.0, 1.0]] * 5, [[28, 30, 26]] * 5)
    write_set(found, 704, [[1.0, 0.5, 0.5]] * 5, [[1, 256, 256]] * 5)
    return found


def read(space, number, name="AtlasPretrainPlans"):
    folder = space.folder / f"nnUNet_preprocessed/Dataset{number}_Set"
    return json.loads((folder / f"{name}.json").read_text()), json.loads(
        (space.folder / f"nnUNet_raw/Dataset{number}_Set/dataset.json").read_text()
    )


def plan(space, number, *words, name="AtlasPretrainPlans"):
    assert space.run("plan", number, "-p", name, *words) == 0
    return read(space, number, name)


def needs(config, plans, dataset_json, name, patch):
    network = network_spec(plans, name, dataset_json).build_empty(deep_supervision=False)
    return network.compute_conv_feature_map_size(patch)


def ends(architecture):
    """Strides, and all the rest."""
    kwargs = dict(architecture["arch_kwargs"])
    return kwargs.pop("strides"), architecture["network_class_name"], kwargs


@pytest.fixture(scope="module")
def native(space):
    """Plans without --network, of as much memory."""
    words = ("--preset", "cpu", "--memory-gb", 12)
    return {number: plan(space, number, *words, name="Native")[0] for number in SETS}


@pytest.mark.parametrize(
    ("number", "name"), [(701, "unet"), *((n, name) for n in (702, 703) for name in FIXED)]
)
def test_patch_and_batch_follow_from_memory(space, native, number, name, capsys):
    """Multiples of what is halved, two voxels at the bottom, within the memory, and no smaller."""
    words = ("--preset", "cpu", "--memory-gb", 12, "--explain")
    plans, dataset_json = plan(space, number, "--network", name, *words)
    told = capsys.readouterr().out
    assert plans["atlas_nnunet"]["network"] == name
    step, allowed = NETWORKS[name].divisor(NETWORKS[name].published), BUDGET * 12 / 8
    seen = 0
    for key, config in plans["configurations"].items():
        if "patch_size" not in config or len(config["patch_size"]) == 2:
            continue
        seen += 1
        patch, shape = config["patch_size"], config["median_image_size_in_voxels"]
        assert config["architecture"]["network_class_name"] == NETWORKS[name].class_name
        assert config["architecture"]["arch_kwargs"] == NETWORKS[name].complete()
        assert not any(n % step for n in patch)
        assert max(patch) >= 2 * step
        need = needs(config, plans, dataset_json, key, patch)
        assert need <= allowed
        larger = [
            [n + step * (i == axis) for i, n in enumerate(patch)]
            for axis in range(3) if patch[axis] < shape[axis]
        ]  # fmt: skip
        if larger:  # it was cut: what it was before did not fit
            assert max(needs(config, plans, dataset_json, key, p) for p in larger) > allowed
        by_memory = round(allowed / need * 2)
        cases = len(dataset_json["dataset"])
        by_data = round(math.prod(shape) * cases / math.prod(patch))
        assert config["batch_size"] == pytest.approx(max(min(by_memory, by_data), 2), abs=1)
        coarsest = " x ".join(str(n // step) for n in patch)
        assert f"multiples of {step} voxels: the coarsest feature map has {coarsest}." in told
        kind = NETWORKS[name].class_name.rsplit(".", 1)[-1]
        assert f"network: {kind}, " in told
        assert "--network was given" in told
    assert seen
    full, own = (p["configurations"]["3d_fullres"] for p in (plans, native[number]))
    for same in ("spacing", "median_image_size_in_voxels", "normalization_schemes"):
        assert full[same] == own[same], same
    two, other = (dict(p["configurations"]["2d"]) for p in (plans, native[number]))
    two.pop("data_identifier"), other.pop("data_identifier")
    assert two == other, "slices are planned as without --network"
    assert f"planned natively: {name} is a 3-D network" in told


@pytest.mark.parametrize("number", SETS)
def test_stunet_is_planned_by_nnunets_own_search(space, native, number, capsys, monkeypatch):
    """Patch, strides and batch are the stock planner's, for a network that needs as much."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    own, gb = NETWORKS["stunet"], 12
    words = ("--preset", "resenc_l", "--memory-gb", gb, "--explain")
    plans, dataset_json = plan(space, number, "--network", "stunet", *words)
    told = capsys.readouterr().out

    def stunets(patch, n_in, n_out, class_name, arch_kwargs, imports):
        kwargs = own.complete(planned=arch_kwargs["strides"])
        spec = NetworkSpec(own.class_name, kwargs, (), ("a",) * n_in, ("b",) * n_out)
        return spec.build_empty(deep_supervision=False).compute_conv_feature_map_size(patch)

    for variable, value in space.variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(ExperimentPlanner, "static_estimate_VRAM_usage", staticmethod(stunets))
    stock = ExperimentPlanner(number, gpu_memory_target_in_gb=gb)
    stock.max_dataset_covered = PRESETS["resenc_l"].max_dataset_covered
    for key, config in plans["configurations"].items():
        if len(config.get("patch_size", ())) != 3:
            continue
        cases = len(dataset_json["dataset"])
        shape, spacing = config["median_image_size_in_voxels"], config["spacing"]
        n_voxels = math.prod(shape) * cases
        theirs = stock.get_plans_for_configuration(spacing, shape, "x", n_voxels, {})
        assert config["patch_size"] == list(theirs["patch_size"])
        planned = theirs["architecture"]["arch_kwargs"]["strides"]
        architecture = config["architecture"]
        assert architecture["network_class_name"] == own.class_name
        assert architecture["arch_kwargs"] == own.complete(planned=planned)
        assert config["batch_size"] == pytest.approx(theirs["batch_size"], abs=1)
        assert needs(config, plans, dataset_json, key, config["patch_size"]) <= BUDGET * gb / 8
        more = len(planned) - 6
        assert (f"nnU-Net's method has {abs(more)} " in told) == bool(more)
    full, known = (p["configurations"]["3d_fullres"] for p in (plans, native[number]))
    assert full["spacing"] == known["spacing"]
    assert "kernels: 3, along every axis." in told
    assert "planned natively: stunet is a 3-D network" in told


def test_a_cascades_second_stage_reads_the_first_ones_labels(space):
    plans, dataset_json = plan(space, 701, "--network", "unet", "--memory-gb", 8)
    assert "previous_stage" in resolve_configuration(plans, "3d_cascade_fullres")
    spec = network_spec(plans, "3d_cascade_fullres", dataset_json)
    first = dict(spec.build_empty().named_parameters())["down_tr64.ops.0.conv1.weight"]
    assert first.shape[1] == 1 + 2


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (703, ("--network", "swinunetr", "--memory-gb", 0.1),
         ("swinunetr needs about 0.86 GB", "32 x 64 x 32", "--memory-gb 0.87")),
        (704, ("--network", "unet"), ("flat", "leave out --network")),
        (701, ("--network", "unet", "--for", 702), ("--for", "one depth")),
        (701, ("--network", "unet", "-pl", "ExperimentPlanner"), ("takes no --network",)),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_told(space, capsys, number, words, said):
    assert space.run("plan", number, *words) == 2
    told = capsys.readouterr().err
    for part in said:
        assert part in told


def test_the_coarsest_feature_map_has_two_voxels(space, capsys):
    """Of images of one step's size, norms at the bottom would have one voxel to work on."""
    plans, _ = plan(space, 705, "--network", "swinunetr", "--explain")
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [32, 64, 32]
    assert "and further, for the coarsest feature map must have two voxels" in (
        capsys.readouterr().out
    )
    plans, _ = plan(space, 705, "--network", "unet")
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [32, 32, 32]


def test_the_memory_that_is_asked_for_is_enough(space):
    config = plan(space, 703, "--network", "swinunetr", "--memory-gb", 0.87)[0]["configurations"]
    assert sorted(config["3d_fullres"]["patch_size"]) == [32, 32, 64]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_target_takes_the_network_of_its_source(space, name, capsys, monkeypatch):
    """From a plan: class and arguments; spacing and patch are its own, or inherited."""
    small = {**NETWORKS[name].published, **SMALL[name]}
    made, _ = plan(space, 702, "--network", name, name=f"Source_{name}")
    architecture = made["configurations"]["3d_fullres"]["architecture"]
    planned = architecture["arch_kwargs"]["strides"]
    architecture["arch_kwargs"] = NETWORKS[name].complete(small, planned)
    folder = space.folder / "nnUNet_preprocessed/Dataset702_Set"
    (folder / f"Small_{name}.json").write_text(json.dumps(made))
    words = ("-pl", "AtlasTransferPlanner", "--from", folder / f"Small_{name}.json")
    target, _ = plan(space, 703, *words, "--preset", "unet", "--explain", name="Target")
    told = capsys.readouterr().out
    own = target["configurations"]["3d_fullres"]
    if name in FIXED:
        assert own["architecture"] == architecture
    else:
        (theirs, *same), (strides, *rest) = ends(architecture), ends(own["architecture"])
        assert rest == same
        assert strides != theirs, "they are the target's"
    assert own["spacing"] != made["configurations"]["3d_fullres"]["spacing"]
    assert "the target's spacing, patch and batch, on the source's network" in told
    assert "class and arguments are the source's" in told
    table = told[told.index("3d_fullres, parameters from the source") :]
    rows = {line.split()[0]: line.split()[2] for line in table.splitlines()[2:6]}
    assert rows == dict.fromkeys(("encoder", "decoder", "head", "all"), "100.0%")
    inherited, _ = plan(space, 703, *words, "--mode", "inherit", name="Inherited")
    found = inherited["configurations"]["3d_fullres"]
    source = made["configurations"]["3d_fullres"]
    assert [found[k] for k in ("spacing", "patch_size", "architecture")] == [
        source[k] for k in ("spacing", "patch_size", "architecture")
    ]
    assert "2d" not in inherited["configurations"]
    assert space.run("plan", 703, *words, "--mode", "native") == 2
    assert "weights go into that network only" in capsys.readouterr().err
    other = next(n for n in NETWORKS if n != name)
    assert space.run("plan", 703, *words, "--network", other) == 2
    assert f"which goes into no {other}" in capsys.readouterr().err
    assert space.run("plan", 703, *words, "--network", name, "-p", "Same") == 0


def test_nnunets_u_net_goes_into_no_network_of_the_suite(space, capsys):
    plan(space, 703, "--preset", "unet", name="UNet")
    source = space.folder / "nnUNet_preprocessed/Dataset703_Set/UNet.json"
    words = ("-pl", "AtlasTransferPlanner", "--from", source, "--network", "segresnet")
    assert space.run("plan", 702, *words) == 2
    assert "the source is a PlainConvUNet, which goes into no segresnet" in capsys.readouterr().err


def test_the_published_patch_is_a_patch_of_these_plans():
    """96^3, at which the suite was trained, is a multiple of what every network halves."""
    for own in NETWORKS.values():
        assert 96 % own.divisor(own.published) == 0
    assert torch.Size([96] * 3).numel() == 96**3
