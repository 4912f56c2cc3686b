"""`atlas-nnunet train`: when it trains, when it goes on, and when it leaves a run alone."""

import json
from types import SimpleNamespace

import pytest
from support import Workspace

from atlas_nnunet.errors import PlanError
from atlas_nnunet.settings import SECTION, Training
from atlas_nnunet.train import command

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

WORDS = ("train", 507, "3d_fullres", "all", "-p", "Plans", "-device", "cpu")


class KilledError(Exception):
    """In the middle of a training."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command with a host that writes files only; `run.host` says what it writes."""
    folder = tmp_path / "nnUNet_preprocessed/Dataset507_Target"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    monkeypatch.setenv("nnUNet_extTrainer", "")

    class Run:
        folder = (tmp_path / "nnUNet_results/Dataset507_Target/"
                  "AtlasPretrainTrainer__Plans__3d_fullres/fold_all")  # fmt: skip
        calls: list = []  # noqa: RUF012 - one class a test
        files: tuple = ("checkpoint_final.pth", "validation/summary.json")

        def __call__(self, *more, section=None, **settings):
            training = {"training": Training(**settings).as_json()}
            plans = {"configurations": {}, SECTION: training | (section or {})}
            (folder / "Plans.json").write_text(json.dumps(plans))
            return Workspace(tmp_path).run(*WORDS, *more)

    own = Run()

    def host(*_, resume, only_validate):
        own.calls.append({"resume": resume, "only_validate": only_validate})
        for name in own.files:
            path = own.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        if "validation/summary.json" not in own.files:
            raise KilledError

    monkeypatch.setattr(command, "run_host_training", host)
    return own


def test_what_is_done_is_not_done_again(run, capsys):
    assert run() == run() == 0
    assert run.calls == [{"resume": False, "only_validate": False}]
    assert "done before" in capsys.readouterr().out


def test_cases_are_known_by_content_not_by_the_times_of_their_files(run, tmp_path, capsys):
    """A hard link to a CT, as `convert` makes them, changes its times, and so a record's stamp."""
    record = tmp_path / "nnUNet_preprocessed/Dataset507_Target/atlas_nnunet/case.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"stamp": "of before", "outputs": {".b2nd": "a"}}))
    assert run() == 0
    record.write_text(json.dumps({"stamp": "of after", "outputs": {".b2nd": "a"}}))
    assert run() == 0
    assert "done before" in capsys.readouterr().out
    record.write_text(json.dumps({"stamp": "of after", "outputs": {".b2nd": "b"}}))
    assert run() == 2
    assert "other data" in capsys.readouterr().err


def test_a_training_that_was_killed_goes_on(run):
    run.files = ("checkpoint_latest.pth",)
    for _ in range(2):
        with pytest.raises(KilledError):
            run()
    assert [call["resume"] for call in run.calls] == [False, True]


def test_a_validation_that_was_killed_is_done_again(run):
    """Else some of a fold's cases would stand for all of them."""
    run.files = ("checkpoint_final.pth", "validation/case_000.nii.gz")
    with pytest.raises(KilledError):
        run()
    run.files = ("validation/summary.json",)
    assert run() == 0
    assert run.calls[-1] == {"resume": False, "only_validate": True}


def test_a_plan_without_validation_is_done_without_one(run, capsys):
    run.files = ("checkpoint_final.pth",)
    with pytest.raises(KilledError):
        run(final_validation=False)
    assert run(final_validation=False) == 0
    assert "done before" in capsys.readouterr().out


def test_a_new_training_that_is_killed_at_once_is_not_the_old_one(run, capsys):
    assert run(epochs=3) == 0
    assert run(epochs=4) == 2
    assert "--overwrite" in capsys.readouterr().err
    run.files = ()
    with pytest.raises(KilledError):
        run("--overwrite", epochs=4)
    assert not list(run.folder.rglob("*.pth"))
    assert not (run.folder / "validation").exists(), "predictions of the old one"
    run.files = ("checkpoint_final.pth", "validation/summary.json")
    assert run(epochs=4) == 0
    assert [call["resume"] for call in run.calls] == [False] * 3


def test_a_transfers_plan_is_not_trained_from_random_weights_in_silence(run, capsys):
    source = {"source": {"mode": "aligned"}}
    assert run(section=source, schedule="head_then_all") == 2
    assert "-tr AtlasTransferTrainer" in capsys.readouterr().err
    assert not run.calls
    assert run(section=source, schedule="scratch") == 0


def test_a_pull_to_weights_that_nobody_loads_is_refused():
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer

    trainer = object.__new__(AtlasPretrainTrainer)
    trainer.training, trainer.anchor = Training(l2_sp=0.1), None
    trainer.plans_manager = SimpleNamespace(plans_name="Plans")
    with pytest.raises(PlanError, match="l2_sp") as caught:
        trainer.on_train_start()
    assert "-tr AtlasTransferTrainer" in caught.value.do


def test_a_training_that_another_command_began_is_left_alone(run, capsys):
    run.folder.mkdir(parents=True)
    (run.folder / "checkpoint_latest.pth").write_text("weeks of work")
    assert run() == 2
    assert "nnUNetv2_train 507 3d_fullres all" in capsys.readouterr().err
    assert not run.calls
    assert (run.folder / "checkpoint_latest.pth").read_text() == "weeks of work"
    assert run("--overwrite") == 0
