"""nnU-Net's own executables on our plans, trainers and checkpoints: the promise of the project."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Workspace, run_all, write_tiny_dataset

pytestmark = [pytest.mark.host, pytest.mark.slow]
pytest.importorskip("nnunetv2")

BIN = Path(sys.executable).parent
PRETRAINED = "Dataset701_Tiny/AtlasPretrainTrainer__AtlasPretrainPlans__3d_fullres/fold_all"
SHORT = ("--preset", "cpu", "--epochs", 2, "--iterations", 3, "--val-iterations", 1,
         "--save-every", 1)  # fmt: skip


def shell_environment(space: Workspace) -> dict[str, str]:
    """What a user's shell holds after `eval "$(atlas-nnunet env --root DIR)"`."""
    exports = subprocess.run(
        [BIN / "atlas-nnunet", "env", "--root", space.folder],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    dumped = subprocess.run(
        ["bash", "-c", f'eval "{exports}"; env -0'], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.split("=", 1) for line in dumped.split("\0") if line)
    return {**found, "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}


def stock(space: Workspace, *words: object) -> str:
    """Run one of nnU-Net's executables to its end."""
    name, *rest = map(str, words)
    done = subprocess.run(
        [BIN / name, *rest], env=shell_environment(space), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(planned, tmp_path_factory) -> Workspace:
    """Pre-trained by nnUNetv2_train with our trainer; a target planned, transferred, preprocessed.

    Its own copy, so that other tests of the planned set are not disturbed.
    """
    space = Workspace(tmp_path_factory.mktemp("stock") / "space")
    shutil.copytree(planned.folder, space.folder)
    stock(space, "nnUNetv2_train", 701, "3d_fullres", "all", "-tr", "AtlasPretrainTrainer",
          "-p", "AtlasPretrainPlans", "-device", "cpu")  # fmt: skip
    checkpoint = space.folder / "nnUNet_results" / PRETRAINED / "checkpoint_final.pth"
    write_tiny_dataset(space.folder / "nnUNet_raw", "Dataset501_Target", 5, seed=2)
    run_all(
        space.run,
        ("fingerprint", 501, "-np", 1),
        ("plan", 501, "-pl", "AtlasTransferPlanner", "--from", checkpoint, "--memory-gb", 0.02,
         *SHORT),
        ("preprocess", 501, "-p", "AtlasTransferPlans", "-np", 1),
        ("transfer", 501, "--from", checkpoint),
    )  # fmt: skip
    return space


def target_folder(space: Workspace, trainer: str) -> Path:
    results = space.folder / "nnUNet_results" / "Dataset501_Target"
    return results / f"{trainer}__AtlasTransferPlans__3d_fullres"


def test_stock_train_predict_evaluate_export_and_import(trained, tmp_path):
    stock(trained, "nnUNetv2_train", 501, "3d_fullres", 0, "-tr", "AtlasTransferTrainer",
          "-p", "AtlasTransferPlans", "-device", "cpu")  # fmt: skip
    folder = target_folder(trained, "AtlasTransferTrainer")
    summary = json.loads((folder / "fold_0/validation/summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] >= 0, "nnU-Net's own final validation ran"

    images, predicted = trained.folder / "nnUNet_raw/Dataset501_Target/imagesTr", tmp_path / "p"
    words = ("-d", 501, "-c", "3d_fullres", "-f", 0, "-tr", "AtlasTransferTrainer", "-p",
             "AtlasTransferPlans", "-device", "cpu")  # fmt: skip
    stock(trained, "nnUNetv2_predict", "-i", images, "-o", predicted, *words)
    assert len(list(predicted.glob("*.nii.gz"))) == 5
    ours = tmp_path / "ours"
    assert trained.run("predict", "-i", images, "-o", ours, *words, "--regions", "stock") == 0
    for path in sorted(predicted.glob("*.nii.gz")):
        assert path.read_bytes() == (ours / path.name).read_bytes(), "atlas-nnunet predict"
    references = trained.folder / "nnUNet_raw/Dataset501_Target/labelsTr"
    stock(trained, "nnUNetv2_evaluate_folder", references, predicted, "-djfile",
          predicted / "dataset.json", "-pfile", predicted / "plans.json")  # fmt: skip
    assert (predicted / "summary.json").is_file()

    stock(trained, "nnUNetv2_export_model_to_zip", "-d", 501, "-c", "3d_fullres", "-f", 0, "-tr",
          "AtlasTransferTrainer", "-p", "AtlasTransferPlans", "-o", tmp_path / "m.zip")  # fmt: skip
    other = Workspace(tmp_path / "other")
    stock(other, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "m.zip")
    stock(other, "nnUNetv2_predict", "-i", images, "-o", tmp_path / "q", *words)
    for path in sorted(predicted.glob("*.nii.gz")):
        assert path.read_bytes() == (tmp_path / "q" / path.name).read_bytes()


def test_the_stock_trainer_starts_from_our_transferred_checkpoint(trained):
    """Its shortest form: one epoch of 250 iterations."""
    checkpoint = (trained.folder / "nnUNet_preprocessed/Dataset501_Target/atlas_nnunet"
                  / "AtlasTransferPlans__3d_fullres.transferred.pth")  # fmt: skip
    said = stock(trained, "nnUNetv2_train", 501, "3d_fullres", 0, "-tr", "nnUNetTrainer_1epoch",
                 "-p", "AtlasTransferPlans", "-pretrained_weights", checkpoint,
                 "-device", "cpu")  # fmt: skip
    assert "Loading pretrained weights" in said
    folder = target_folder(trained, "nnUNetTrainer_1epoch") / "fold_0"
    assert (folder / "checkpoint_final.pth").is_file()
    assert (folder / "validation/summary.json").is_file()


def test_a_killed_training_goes_on_with_c_as_if_nothing_had_happened(planned, tmp_path):
    """Same seed, same batches: the weights after kill and `--c` are those of one run."""
    weights = {}
    for way in ("whole", "killed"):
        space = Workspace(tmp_path / way)
        shutil.copytree(planned.folder, space.folder)
        assert space.run("plan", 701, *SHORT[:2], "--memory-gb", 0.05, "--epochs", 4,
                         *SHORT[4:], "--no-final-validation") == 0  # fmt: skip
        words = ["nnUNetv2_train", 701, "3d_fullres", "all", "-tr", "AtlasPretrainTrainer", "-p",
                 "AtlasPretrainPlans", "-device", "cpu"]  # fmt: skip
        run = space.folder / "nnUNet_results" / PRETRAINED
        if way == "killed":
            process = subprocess.Popen(
                [BIN / words[0], *map(str, words[1:])], env=shell_environment(space),
                stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            while process.poll() is None and not (run / "checkpoint_latest.pth").is_file():
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (run / "checkpoint_final.pth").is_file(), "it was killed in mid-run"
            words.append("--c")
        stock(space, *words)
        stored = torch.load(run / "checkpoint_final.pth", weights_only=False)
        weights[way] = stored["network_weights"]
        assert stored["current_epoch"] == 4
    for name, value in weights["whole"].items():
        assert torch.equal(value, weights["killed"][name]), name


def test_our_prediction_is_stocks_but_for_organs_kept_whole(trained, tmp_path):
    """Where stock paints a tumour over its organ, ours says both; everywhere else they agree."""
    import nibabel as nib

    from atlas_nnunet.labelmap import Coding

    images = trained.folder / "nnUNet_raw/Dataset701_Tiny/imagesTr"
    words = ("-i", images, "-d", 701, "-f", "all", "-tr", "AtlasPretrainTrainer", "-p",
             "AtlasPretrainPlans", "-device", "cpu")  # fmt: skip
    stock(trained, "nnUNetv2_predict", "-o", tmp_path / "stock", "-c", "3d_fullres", *words)
    assert trained.run("predict", "-o", tmp_path / "ours", *words) == 0
    coding = Coding.of_dataset_json(json.loads((tmp_path / "ours/dataset.json").read_text()))
    single = np.arange(len(coding.codes))
    for code, members in enumerate(coding.codes):
        single[code] = max((coding.structures.index(m) + 1 for m in members), default=0)
    cases = sorted(images.glob("*_0000.nii.gz"))
    assert cases
    for path in cases:
        name = path.name.replace("_0000", "")
        ours, theirs = (
            np.asarray(nib.load(tmp_path / w / name).dataobj) for w in ("ours", "stock")
        )
        assert (single[ours] == theirs).all()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "ours").glob("*.nii.gz")}
    assert trained.run("predict", "-o", tmp_path / "ours", *words) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "ours").glob("*.nii.gz")}
