"""The law of label status: a perfect prediction scores 1, whatever nobody labelled, everywhere."""

import json
import math
import shutil
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from support import Workspace, run_all, write_tiny_dataset

from atlas_nnunet.artefacts import ROOTS, Dataset
from atlas_nnunet.cli import main
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.labelstatus import SECTION
from atlas_nnunet.settings import Training
from atlas_nnunet.transfer.pilot import ARMS, Pilot, run_pilot

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

NAME = "Dataset703_Status"
FOLD = f"nnUNet_results/{NAME}/AtlasPretrainTrainer__AtlasPretrainPlans__3d_fullres/fold_0"
UNLABELLED = ("case_000", "case_002", "case_004")  # kidney_left, as write_tiny_dataset has it


def without_kidney_left(space, coding):
    """References as `convert` leaves them: what nobody labelled has no voxel."""
    codes_left = coding.codes_of("kidney_left")
    for case in UNLABELLED:
        for folder in ("nnUNet_raw/{}/labelsTr", "nnUNet_preprocessed/{}/gt_segmentations"):
            path = space.folder / folder.format(NAME) / f"{case}.nii.gz"
            image = nib.load(path)
            codes = np.asarray(image.dataobj).copy()
            assert np.isin(codes, codes_left).any()
            codes[np.isin(codes, codes_left)] = 0
            path.unlink()
            nib.save(nib.Nifti1Image(codes, image.affine), path)


def oracle(space, coding):
    """A predictor that knows the truth of every preprocessed case."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    preprocessed = space.folder / "nnUNet_preprocessed" / NAME
    folder = next(p for p in preprocessed.iterdir() if p.is_dir() and p.name.endswith("3d_fullres"))
    cases = nnUNetDatasetBlosc2(str(folder))
    known = []
    for case in cases.identifiers:
        data, seg, _, _ = cases.load_case(case)
        known.append((np.asarray(data[:]), np.asarray(seg[:])[0]))
    assert len(known) == 6

    def predict(self, image):
        (seg,) = [seg for data, seg in known if np.array_equal(data, image.numpy())]
        masks = np.stack([np.isin(seg, coding.codes_of(name)) for name in coding.structures])
        return torch.from_numpy(np.where(masks, 9, -9).astype(np.float32))

    return predict


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """Six cases, kidney_left unlabelled in three, and a training whose predictions are perfect."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    space = Workspace(tmp_path_factory.mktemp("status") / "space")
    raw = write_tiny_dataset(space.folder / "nnUNet_raw", NAME, 6, seed=3)
    run_all(
        space.run,
        ("fingerprint", 703, "-np", 1),
        ("plan", 703, "--preset", "cpu", "--memory-gb", 0.02, "--epochs", 1, "--iterations", 1,
         "--val-iterations", 1),
        ("preprocess", 703, "-np", 1),
    )  # fmt: skip
    coding = Coding.of_dataset_json(json.loads((raw / "dataset.json").read_text()))
    cases = [f"case_{i:03d}" for i in range(6)]
    splits = space.folder / "nnUNet_preprocessed" / NAME / "splits_final.json"
    splits.write_text(json.dumps([{"train": cases, "val": cases}]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            nnUNetPredictor, "predict_sliding_window_return_logits", oracle(space, coding)
        )
        without_kidney_left(space, coding)
        assert space.run("train", 703, "3d_fullres", 0, "-device", "cpu") == 0
    return space


@pytest.fixture
def roots(space, monkeypatch):
    for name in ROOTS:
        monkeypatch.setenv(name, str(space.folder / name))


def stock_summary(space, output=None):
    """What nnU-Net itself says of the same predictions."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2

    validation = space.folder / FOLD / "validation"
    folder = space.folder / "nnUNet_preprocessed" / NAME
    output = output or validation.parent / "stock.json"
    compute_metrics_on_folder2(
        str(folder / "gt_segmentations"), str(validation), str(folder / "dataset.json"),
        str(folder / "AtlasPretrainPlans.json"), str(output), num_processes=1,
    )  # fmt: skip
    return output


def assert_perfect(evaluation):
    assert evaluation["mean"]["kidney_left"]["n"] == 3
    for name, own in evaluation["mean"].items():
        assert own["dice"] == own["nsd"] == 1, name
        assert own["n"] == (3 if name == "kidney_left" else 6)
    assert evaluation["mean_of_structures"] == {"dice": 1, "nsd": 1}
    assert evaluation["not_scored"] == {case: ["kidney_left"] for case in UNLABELLED}
    assert evaluation["label_status"] is not None


def test_the_final_validation(space, roots):
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    theirs = load_summary_json(str(stock_summary(space)))
    assert theirs["foreground_mean"]["Dice"] == pytest.approx(0.875), "stock counts the unlabelled"
    validation = space.folder / FOLD / "validation"
    ours = load_summary_json(str(validation / "summary.json"))
    assert ours["foreground_mean"]["Dice"] == 1
    assert ours.keys() == theirs.keys()
    assert ours["mean"].keys() == theirs["mean"].keys()
    (left,) = [k for k, own in theirs["mean"].items() if own["Dice"] == pytest.approx(0.5)]
    assert ours["mean"][left]["Dice"] == 1
    assert {k: v for k, v in ours["mean"].items() if k != left} == {
        k: v for k, v in theirs["mean"].items() if k != left
    }
    for own, stock in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert own["reference_file"] == stock["reference_file"]
        is_unknown = any(case in own["reference_file"] for case in UNLABELLED)
        for key, metrics in own["metrics"].items():
            if key == left and is_unknown:
                assert all(math.isnan(v) for v in metrics.values())
            else:
                assert metrics == stock["metrics"][key]
    assert_perfect(json.loads((validation / "evaluation.json").read_text()))
    log = next((space.folder / FOLD).glob("training_log*.txt")).read_text()
    assert "Mean Validation Dice:  1.0" in log


@pytest.mark.parametrize(
    "references", [f"nnUNet_raw/{NAME}/labelsTr", f"nnUNet_preprocessed/{NAME}/gt_segmentations"]
)
def test_evaluate_finds_the_status_by_itself(space, references, tmp_path, capsys):
    validation = space.folder / FOLD / "validation"
    words = ["evaluate", validation, space.folder / references, "-np", "1",
             "-o", tmp_path / "e.json"]  # fmt: skip
    assert main([str(w) for w in words]) == 0
    assert_perfect(json.loads((tmp_path / "e.json").read_text()))
    said = capsys.readouterr().out
    assert "3 references are unlabelled and not scored" in said
    assert main([str(w) for w in [*words, "--conversion", "none"]]) == 0
    asked = json.loads((tmp_path / "e.json").read_text())
    assert asked["mean"]["kidney_left"] == {"dice": 0.5, "nsd": 0.5, "n": 6, "n_pseudo": 0}
    assert "every structure of every case counts as annotated" in capsys.readouterr().out


@pytest.fixture
def stock_fold(space, tmp_path):
    """The same training as stock nnU-Net would have left it: its summary.json alone."""
    model = tmp_path / "elsewhere" / NAME / "nnUNetTrainer__AtlasPretrainPlans__3d_fullres"
    shutil.copytree(space.folder / FOLD, model / "fold_0")
    for name in ("dataset.json", "plans.json"):
        shutil.copy((space.folder / FOLD).parent / name, model / name)
    (model / "fold_0/validation/evaluation.json").unlink()
    stock_summary(space, model / "fold_0/validation/summary.json")
    return model / "fold_0"


def compared(out, *words):
    assert main(["compare", *map(str, words), "-o", str(out)]) == 0
    (found,) = json.loads((out / "compare.json").read_text())["comparisons"]
    return found


@pytest.mark.parametrize("found_by", ["reference", "name"])
def test_compare_on_fold_folders(space, stock_fold, found_by, tmp_path, monkeypatch):
    summary = stock_fold / "validation/summary.json"
    if found_by == "name":  # trained on another machine
        summary.write_text(summary.read_text().replace(str(space.folder), "/another/machine"))
        for name in ROOTS:
            monkeypatch.setenv(name, str(space.folder / name))
    found = compared(tmp_path / "c", f"stock={stock_fold}", f"ours={space.folder / FOLD}")
    for name, own in found["dice"]["structures"].items():
        assert own["n"] == (3 if name == "kidney_left" else 6)
        assert own["mean_a"] == own["mean_b"] == 1
    assert found["verdict"]["answer"] != "harms"


def test_compare_refuses_a_stock_summary_whose_status_is_lost(
    space, stock_fold, tmp_path, monkeypatch, capsys
):
    for name in ROOTS:
        monkeypatch.delenv(name, raising=False)
    summary = stock_fold / "validation/summary.json"
    summary.write_text(summary.read_text().replace(str(space.folder), "/another/machine"))
    assert main(["compare", f"a={stock_fold}", f"b={space.folder / FOLD}"]) == 2
    said = capsys.readouterr().err
    assert "counts unlabelled structures as absent" in said
    assert NAME in said


def test_the_pilot(space, roots, tmp_path):
    dataset = Dataset(NAME)
    own = Training.of_schedule("head_then_all", {"epochs": 9}).as_json()
    plans = json.loads((dataset.preprocessed / "AtlasPretrainPlans.json").read_text())
    plans[SECTION]["training"] = own
    dataset.plans("AtlasTransferPlans").write_text(json.dumps(plans))
    for path in (dataset.transferred, dataset.transfer_report):
        path("AtlasTransferPlans", "3d_fullres").parent.mkdir(parents=True, exist_ok=True)
        path("AtlasTransferPlans", "3d_fullres").write_text("{}")
    pilot = Pilot(dataset, "AtlasTransferPlans", "3d_fullres", ("0",), 2, "cpu")

    def call(words):
        if words[0] != "train":
            return main(words)
        name = words[words.index("-p") + 1]
        folder = dataset.run("AtlasTransferTrainer", name, "3d_fullres", "0") / "validation"
        folder.mkdir(parents=True)
        for path in (space.folder / FOLD / "validation").glob("*.nii.gz"):
            shutil.copy(path, folder)
        return 0

    assert run_pilot(pilot, call) == 0
    for arm in ARMS:
        folder = pilot.fold_folder(arm, "0") / "validation"
        assert_perfect(json.loads((folder / "evaluation.json").read_text()))
    (found,) = json.loads((pilot.folder / "compare.json").read_text())["comparisons"]
    left = found["dice"]["structures"]["kidney_left"]
    assert (left["mean_a"], left["mean_b"], left["n"]) == (1, 1, 3)


def test_the_pilots_scores_are_those_of_the_final_validation(space, roots, tmp_path):
    """One look-up: another folder of the same references changes nothing."""
    folder = space.folder / FOLD / "validation"
    shutil.copytree(space.folder / "nnUNet_raw" / NAME / "labelsTr", tmp_path / "references")
    words = ["evaluate", folder, tmp_path / "references", "--conversion",
             Dataset(NAME).conversion, "--dataset-json", Dataset(NAME).raw / "dataset.json",
             "-np", "1", "-o", tmp_path / "e.json"]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(w) for w in words]) == 0
    assert json.loads((tmp_path / "e.json").read_text()) == json.loads(
        (folder / "evaluation.json").read_text()
    )
