"""The trainers in nnU-Net's hands: what they start from, what they refuse, what decides weights."""

import json
import shutil

import pytest
import torch
from support import Workspace, write_tiny_dataset

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

CONFIGURATION = "3d_fullres"
SHORT = ("--preset", "cpu", "--memory-gb", 0.02, "--epochs", 2, "--iterations", 3,
         "--val-iterations", 1, "--no-final-validation")  # fmt: skip


@pytest.fixture(scope="module")
def prepared(pretrained, tmp_path_factory):
    """A target planned after the pre-trained set."""
    space = Workspace(tmp_path_factory.mktemp("trainers") / "space")
    shutil.copytree(pretrained.folder, space.folder)
    write_tiny_dataset(space.folder / "nnUNet_raw", "Dataset501_Target", 3, seed=2)
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    for words in (
        ("fingerprint", 501, "-np", 1),
        ("plan", 501, "-pl", "AtlasTransferPlanner", "--from", source, *SHORT),
        ("plan", 501, "-pl", "AtlasTransferPlanner", "-p", "Scratch", "--from", source, *SHORT,
         "--schedule", "scratch"),
        ("preprocess", 501, "-p", "AtlasTransferPlans", "-np", 1),
        ("preprocess", 501, "-p", "Scratch", "-np", 1),
    ):  # fmt: skip
        assert space.run(*words) == 0
    return space


@pytest.fixture
def space(prepared, tmp_path):
    """A copy of it for each test."""
    space = Workspace(tmp_path / "space")
    shutil.copytree(prepared.folder, space.folder)
    return space


def final(space, trainer, plans, dataset="Dataset501_Target"):
    folder = space.folder / "nnUNet_results" / dataset / f"{trainer}__{plans}__{CONFIGURATION}"
    return folder / "fold_all" / "checkpoint_final.pth"


def weights(path):
    return torch.load(path, map_location="cpu", weights_only=False)["network_weights"]


def train(space, plans, *more):
    words = ("train", 501, CONFIGURATION, "all", "-tr", "AtlasTransferTrainer", "-p", plans)
    return space.run(*words, "-device", "cpu", *more)


def test_without_transferred_weights_nothing_trains_and_the_command_is_named(space, capsys):
    assert train(space, "AtlasTransferPlans") == 2
    said = capsys.readouterr().err
    assert f"atlas-nnunet transfer Dataset501_Target -c {CONFIGURATION}" in said
    assert not final(space, "AtlasTransferTrainer", "AtlasTransferPlans").exists()


def test_scratch_starts_from_nothing_and_the_console_shows_a_bar(space, capsys):
    assert train(space, "Scratch") == 0
    shown = capsys.readouterr()
    assert "train Dataset501_Target" in shown.err
    assert "6/6" in shown.err
    assert "Pseudo dice" not in shown.out, "the host's lines are in its log file"
    path = final(space, "AtlasTransferTrainer", "Scratch")
    log = next(path.parent.glob("training_log*.txt")).read_text()
    assert "Pseudo dice" in log
    assert "label status" in log
    curves = json.loads((path.parent / "curves.json").read_text())
    of_structures = curves.pop("dice_of_structures")
    assert {len(values) for values in (*curves.values(), *of_structures.values())} == {2}
    latest = [values[-1] for values in of_structures.values() if values[-1] is not None]
    assert curves["dice"][-1] == pytest.approx(sum(latest) / len(latest), abs=1e-12)
    assert "online Dice, latest of" in log
    assert train(space, "Scratch") == 0
    assert "done before" in capsys.readouterr().out


def test_training_starts_from_the_transferred_weights(space):
    """With a rate next to nothing, what comes out is what went in."""
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    pretrained = final(space, "AtlasPretrainTrainer", "AtlasPretrainPlans", "Dataset701_Tiny")
    still = ("--optimizer", "sgd", "--learning-rate", 1e-12, "--weight-decay", 0)
    assert space.run("plan", 501, "-pl", "AtlasTransferPlanner", "--from", source, *SHORT,
                     *still) == 0  # fmt: skip
    assert space.run("transfer", 501, "--from", pretrained, "--no-fold") == 0
    assert train(space, "AtlasTransferPlans") == 0
    trained = weights(final(space, "AtlasTransferTrainer", "AtlasTransferPlans"))
    folder = space.folder / "nnUNet_preprocessed/Dataset501_Target/atlas_nnunet"
    started = weights(folder / f"AtlasTransferPlans__{CONFIGURATION}.transferred.pth")
    assert started.keys() <= trained.keys()
    for name, value in started.items():
        assert torch.allclose(trained[name], value, atol=1e-8), name
    before = weights(pretrained)
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert torch.equal(started[name], before[name]), "and they are the source's"

    # The start is part of what a run is made of: another start is another run, not a finished one.
    other = final(space, "AtlasTransferTrainer", "AtlasTransferPlans")
    assert space.run("transfer", 501, "--from", other) == 0
    assert train(space, "AtlasTransferPlans") == 2
    assert train(space, "AtlasTransferPlans", "--overwrite") == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told_at_once(planned, capsys):
    assert planned.run("train", 701, CONFIGURATION, "all") == 2
    assert "-device cpu" in capsys.readouterr().err


def test_lost_label_status_stops_the_training(space, capsys):
    lost = space.folder / "nnUNet_preprocessed/Dataset501_Target/conversion.json"
    lost.unlink()
    assert train(space, "Scratch") == 2
    said = capsys.readouterr().err
    assert "conversion.json" in said
    assert "atlas-nnunet preprocess Dataset501_Target" in said


def test_neither_workers_nor_time_change_the_weights(planned, tmp_path, monkeypatch):
    """Bit for bit: the batches are drawn by number, whoever prepares them."""
    from atlas_nnunet.cli import main

    found = []
    for workers in ("0", "2"):
        space = Workspace(tmp_path / workers)
        shutil.copytree(planned.folder, space.folder)
        for name, value in {**space.variables, "nnUNet_n_proc_DA": workers}.items():
            monkeypatch.setenv(name, value)
        assert main(["train", "701", CONFIGURATION, "all", "-device", "cpu"]) == 0
        path = final(space, "AtlasPretrainTrainer", "AtlasPretrainPlans", "Dataset701_Tiny")
        found.append(weights(path))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_ignore_label_is_refused_in_words(space, capsys):
    for folder in ("nnUNet_preprocessed", "nnUNet_raw"):
        path = space.folder / folder / "Dataset501_Target/dataset.json"
        content = json.loads(path.read_text())
        content["labels"]["ignore"] = 6
        path.write_text(json.dumps(content))
    assert train(space, "Scratch") == 2
    assert "-tr nnUNetTrainer" in capsys.readouterr().err


def write_foreign(folder):
    """What somebody else put into nnUNet_raw: plain labels, other names, no word of ours."""
    import nibabel as nib
    import numpy as np
    from support import tiny_case

    values = {"kidney_left": 1, "kidney_right": 2, "liver": 3}
    for number in range(3):
        ct_hu, masks = tiny_case(np.random.default_rng([9, number]))
        labels = sum(value * masks[name].astype(np.uint8) for name, value in values.items())
        for sub, array, ending in (("imagesTr", ct_hu, "_0000"), ("labelsTr", labels, "")):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            path = folder / sub / f"p{number}{ending}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    description = {
        "channel_names": {"0": "CT"}, "numTraining": 3, "file_ending": ".nii.gz",
        "labels": {"background": 0, "Left Kidney": 1, "Right Kidney": 2, "Liver": 3},
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def test_a_data_set_that_somebody_else_converted_goes_the_whole_way(space, tmp_path):
    """Softmax heads from region heads, joined by what their names mean; all is annotated."""
    write_foreign(space.folder / "nnUNet_raw/Dataset610_Foreign")
    pretrained = final(space, "AtlasPretrainTrainer", "AtlasPretrainPlans", "Dataset701_Tiny")
    images = space.folder / "nnUNet_raw/Dataset610_Foreign/imagesTr"
    labels = space.folder / "nnUNet_raw/Dataset610_Foreign/labelsTr"
    common = ("-p", "AtlasTransferPlans")
    for words in (
        ("fingerprint", 610, "-np", 1),
        ("plan", 610, "-pl", "AtlasTransferPlanner", "--from", pretrained, *SHORT),
        ("preprocess", 610, *common, "-np", 1),
        ("transfer", 610, "--from", pretrained),
        ("train", 610, CONFIGURATION, "all", "-tr", "AtlasTransferTrainer", *common,
         "-device", "cpu"),
        ("predict", "-i", images, "-o", tmp_path / "p", "-d", 610, "-f", "all", "-device", "cpu"),
        ("evaluate", tmp_path / "p", labels, "-np", 1),
    ):  # fmt: skip
        assert space.run(*words) == 0, words
    folder = space.folder / "nnUNet_preprocessed/Dataset610_Foreign"
    report = folder / f"atlas_nnunet/AtlasTransferPlans__{CONFIGURATION}.transfer_report.json"
    heads = json.loads(report.read_text())["heads"]
    kidneys = ("kidney_left", "kidney_right")
    assert heads == {"background": None, "liver": "liver", **{k: k for k in kidneys}}
    plans = json.loads((folder / "AtlasTransferPlans.json").read_text())
    assert plans["atlas_nnunet"]["training"]["mirror_axes"] == [], (
        "another reader does not say which axis is left-right"
    )
    scores = json.loads((tmp_path / "p/evaluation.json").read_text())
    assert set(scores["mean"]) == {"Left Kidney", "Right Kidney", "Liver"}


def planned_again(space, *more):
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    assert space.run("plan", 501, "-pl", "AtlasTransferPlanner", "--from", source, *SHORT,
                     "--optimizer", "sgd", "--seed", 3, *more) == 0  # fmt: skip


def tuned(space, *more):
    """Weights after a training with these settings, and those it started from."""
    planned_again(space, *more)
    pretrained = final(space, "AtlasPretrainTrainer", "AtlasPretrainPlans", "Dataset701_Tiny")
    assert space.run("transfer", 501, "--from", pretrained) == 0
    out = final(space, "AtlasTransferTrainer", "AtlasTransferPlans")
    shutil.rmtree(out.parent.parent, ignore_errors=True)
    assert train(space, "AtlasTransferPlans") == 0
    start = space.folder / ("nnUNet_preprocessed/Dataset501_Target/atlas_nnunet/"
                            f"AtlasTransferPlans__{CONFIGURATION}.transferred.pth")  # fmt: skip
    return weights(out), weights(start)


def distance(ends, part):
    return sum((ends[0][n] - ends[1][n]).abs().sum().item() for n in ends[0] if n.startswith(part))


def test_the_plans_schedule_average_and_pull_decide_the_weights(space):
    plain = tuned(space, "--schedule", "nnunet")
    frozen = tuned(space, "--schedule", "frozen_encoder")
    averaged = tuned(space, "--schedule", "nnunet", "--ema-decay", 0.99)
    pulled = tuned(space, "--schedule", "nnunet", "--l2-sp", 10)
    assert distance(frozen, "encoder.") == 0
    assert distance(frozen, "decoder.stages.") > 0
    # SGD of three steps an epoch moves on in one direction: the average lags, the pull holds back.
    assert 0 < distance(averaged, "encoder.") < distance(plain, "encoder.")
    assert 0 < distance(pulled, "encoder.") < distance(plain, "encoder.")


def test_a_scratch_twin_is_one_flag(space):
    planned_again(space, "--schedule", "scratch")
    folder = space.folder / "nnUNet_preprocessed/Dataset501_Target"
    twin = json.loads((folder / "AtlasScratchPlans.json").read_text())
    own = json.loads((folder / "AtlasTransferPlans.json").read_text())
    assert own["atlas_nnunet"]["training"]["schedule"] == "head_then_all"
    assert twin["atlas_nnunet"]["training"]["schedule"] == "scratch"
    alike = ("patch_size", "batch_size", "spacing", "architecture")
    for key in alike:
        config = twin["configurations"][CONFIGURATION], own["configurations"][CONFIGURATION]
        assert config[0][key] == config[1][key]


def test_the_split_is_nnunets_own_and_there_before_the_training(space):
    """Else the first training would change what it is made of, and could not be resumed."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    from atlas_nnunet.artefacts import Dataset
    from atlas_nnunet.errors import PlanError
    from atlas_nnunet.hosttraining import split_of

    with pytest.MonkeyPatch.context() as patch:
        for name, value in space.variables.items():
            patch.setenv(name, value)
        dataset = Dataset("Dataset501_Target")
        plans = json.loads(dataset.plans("Scratch").read_text())
        with pytest.raises(PlanError, match="5 folds need as many cases, there are 3"):
            split_of(dataset, plans, CONFIGURATION, "0")
        assert split_of(dataset, plans, CONFIGURATION, "all") is None
        cases = dataset.preprocessed / "Scratch_3d_fullres"
        names = [f"case_{i:03d}" for i in range(12)]
        for name in names:
            (cases / f"{name}.pkl").touch()
        stock = generate_crossval_split(names, seed=12345, n_splits=5)
        for fold, split in enumerate(stock):
            found = split_of(dataset, plans, CONFIGURATION, str(fold))
            assert found == {k: [str(name) for name in v] for k, v in split.items()}
        assert split_of(dataset, plans, CONFIGURATION, "5") is None
