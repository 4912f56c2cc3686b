"""The pilot: two arms that differ by start and schedule alone, and an answer that numbers allow."""

import json
import shutil

import pytest
from support import Workspace, run_all, write_tiny_dataset

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.cli import main
from atlas_nnunet.errors import TransferError
from atlas_nnunet.settings import SECTION, Training
from atlas_nnunet.transfer.pilot import ARMS, Pilot, brief, run_pilot

CONFIGURATION = "3d_fullres"
SHORT = ("--preset", "cpu", "--memory-gb", 0.02, "--epochs", 3, "--iterations", 2,
         "--val-iterations", 1)  # fmt: skip
NAME = "Dataset501_Target"


def test_both_arms_have_the_same_length_seed_and_batches():
    own = Training.of_schedule("suprem", {"epochs": 500, "iterations": 7, "seed": 3,
                                          "mirror_axes": (1,), "ema_decay": 0.9})  # fmt: skip
    found = brief(own, None, 20)
    for name in ("epochs", "iterations", "val_iterations", "seed", "mirror_axes", "ema_decay"):
        assert getattr(found["scratch"], name) == getattr(found["transfer"], name)
    assert found["transfer"].schedule == "suprem"
    assert (found["transfer"].optimizer, found["transfer"].ema_decay) == ("adamw", 0.9)
    assert [p.epochs for p in found["transfer"].phases] == [20]
    assert (found["scratch"].optimizer, found["scratch"].learning_rate) == ("sgd", 1e-2)
    assert all(t.final_validation for t in found.values())


def test_the_scratch_arm_has_the_rate_of_the_twin_beside_it():
    twin = Training.of_schedule("scratch", {"optimizer": "adamw", "learning_rate": 0.003})
    found = brief(Training(schedule="head_then_all"), twin, 5)["scratch"]
    assert (found.optimizer, found.learning_rate) == ("adamw", 0.003)


def test_a_plan_from_scratch_has_no_transfer_to_try():
    with pytest.raises(TransferError, match="scratch"):
        brief(Training(schedule="scratch"), None, 5)


def test_a_folder_that_the_trainings_need_is_asked_for_before_the_transfer(
    tmp_path, monkeypatch, capsys
):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    words = ["transfer", "501", "--from", "x.pth", "--pilot", "-device", "cpu"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "nnUNet_results is not set" in said
    assert "atlas-nnunet env --root" in said


@pytest.fixture
def pilot(tmp_path, monkeypatch):
    """A pilot whose commands write what it reads, nothing else; with the words of each."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    dataset = Dataset(NAME)
    own = Training(schedule="head_then_all", epochs=100).as_json()
    cases = [f"case_{i}" for i in range(4)]
    folds = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:2], "val": cases[2:]}]
    files = {
        "dataset.json": {"file_ending": ".nii.gz"},
        "splits_final.json": folds,
        "AtlasTransferPlans.json": {"configurations": {}, SECTION: {"training": own}},
        "atlas_nnunet/AtlasTransferPlans__c.transferred.pth": "weights",
        "atlas_nnunet/AtlasTransferPlans__c.transfer_report.json": "report",
        **{f"gt_segmentations/{case}.nii.gz": case for case in cases},
    }
    for name, content in files.items():
        path = dataset.preprocessed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    pilot = Pilot(dataset, "AtlasTransferPlans", "c", ("0",), 20, "cpu")
    said = []

    def call(words):
        said.append(words)
        if words[0] == "train":
            name = words[words.index("-p") + 1]
            folder = dataset.run("AtlasTransferTrainer", name, "c", words[3]) / "validation"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            split = json.loads((dataset.preprocessed / "splits_final.json").read_text())
            for case in split[int(words[3])]["val"]:
                (folder / f"{case}.nii.gz").touch()
        if words[0] == "compare":
            verdict = {"answer": "helps", "reason": "numbers"}
            (pilot.folder / "compare.json").write_text(
                json.dumps({"comparisons": [{"verdict": verdict}]})
            )
        return 0

    return pilot, call, said


@pytest.mark.parametrize("links", [True, False])
def test_the_transfers_arm_starts_from_its_weights_on_any_file_system(pilot, monkeypatch, links):
    def refused(*_):
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", refused)
    own, call, said = pilot
    for _ in range(2):
        assert run_pilot(own, call) == 0
    first, second = (own.dataset.transferred(own.arm_plans(arm), "c") for arm in ARMS)
    assert not first.exists()
    assert second.read_bytes() == own.dataset.transferred(own.plans, "c").read_bytes()
    assert [words[0] for words in said] == [*["train", "evaluate"] * 2, "compare"] * 2


def test_references_are_those_of_the_split_that_was_trained_on(pilot):
    own, call, _ = pilot
    assert run_pilot(own, call) == 0
    path = own.dataset.preprocessed / "splits_final.json"
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    assert run_pilot(own, call) == 0
    found = sorted(p.name for p in (own.folder / "references_0").iterdir())
    assert found == ["case_2.nii.gz", "case_3.nii.gz"]


def test_phases_that_were_edited_are_not_left_out_in_silence(pilot, capsys):
    own, call, _ = pilot
    assert run_pilot(own, call) == 0
    assert "phases" not in capsys.readouterr().out
    path = own.dataset.plans(own.plans)
    content = json.loads(path.read_text())
    content[SECTION]["training"]["phases"][0]["learning_rate"] /= 2
    path.write_text(json.dumps(content))
    assert run_pilot(own, call) == 0
    assert "not those of its schedule" in capsys.readouterr().out


@pytest.fixture
def space(pretrained, tmp_path):
    space = Workspace(tmp_path / "space")
    shutil.copytree(pretrained.folder, space.folder)
    write_tiny_dataset(space.folder / "nnUNet_raw", NAME, 6, seed=2)
    return space


@pytest.mark.host
def test_both_arms_are_trained_scored_and_compared_and_it_resumes(space, capsys):
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    run = space.folder / ("nnUNet_results/Dataset701_Tiny/AtlasPretrainTrainer__AtlasPretrainPlans"
                          f"__{CONFIGURATION}/fold_all/checkpoint_final.pth")  # fmt: skip
    run_all(
        space.run,
        ("fingerprint", 501, "-np", 1),
        ("plan", 501, "-pl", "AtlasTransferPlanner", "--from", source, *SHORT),
        ("preprocess", 501, "-p", "AtlasTransferPlans", "-np", 1),
    )
    words = ("transfer", 501, "--from", run, "--pilot", "0", "--pilot-epochs", 2,
             "-device", "cpu")  # fmt: skip
    assert space.run(*words) == 0
    said = capsys.readouterr().out
    assert "validates 2 cases, and fewer than 6 decide nothing" in said
    assert "pilot: the result is undecided" in said
    folder = space.folder / "nnUNet_preprocessed" / NAME
    names = {arm: f"AtlasTransferPlansPilot{arm}_{CONFIGURATION}.json"
             for arm in ("Scratch", "Transfer")}  # fmt: skip
    arms = {arm: json.loads((folder / name).read_text()) for arm, name in names.items()}
    assert [p["atlas_nnunet"]["training"]["schedule"] for p in arms.values()] == [
        "scratch", "head_then_all",
    ]  # fmt: skip
    assert arms["Scratch"]["configurations"] == arms["Transfer"]["configurations"]
    compared = folder / f"atlas_nnunet/AtlasTransferPlans__{CONFIGURATION}.pilot/compare.json"
    first = compared.read_bytes()
    verdict = json.loads(first)["comparisons"][0]["verdict"]
    assert verdict["answer"] == "undecided"
    assert space.run(*words) == 0
    assert capsys.readouterr().out.count("done before") == 3, "the transfer and two trainings"
    assert compared.read_bytes() == first


@pytest.mark.host
def test_a_pilot_of_a_dry_run_is_refused(space, capsys):
    assert space.run("transfer", 501, "--from", "x.pth", "--pilot", "--dry-run",
                     "-device", "cpu") == 2  # fmt: skip
    assert "--dry-run" in capsys.readouterr().err
