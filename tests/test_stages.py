"""Our fingerprint, plans and preprocessed cases are stock nnU-Net's, number for number."""

import json
import pickle
import shutil

import blosc2
import numpy as np
import pytest
from support import Workspace, write_tiny_dataset

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")


@pytest.fixture
def host_folders(monkeypatch):
    """Point nnU-Net's own functions at a workspace."""

    def point(space):
        for name, value in space.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("nnUNet_n_proc_DA", "1")

    return point


def copy_of(planned, tmp_path):
    space = Workspace(tmp_path / "copy")
    shutil.copytree(planned.folder, space.folder)
    return space


def test_the_fingerprint_is_stocks_number_for_number(planned, tmp_path, host_folders):
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    ours = json.loads(
        (
            planned.folder / "nnUNet_preprocessed/Dataset701_Tiny/dataset_fingerprint.json"
        ).read_text()
    )
    space = Workspace(tmp_path)
    shutil.copytree(planned.folder / "nnUNet_raw", tmp_path / "nnUNet_raw")
    host_folders(space)
    DatasetFingerprintExtractor("Dataset701_Tiny", 1).run(overwrite_existing=True)
    stock = tmp_path / "nnUNet_preprocessed/Dataset701_Tiny/dataset_fingerprint.json"
    assert ours == json.loads(stock.read_text())


def test_a_second_fingerprint_looks_at_new_cases_only(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path)
    assert space.run("fingerprint", 701, "-np", 1) == 0
    assert "0 of 4 cases were new" in capsys.readouterr().out
    mask = space.folder / "nnUNet_raw/Dataset701_Tiny/labelsTr/case_000.nii.gz"
    shutil.copy(mask.with_name("case_001.nii.gz"), mask)
    assert space.run("fingerprint", 701, "-np", 1) == 0
    assert "1 of 4 cases were new" in capsys.readouterr().out


def test_cases_seen_one_by_one_in_any_order_give_the_fingerprint_of_all(planned, tmp_path):
    raw, name = "nnUNet_raw/Dataset701_Tiny", "dataset_fingerprint.json"
    whole = (planned.folder / "nnUNet_preprocessed/Dataset701_Tiny" / name).read_bytes()
    space = Workspace(tmp_path)
    shutil.copytree(planned.folder / raw, space.folder / raw)
    put_aside = [*(space.folder / raw).rglob("case_000*"), *(space.folder / raw).rglob("case_002*")]
    assert len(put_aside) == 4
    for path in put_aside:
        path.rename(tmp_path / path.name)
    assert space.run("fingerprint", 701, "-np", 1) == 0
    made = space.folder / "nnUNet_preprocessed/Dataset701_Tiny" / name
    assert made.read_bytes() != whole
    for path in put_aside:
        (tmp_path / path.name).rename(path)
    assert space.run("fingerprint", 701, "-np", 2) == 0
    assert made.read_bytes() == whole


def test_a_broken_case_is_named_and_no_fingerprint_is_written(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path)
    image = space.folder / "nnUNet_raw/Dataset701_Tiny/imagesTr/case_002_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:-100])
    fingerprint = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/dataset_fingerprint.json"
    fingerprint.unlink()
    assert space.run("fingerprint", 701, "-np", 1) == 1
    assert "case_002" in capsys.readouterr().out
    assert not fingerprint.exists()


ARRAYS = "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans_3d_fullres"


def test_preprocessed_cases_are_stocks(planned, tmp_path, host_folders):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    space = copy_of(planned, tmp_path)
    shutil.rmtree(space.folder / ARRAYS)
    host_folders(space)
    DefaultPreprocessor(verbose=False).run("Dataset701_Tiny", "3d_fullres", "AtlasPretrainPlans", 1)
    cases = sorted(p.name for p in (space.folder / ARRAYS).glob("*.pkl"))
    assert len(cases) == 4
    for name in cases:
        for ending in (".b2nd", "_seg.b2nd"):
            ours, stock = (
                blosc2.open(str(root.folder / ARRAYS / name.replace(".pkl", ending)))[:]
                for root in (planned, space)
            )
            assert ours.dtype == stock.dtype
            assert np.abs(ours - stock).max() <= 1e-5 * np.ptp(stock)
            assert stock.dtype == np.float32 or np.array_equal(ours, stock)
        ours, stock = (
            pickle.loads((root.folder / ARRAYS / name).read_bytes()) for root in (planned, space)
        )
        assert ours.keys() == stock.keys()
        for key, locations in stock["class_locations"].items():
            assert np.array_equal(ours["class_locations"][key], locations)
    copies = planned.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    assert len(list((copies / "gt_segmentations").glob("*.nii.gz"))) == 4
    assert (copies / "conversion.json").is_file()


def test_preprocessing_resumes_by_content(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path)
    words = ("preprocess", 701, "-np", 1)
    assert space.run(*words) == 0
    assert "0 of 4 cases were new" in capsys.readouterr().out
    arrays = space.folder / ARRAYS
    (arrays / "case_001_seg.b2nd").write_bytes(b"cut")
    (arrays / "case_002.pkl").unlink()
    spoilt = bytearray((arrays / "case_003.b2nd").read_bytes())
    spoilt[-20] ^= 1  # of the same size
    (arrays / "case_003.b2nd").write_bytes(spoilt)
    assert space.run(*words) == 0
    assert "3 of 4 cases were new" in capsys.readouterr().out
    assert space.run("plan", 701, "--preset", "cpu", "--memory-gb", 0.05, "--epochs", 9) == 0
    assert space.run(*words) == 0
    assert "0 of 4 cases were new" in capsys.readouterr().out, "a longer training redoes nothing"
    assert space.run("plan", 701, "--preset", "cpu", "--memory-gb", 0.05, "--spacing", 2, 2, 2) == 0
    assert space.run(*words) == 0
    assert "4 of 4 cases were new" in capsys.readouterr().out
    assert not [p for p in arrays.rglob("*") if ".partial" in p.name]


def test_a_case_that_is_gone_is_not_trained_on(planned, tmp_path):
    space = copy_of(planned, tmp_path)
    for path in (space.folder / "nnUNet_raw/Dataset701_Tiny").rglob("case_003*"):
        path.unlink()
    assert space.run("preprocess", 701, "-np", 1) == 0
    assert not list((space.folder / ARRAYS).glob("case_003*"))
    assert len(list((space.folder / ARRAYS).glob("case_*.pkl"))) == 3


def realistic(space, name="Dataset701_Tiny"):
    """A fingerprint of abdominal CTs, so that presets plan what they would plan there."""
    rng = np.random.default_rng(0)
    path = space.folder / "nnUNet_preprocessed" / name / "dataset_fingerprint.json"
    fingerprint = json.loads(path.read_text())
    fingerprint["spacings"] = [[float(rng.choice([1.0, 2.5, 5.0])), 0.8, 0.8] for _ in range(9)]
    fingerprint["shapes_after_crop"] = [[int(rng.integers(90, 300)), 500, 500] for _ in range(9)]
    path.write_text(json.dumps(fingerprint))


@pytest.mark.parametrize(
    ("preset", "stock_name"),
    [("unet", "ExperimentPlanner"), ("resenc_m", "nnUNetPlannerResEncM"),
     ("resenc_l", "nnUNetPlannerResEncL")],
)  # fmt: skip
def test_presets_plan_what_stock_plans(planned, tmp_path, host_folders, preset, stock_name):
    from atlas_nnunet.host import find_planner

    space = copy_of(planned, tmp_path)
    realistic(space)
    assert space.run("plan", 701, "--preset", preset, "-p", "Ours") == 0
    host_folders(space)
    find_planner(stock_name)("Dataset701_Tiny", plans_name="Stock").plan_experiment()
    folder = space.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    ours, stock = (json.loads((folder / f"{n}.json").read_text()) for n in ("Ours", "Stock"))
    for plans in (ours, stock):
        for configuration in plans["configurations"].values():
            configuration.pop("data_identifier", None)
    assert ours["configurations"] == stock["configurations"]
    same = set(stock) - {"plans_name", "experiment_planner_used"}
    assert {k: ours[k] for k in same} == {k: stock[k] for k in same}


def test_planners_are_found_by_name_or_refused_by_name(planned, capsys):
    assert planned.run("plan", 701, "-pl", "NoSuchPlanner") == 2
    assert "NoSuchPlanner" in capsys.readouterr().err
    assert planned.run("plan", 701, "-pl", "AtlasTransferPlanner") == 2
    assert "--from" in capsys.readouterr().err
    assert planned.run("plan", 999) == 2
    assert "Dataset999_" in capsys.readouterr().err


def test_a_target_keeps_its_own_configuration_on_the_sources_network(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path)
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    write_tiny_dataset(space.folder / "nnUNet_raw", "Dataset501_Target", 3, seed=4)
    assert space.run("fingerprint", 501, "-np", 1) == 0
    realistic(space, "Dataset501_Target")
    capsys.readouterr()
    words = ("plan", 501, "--preset", "resenc_m", "--memory-gb", 4)
    assert space.run(*words, "-pl", "AtlasTransferPlanner", "--from", source) == 0
    told = capsys.readouterr().out
    folder = space.folder / "nnUNet_preprocessed/Dataset501_Target"
    plans = json.loads((folder / "AtlasTransferPlans.json").read_text())
    own, pretrain = plans["configurations"]["3d_fullres"], json.loads(source.read_text())
    held = pretrain["configurations"]["3d_fullres"]["architecture"]
    assert own["architecture"]["network_class_name"] == held["network_class_name"]
    widths = own["architecture"]["arch_kwargs"]["features_per_stage"]
    had = held["arch_kwargs"]["features_per_stage"]
    assert widths == (had + [had[-1]] * 9)[: len(widths)]
    assert len(widths) > len(had), "a larger target is deeper by nnU-Net's method"
    assert own["spacing"] != pretrain["configurations"]["3d_fullres"]["spacing"]
    section = told[told.index("3d_fullres, parameters") :]
    encoder = next(line for line in section.splitlines() if "encoder" in line)
    loaded = float(encoder.split()[2].rstrip("%"))
    assert 15 < loaded < 100, "shared levels load, deeper ones cannot"


def test_left_and_right_are_not_mirrored_into_each_other(planned, tmp_path):
    """The axis left out is the patient's left-right axis as the reader hands it out."""
    import nibabel as nib
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    array = np.zeros((5, 6, 7), np.int16)
    array[4] = 1  # the last sagittal slice of a RAS volume: the patient's right
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    seen, _ = NibabelIOWithReorient().read_images([str(tmp_path / "a.nii.gz")])
    assert (seen[0, :, :, 4] == 1).all()
    folder = planned.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    plans = json.loads((folder / "AtlasPretrainPlans.json").read_text())
    axes = plans["atlas_nnunet"]["training"]["mirror_axes"]
    left_right = plans["transpose_forward"].index(2)
    assert sorted([*axes, left_right]) == [0, 1, 2]


def test_env_prints_what_a_shell_can_take(capsys, tmp_path):
    from atlas_nnunet.cli import main

    assert main(["env", "--root", str(tmp_path / "with space")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert any("nnUNet_extTrainer" in line and "shim" in line for line in printed)
