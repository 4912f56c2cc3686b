"""`atlas-nnunet train`: when it trains, when it goes on, and when it leaves a run alone."""

import json
from types import SimpleNamespace

import pytest
from support import Workspace

from atlas_nnunet.errors import PlanError, TrainingError
from atlas_nnunet.settings import SECTION, Training
from atlas_nnunet.train import command

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

WORDS = ("train", 507, "3d_fullres", "all", "-p", "Plans", "-device", "cpu")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


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
            plans = {"configurations": {"3d_fullres": {"batch_size": 2}}}
            plans[SECTION] = training | (section or {})
            (folder / "Plans.json").write_text(json.dumps(plans))
            return Workspace(tmp_path).run(*WORDS, *more)

    own = Run()

    def host(*_, resume, only_validate, num_gpus):
        own.num_gpus = num_gpus
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
        run(final_validation=True)
    run.files = ("validation/summary.json",)
    assert run(final_validation=True) == 0
    assert run.calls[-1] == {"resume": False, "only_validate": True}


@pytest.mark.parametrize("setting", [False, "auto"])
def test_a_run_that_is_not_validated_is_done_without(run, capsys, setting):
    """With "auto", fold all is not validated: these runs are of that fold."""
    run.files = ("checkpoint_final.pth",)
    with pytest.raises(KilledError):
        run(final_validation=setting)
    assert run(final_validation=setting) == 0
    assert "done before" in capsys.readouterr().out


def test_auto_validates_every_fold_but_all():
    auto = Training()
    assert [auto.validates(fold) for fold in (0, "1", 4, "all")] == [True, True, True, False]
    for asked in (True, False):
        assert {Training(final_validation=asked).validates(f) for f in (0, "all")} == {asked}
    with pytest.raises(PlanError, match="final_validation"):
        Training(final_validation="sometimes")


def test_a_training_that_stops_is_exit_code_1_and_its_message(run, capsys, monkeypatch):
    def stopped(*_, **__):
        raise TrainingError("the GPU has no memory left", where="iteration 7", do="free some")

    monkeypatch.setattr(command, "run_host_training", stopped)
    assert run() == 1
    shown = capsys.readouterr().err
    assert "iteration 7: the GPU has no memory left" in shown
    assert "-> free some" in shown
    assert str(run.folder) in shown, "where the log is"
    assert "Traceback" not in shown


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


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four of them, as far as the command asks torch."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)


def test_several_gpus_are_asked_for_and_make_another_run(run, gpus, capsys):
    """Each rank draws batches of its own."""
    assert run("-device", "cuda") == 0
    assert run.num_gpus == 1
    assert run("-device", "cuda", "--num-gpus", 2) == 2
    assert "another number of GPUs" in capsys.readouterr().err
    assert run("-device", "cuda", "--num-gpus", 2, "--overwrite") == 0
    assert run.num_gpus == 2
    assert run("-device", "cuda", "--num-gpus", 2) == 0
    assert len(run.calls) == 2


@pytest.mark.parametrize(
    ("n", "device", "words"),
    [
        (2, "cpu", "with cuda only, not with 'cpu'"),
        (5, "cuda", "5 GPUs are asked for, torch finds 4"),
        (3, "cuda", "a batch of 2 cannot be divided among 3 GPUs"),
        (0, "cuda", "0 GPUs cannot train"),
    ],
)
def test_gpus_that_cannot_train_are_refused_in_words(run, gpus, capsys, n, device, words):
    assert run("-device", device, "--num-gpus", n) == 2
    assert words in capsys.readouterr().err
    assert not run.calls
    assert not run.folder.exists()


def test_torchrun_is_refused_where_the_host_would_train_alone_in_each_process(
    run, gpus, capsys, monkeypatch
):
    from nnunetv2.run import run_training

    monkeypatch.delattr(run_training, "launched_by_external_launcher", raising=False)
    for name, value in {**TORCHRUN, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run("-device", "cuda") == 2
    assert "cannot join processes that torchrun has started" in capsys.readouterr().err
    assert not run.calls


def test_of_the_processes_of_a_torchrun_one_keeps_the_record(run, gpus, capsys, monkeypatch):
    """On a host that joins them. The others must not clear what it has begun."""
    from nnunetv2.run import run_training

    join = "launched_by_external_launcher"
    monkeypatch.setattr(run_training, join, lambda: True, raising=False)
    for name, value in {**TORCHRUN, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run("-device", "cuda", "--num-gpus", 2) == 2
    assert "leave it out under torchrun" in capsys.readouterr().err
    run.files = ("checkpoint_latest.pth",)
    with pytest.raises(KilledError):
        run("-device", "cuda")
    assert not (run.folder / command.RECORD).exists()
    monkeypatch.setenv("RANK", "0")
    run.files = ("checkpoint_final.pth", "validation/summary.json")
    assert run("-device", "cuda", "--overwrite", final_validation=True) == 0
    assert run.num_gpus == 1
    assert not (run.folder / "checkpoint_latest.pth").exists()
    assert "written" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    (run.folder / "validation/summary.json").unlink()
    assert run("-device", "cuda", final_validation=True) == 0
    assert run.calls[-1] == {"resume": False, "only_validate": True}
    assert (run.folder / "checkpoint_final.pth").exists()
    assert "written" not in capsys.readouterr().out


def test_a_process_that_stops_is_named_in_words(monkeypatch):
    from nnunetv2.run import run_training
    from torch.multiprocessing import ProcessRaisedException

    from atlas_nnunet.errors import AtlasError
    from atlas_nnunet.hosttraining import run_host_training

    def stop(*_, num_gpus, **__):
        raise ProcessRaisedException("out of memory", error_index=1, error_pid=7)

    monkeypatch.setattr(run_training, "run_training", stop)
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    with pytest.raises(AtlasError, match="the process of GPU 1 stopped") as caught:
        run_host_training("Dataset507_T", "3d_fullres", "0", "T", "P", "cuda", resume=False,
                          num_gpus=2)  # fmt: skip
    assert "out of memory" in str(caught.value)
