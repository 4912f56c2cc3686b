"""Plans for transfer: what each mode holds to the source, in every configuration."""

import json

import numpy as np
import pytest
import torch
from fingerprints import abdominal, isotropic, prostate, sagittal, tiny, write_set
from support import Workspace

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import network_spec, resolve_configuration

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

HELD = "AtlasTransferPlanner"
PLANS = {"aligned": "AtlasTransferPlans", "native": "AtlasTransferNativePlans",
         "inherit": "AtlasTransferInheritPlans"}  # fmt: skip
TARGETS = {  # number -> fingerprint, channels
    501: (prostate(), ("T2", "ADC")),
    502: (isotropic(), ("CT",)),
    503: (abdominal(9), ("MRI",)),
    504: (tiny(), ("MRI",)),
    505: (sagittal(), ("CT", "PET")),
}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """Targets of all kinds, and two sources: a plain one of other widths, and a sagittal one."""
    found = Workspace(tmp_path_factory.mktemp("modes"))
    write_set(found, 701, *abdominal())
    write_set(found, 702, *sagittal())
    for number, (fingerprint, channels) in TARGETS.items():
        write_set(found, number, *fingerprint, channels, cropped=0.5)
    for number in (701, 702):
        assert found.run("plan", number, "--preset", "cpu", "--memory-gb", 1) == 0
    return found


def folder(space, number):
    return space.folder / f"nnUNet_preprocessed/Dataset{number}_Set"


def read(space, number, name):
    return json.loads((folder(space, number) / f"{name}.json").read_text())


def source(space, number=701):
    return folder(space, number) / "AtlasPretrainPlans.json"


def plan(space, number, mode, *words, name=None, of=701):
    """The plan of a mode; small memory, so that searches are short."""
    options = ["--mode", mode, *(("-p", name) if name else ()), *words]
    options += [] if "--preset" in words else ["--preset", "cpu"]
    assert space.run("plan", number, "-pl", HELD, "--from", source(space, of), *options) == 0
    return read(space, number, name or PLANS[mode])


@pytest.fixture(scope="module")
def stock(space):
    """What stock nnU-Net plans: (number, planner) -> plans; each is planned once."""
    from atlas_nnunet.host import find_planner

    found = {}

    def plans(number, planner="ExperimentPlanner"):
        if (number, planner) not in found:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in space.variables.items():
                    patch.setenv(name, value)
                patch.setenv("nnUNet_n_proc_DA", "1")
                made = find_planner(planner)
                # The same number without the memory: tests/test_stages.py runs the host's own.
                patch.setattr(made, "static_estimate_VRAM_usage", staticmethod(without_memory))
                made(f"Dataset{number}_Set", plans_name=planner).plan_experiment()
            found[number, planner] = read(space, number, planner)
        return found[number, planner]

    return plans


def without_memory(patch, inputs, outputs, name, kwargs, imports):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    with torch.device("meta"):
        network = get_network_from_plans(name, kwargs, imports, inputs, outputs, allow_init=False)
    return network.compute_conv_feature_map_size(patch)


def comparable(plans):
    configurations = {
        name: {k: v for k, v in config.items() if k != "data_identifier"}
        for name, config in plans["configurations"].items()
    }
    other = ("plans_name", "experiment_planner_used", "atlas_nnunet")
    return {**{k: v for k, v in plans.items() if k not in other}, "configurations": configurations}


@pytest.mark.parametrize(
    ("preset", "planner", "number"),
    [("unet", "ExperimentPlanner", 503), ("unet", "ExperimentPlanner", 504),
     ("resenc_m", "nnUNetPlannerResEncM", 501)],
)  # fmt: skip
def test_native_is_stocks_plan(space, stock, preset, planner, number):
    ours = plan(space, number, "native", "--preset", preset)
    assert comparable(ours) == comparable(stock(number, planner))
    assert ours["atlas_nnunet"]["source"]["mode"] == "native"
    assert ("3d_cascade_fullres" in ours["configurations"]) == (number == 503)


@pytest.mark.parametrize("number", [501, 503, 505])
def test_aligned_holds_the_network_and_nothing_else(space, stock, number, capsys):
    """Spacing, normalisation and what has other axes than the source are stock's."""
    ours, theirs = plan(space, number, "aligned", "--preset", "unet"), stock(number)
    told = capsys.readouterr().out
    had = read(space, 701, "AtlasPretrainPlans")["configurations"]["3d_fullres"]["architecture"]
    names = set(ours["configurations"])
    assert {"2d", "3d_fullres"} <= names
    assert comparable(ours)["configurations"]["2d"] == comparable(theirs)["configurations"]["2d"]
    assert "2d (planned natively: it has 2 axes, the source 3)" in told
    assert told.count("planned natively") == 1
    assert "    levels from the top: feature maps lie" in told
    for key in ("transpose_forward", "foreground_intensity_properties_per_channel"):
        assert ours[key] == theirs[key]
    for name in names - {"2d"}:
        config = resolve_configuration(ours, name)
        arch = config["architecture"]
        assert arch["network_class_name"] == had["network_class_name"]
        widths, own = had["arch_kwargs"]["features_per_stage"], arch["arch_kwargs"]
        assert own["features_per_stage"] == (widths + [widths[-1]] * 9)[: own["n_stages"]]
        assert set(own["n_conv_per_stage"]) == set(had["arch_kwargs"]["n_conv_per_stage"])
        if name == "3d_fullres":
            wanted = theirs["configurations"][name]
            for key in ("spacing", "normalization_schemes", "use_mask_for_norm",
                        "median_image_size_in_voxels"):  # fmt: skip
                assert config[key] == wanted[key]
    scheme = "CTNormalization" if number == 505 else "ZScoreNormalization"
    assert ours["configurations"]["3d_fullres"]["normalization_schemes"][0] == scheme
    assert ours["configurations"]["3d_fullres"]["use_mask_for_norm"][0] == (number != 505)


def test_everything_on_shared_levels_loads_in_aligned_mode(space):
    """Cascade included: its further channels are the only thing that is not in the source."""
    from atlas_nnunet.transfer.shares import forecast

    ours = plan(space, 503, "aligned", "--memory-gb", 0.4)
    description = read(space, 503, "dataset")
    wanted = network_spec(read(space, 701, "AtlasPretrainPlans"), "3d_fullres", description)
    assert {"3d_lowres", "3d_fullres", "3d_cascade_fullres"} <= set(ours["configurations"])
    for name in set(ours["configurations"]) - {"2d"}:
        target = network_spec(ours, name, description)
        assert target.n_stages <= wanted.n_stages
        assert forecast(wanted, target, {}).body_from_source > 0.999
    cascade = network_spec(ours, "3d_cascade_fullres", description)
    assert cascade.channels == ("MRI", "previous_stage_1", "previous_stage_2")


@pytest.mark.parametrize("of", [701, 702])
@pytest.mark.parametrize("number", [501, 503, 505])
def test_inherit_takes_the_sources_voxels_axis_of_the_patient_by_axis(
    space, stock, number, of, monkeypatch
):
    from atlas_nnunet.host import find_planner

    ours = plan(space, number, "inherit", "--preset", "resenc_m", of=of)
    theirs = read(space, of, "AtlasPretrainPlans")
    assert set(ours["configurations"]) == {"3d_fullres"}
    own, had = (p["configurations"]["3d_fullres"] for p in (ours, theirs))
    axes = [(p["transpose_forward"], p["transpose_backward"]) for p in (ours, theirs)]
    assert axes[0] == axes[1]
    assert axes[0][0] == ([2, 0, 1] if of == 702 else [0, 1, 2])
    by_patient = [0.8, 0.9, 3.0] if of == 702 else [2.5, 0.8, 0.8]
    assert [own["spacing"][i] for i in axes[0][1]] == by_patient
    for key in ("spacing", "patch_size", "architecture"):
        assert own[key] == had[key]
    # Batch and normalisation are the target's own.
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    arch = own["architecture"]
    estimate = find_planner("ExperimentPlanner").static_estimate_VRAM_usage(
        own["patch_size"], len(TARGETS[number][1]), 3, arch["network_class_name"],
        arch["arch_kwargs"], arch["_kw_requires_import"],
    )  # fmt: skip
    assert arch["network_class_name"].endswith("PlainConvUNet"), "560e6 fill 8 GB, the preset's 8"
    assert own["batch_size"] == max(2, round(560e6 / estimate * 2))
    wanted = stock(number)["configurations"]["3d_fullres"]
    assert own["normalization_schemes"] == wanted["normalization_schemes"]
    assert own["use_mask_for_norm"] == wanted["use_mask_for_norm"]


def test_a_2d_source_holds_2d_and_leaves_3d_to_nnunet(space, stock, capsys):
    ours = plan(space, 501, "aligned", "-c", "2d", "--preset", "unet", name="Flat")
    assert "3d_fullres (planned natively: it has 3 axes, the source 2)" in capsys.readouterr().out
    theirs = comparable(stock(501))["configurations"]
    assert comparable(ours)["configurations"]["3d_fullres"] == theirs["3d_fullres"]
    had = read(space, 701, "AtlasPretrainPlans")["configurations"]["2d"]["architecture"]
    widths = had["arch_kwargs"]["features_per_stage"]
    arch = ours["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert arch["features_per_stage"] == widths[: arch["n_stages"]]
    inherited = plan(space, 501, "inherit", "-c", "2d", name="FlatInherit")
    assert set(inherited["configurations"]) == {"2d"}
    assert inherited["configurations"]["2d"]["spacing"] == [0.8, 0.8]


def test_a_checkpoint_and_its_plan_give_the_same_plans(space, tmp_path):
    theirs, description = read(space, 701, "AtlasPretrainPlans"), read(space, 701, "dataset")
    network = network_spec(theirs, "3d_fullres", description).build(initialise=False)
    init = {"plans": theirs, "configuration": "3d_fullres", "dataset_json": description}
    stored = {"network_weights": network.state_dict(), "init_args": init, "trainer_name": "T"}
    torch.save(stored, tmp_path / "checkpoint_final.pth")
    for mode in PLANS:
        from_plan = plan(space, 504, mode)
        words = ("plan", 504, "-pl", HELD, "--mode", mode, "--preset", "cpu")
        assert space.run(*words, "--from", tmp_path / "checkpoint_final.pth", "-c", "unused") == 0
        assert read(space, 504, PLANS[mode]) == from_plan


def test_no_two_plans_share_preprocessed_data(space):
    made = [plan(space, 504, mode, name=name) for mode in PLANS for name in ("One", "Two")]
    folders = [c["data_identifier"] for plans in made for c in plans["configurations"].values()]
    assert len(folders) == len(set(folders)) == 2 * (2 + 2 + 1)


def test_what_cannot_be_planned_is_refused_in_words(space, tmp_path, capsys):
    write_set(space, 506, [[999.0, 1.0, 1.0]] * 4, [[1, 200, 200]] * 4)
    bare = read(space, 701, "AtlasPretrainPlans")
    del bare["configurations"]["3d_fullres"]["patch_size"], bare["transpose_forward"]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    (tmp_path / "dataset.json").write_text(json.dumps(read(space, 701, "dataset")))
    from_plan = ("--from", source(space))
    for words, reason in (
        ((506, "-pl", HELD, *from_plan, "--mode", "inherit"), "flat"),
        ((501, "-pl", HELD, *from_plan, "--mode", "inherit", "--spacing", 1, 1, 1), "--spacing"),
        ((501, "-pl", HELD, "--from", tmp_path / "bare.json", "--mode", "inherit"),
         "patch_size, transpose_forward"),
        ((501, "--mode", "native"), "AtlasPretrainPlanner takes no --mode"),
        ((501, *from_plan), "takes no --from"),
        ((501, "-pl", HELD, *from_plan, "--for", 502), f"{HELD} takes no --for"),
        ((501, "-pl", "ExperimentPlanner", "--explain"), "takes no --explain"),
        ((501, "-pl", "ExperimentPlanner", "--schedule", "scratch"), "takes no --schedule"),
        ((501, "-pl", "ExperimentPlanner", "--seed", 0), "takes no --seed"),
        ((501, "-pl", "ExperimentPlanner", "--preset", "unet"), "takes no --preset"),
        ((501, "--l2-sp", 0.1), "AtlasPretrainPlanner takes no --l2-sp"),
        ((501, "--schedule", "nonsense"), "'nonsense' is none of ['decoder_then_all', 'frozen_"),
    ):  # fmt: skip
        assert space.run("plan", *words) == 2, words
        told = capsys.readouterr().err
        assert reason in told
        assert "->" in told
    plans = plan(space, 506, "aligned")
    assert set(plans["configurations"]) == {"2d"}


def test_a_network_of_another_family_serves_native_plans_only(space, monkeypatch):
    from atlas_nnunet.host import NetworkSpec
    from atlas_nnunet.planners import AtlasTransferPlanner
    from atlas_nnunet.planners.sources import PlannedSource

    for name, value in space.variables.items():
        monkeypatch.setenv(name, value)
    foreign = PlannedSource(NetworkSpec("a.SwinUNETR", {}, (), ("CT",), ("liver",)), {}, "3d")
    for mode in ("aligned", "inherit"):
        with pytest.raises(PlanError, match="SwinUNETR") as caught:
            AtlasTransferPlanner("Dataset504_Set", source=foreign, mode=mode)
        assert "--mode native" in caught.value.do
    held = AtlasTransferPlanner("Dataset504_Set", source=foreign, mode="native", preset="cpu")
    assert np.prod(held.plan_fullres()["configurations"]["3d_fullres"]["patch_size"]) > 0


@pytest.mark.parametrize("number", [501, 504])
def test_memory_is_counted_as_the_host_counts_it(space, number, monkeypatch):
    """Ours, the host's own, and the one that stands in for it in this file: one number."""
    from atlas_nnunet.host import find_planner
    from atlas_nnunet.planners.pretrain import feature_map_voxels

    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    host = find_planner("ExperimentPlanner").static_estimate_VRAM_usage
    plans = plan(space, number, "native")
    for name in {"2d", "3d_fullres", "3d_lowres"} & set(plans["configurations"]):
        config = plans["configurations"][name]
        arch = config["architecture"]
        asked = (config["patch_size"], 2, 3, arch["network_class_name"], arch["arch_kwargs"],
                 arch["_kw_requires_import"])  # fmt: skip
        assert feature_map_voxels(*asked) == host(*asked) == without_memory(*asked)


def test_a_source_of_odd_widths_and_order_of_axes_is_taken_as_it_is(space, tmp_path):
    """Widths that do not double, and a first axis that is not the coarsest, as in a 3d_lowres."""
    odd = read(space, 702, "AtlasPretrainPlans")
    config = odd["configurations"]["3d_fullres"]
    arch = config["architecture"]["arch_kwargs"]
    arch["features_per_stage"] = [12 + 10 * i for i in range(arch["n_stages"])]
    config["spacing"] = [1.0, 2.0, 1.5]
    assert odd["transpose_forward"] == [2, 0, 1]
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    (tmp_path / "dataset.json").write_text(json.dumps(read(space, 702, "dataset")))
    for mode in ("aligned", "inherit"):
        words = ("plan", 502, "-pl", HELD, "--preset", "cpu", "--mode", mode, "-p", "Odd")
        assert space.run(*words, "--from", tmp_path / "odd.json") == 0
        ours = read(space, 502, "Odd")
        own = ours["configurations"]["3d_fullres"]
        widths = own["architecture"]["arch_kwargs"]["features_per_stage"]
        assert widths == arch["features_per_stage"][: len(widths)]
        assert len(widths) > 2
    assert own["spacing"] == [1.0, 2.0, 1.5]
    assert own["patch_size"] == config["patch_size"]
    assert ours["transpose_forward"] == [2, 0, 1]
    assert ours["transpose_backward"] == [1, 2, 0]
    z_y_x = np.median(np.array(isotropic()[1]) * 1.0 / [2.0, 1.5, 1.0], 0)
    assert np.abs(np.array(own["median_image_size_in_voxels"]) - z_y_x[[2, 0, 1]]).max() <= 0.5
