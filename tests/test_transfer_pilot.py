"""The pilot: two arms that differ by start and schedule alone, and an answer that numbers allow."""

import json
import shutil

import pytest
from support import Workspace, run_all, write_tiny_dataset

from atlas_nnunet.errors import TransferError
from atlas_nnunet.settings import Training
from atlas_nnunet.transfer.pilot import brief

CONFIGURATION = "3d_fullres"
SHORT = ("--preset", "cpu", "--memory-gb", 0.02, "--epochs", 3, "--iterations", 2,
         "--val-iterations", 1)  # fmt: skip
NAME = "Dataset501_Target"


def test_both_arms_have_the_same_length_seed_and_batches():
    own = Training.of_schedule("suprem", {"epochs": 500, "iterations": 7, "seed": 3,
                                          "mirror_axes": (1,), "ema_decay": 0.9})  # fmt: skip
    found = brief(own, None, 20)
    for name in ("epochs", "iterations", "val_iterations", "seed", "mirror_axes"):
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


@pytest.fixture
def space(planned, tmp_path):
    space = Workspace(tmp_path / "space")
    shutil.copytree(planned.folder, space.folder)
    write_tiny_dataset(space.folder / "nnUNet_raw", NAME, 6, seed=2)
    return space


@pytest.mark.host
def test_both_arms_are_trained_scored_and_compared_and_it_resumes(space, capsys):
    source = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/AtlasPretrainPlans.json"
    run = space.folder / ("nnUNet_results/Dataset701_Tiny/AtlasPretrainTrainer__AtlasPretrainPlans"
                          f"__{CONFIGURATION}/fold_all/checkpoint_final.pth")  # fmt: skip
    run_all(
        space.run,
        ("train", 701, CONFIGURATION, "all", "-device", "cpu"),
        ("fingerprint", 501, "-np", 1),
        ("plan", 501, "-pl", "AtlasTransferPlanner", "--from", source, *SHORT),
        ("preprocess", 501, "-p", "AtlasTransferPlans", "-np", 1),
    )
    words = ("transfer", 501, "--from", run, "--pilot", "0", "--pilot-epochs", 2,
             "-device", "cpu")  # fmt: skip
    assert space.run(*words) == 0
    said = capsys.readouterr().out
    assert "validates 2 cases, and fewer than 6 decide nothing" in said
    assert "pilot: transfer and scratch cannot be told apart yet" in said
    folder = space.folder / "nnUNet_preprocessed" / NAME
    arms = {arm: json.loads((folder / f"AtlasTransferPlansPilot{arm}.json").read_text())
            for arm in ("Scratch", "Transfer")}  # fmt: skip
    assert [p["atlas_nnunet"]["training"]["schedule"] for p in arms.values()] == [
        "scratch", "head_then_all",
    ]  # fmt: skip
    assert arms["Scratch"]["configurations"] == arms["Transfer"]["configurations"]
    compared = folder / f"atlas_nnunet/AtlasTransferPlans__{CONFIGURATION}.pilot/compare.json"
    first = compared.read_bytes()
    verdict = json.loads(first)["comparisons"][0]["verdict"]
    assert verdict["answer"] == "cannot be told apart yet"
    assert space.run(*words) == 0
    assert capsys.readouterr().out.count("done before") == 3, "the transfer and two trainings"
    assert compared.read_bytes() == first


@pytest.mark.host
def test_a_pilot_of_a_dry_run_is_refused(space, capsys):
    assert space.run("transfer", 501, "--from", "x.pth", "--pilot", "--dry-run",
                     "-device", "cpu") == 2  # fmt: skip
    assert "--dry-run" in capsys.readouterr().err
