"""What ends or spoils a training is said, counted, and leaves weights and checkpoints whole."""

import copy
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import Workspace, run_all, write_tiny_dataset

from atlas_nnunet.errors import PlanError, TrainingError
from atlas_nnunet.progress import Bar
from atlas_nnunet.training import collapse as collapse_module
from atlas_nnunet.training import guard as guard_module
from atlas_nnunet.training.failures import RememberedCases, ReportedBatches, in_words, opened
from atlas_nnunet.training.guard import MAX_IN_A_ROW, StepGuard
from atlas_nnunet.training.loading import Batches, SeededBatches
from atlas_nnunet.training.weights import refuse_bad_weights

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

GOOD, BAD = torch.tensor(1.0), torch.tensor(float("nan"))
BATCH = {"data": torch.zeros(2, 1, 3, 3, 3), "keys": ["case_a", "case_b"]}
RUN = "AtlasPretrainTrainer__AtlasPretrainPlans__3d_fullres"
PRETRAIN = ("train", 701, "3d_fullres", "all", "-device", "cpu")


def watching(batch=BATCH, network=None):
    lines = []
    guard = StepGuard(lines.append, lines.append)
    guard.begin(batch, network or torch.nn.Conv3d(1, 1, 1))
    return guard, lines


@pytest.mark.parametrize("loss", [GOOD, BAD, -BAD, torch.tensor(float("inf"))])
@pytest.mark.parametrize("norm", [GOOD, BAD, torch.tensor(float("inf"))])
def test_a_step_is_taken_where_loss_and_gradient_are_finite(loss, norm):
    guard, lines = watching()
    both = bool(torch.isfinite(loss) and torch.isfinite(norm))
    assert guard.allows_step(norm, loss) is both
    assert guard.skipped == guard.in_a_row == (not both)
    assert bool(lines) is not both


def test_the_cases_and_the_image_at_fault_are_named():
    data = BATCH["data"].clone()
    data[1, 0, 0, 0, 0] = torch.inf
    guard, lines = watching({**BATCH, "data": data})
    guard.allows_step(BAD, GOOD)
    assert "iteration 1: step skipped" in lines[0]
    assert "cases: case_a, case_b; voxels that are not finite: case_b)" in lines[0]


def test_only_failures_that_follow_one_another_stop_a_training():
    guard, _ = watching()
    for _ in range(3):
        for _ in range(MAX_IN_A_ROW - 1):
            assert not guard.allows_step(BAD, GOOD)
        assert guard.allows_step(GOOD, GOOD)
    assert guard.skipped == 3 * (MAX_IN_A_ROW - 1)
    for _ in range(MAX_IN_A_ROW - 1):
        guard.allows_step(BAD, GOOD)
    with pytest.raises(TrainingError, match=f"{MAX_IN_A_ROW} iterations in a row") as caught:
        guard.allows_step(BAD, GOOD)
    assert "case_a, case_b" in str(caught.value)
    assert "--learning-rate" in caught.value.do


def float16(scale):
    """A scaler at this scale, and an optimizer whose gradients have overflowed."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    scaler.scale(weight.sum()).backward()
    weight.grad.fill_(torch.inf)
    scaler.unscale_(optimizer)
    return scaler, weight.grad.norm()


@pytest.mark.parametrize(
    ("scale", "loss", "is_failure", "scale_after"),
    [
        (65536.0, GOOD, False, 32768.0),  # the scaler looks for its scale
        (1.0, GOOD, False, 0.5),
        (0.5, GOOD, True, 0.5),  # nothing is left to look for
        (65536.0, BAD, True, 65536.0),  # the forward pass: no scale would help
    ],
)
def test_a_float16_overflow_is_the_scalers_business(scale, loss, is_failure, scale_after):
    guard, lines = watching()
    scaler, norm = float16(scale)
    assert not guard.allows_step(norm, loss, scaler)
    assert guard.skipped == is_failure
    assert bool(lines) is is_failure
    assert scaler.get_scale() == scale_after


def test_a_batch_norm_does_not_keep_the_statistics_of_a_skipped_batch():
    network = torch.nn.BatchNorm3d(1)
    before = copy.deepcopy(network.state_dict())
    guard, _ = watching(network=network)
    network(torch.full((2, 1, 3, 3, 3), torch.inf))
    assert not torch.isfinite(network.running_mean).all()
    guard.allows_step(BAD, BAD)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


TWO_RANKS = """
import sys, torch
from torch import distributed
from atlas_nnunet.training.guard import StepGuard
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
lines = []
guard = StepGuard(lines.append, lines.append)
guard.begin({"keys": [f"of_rank_{rank}"]}, torch.nn.Conv3d(1, 1, 1))
loss = torch.tensor(1.0 if rank else float("nan"))
assert not guard.allows_step(torch.tensor(1.0), loss)
assert "of_rank_0, of_rank_1" in lines[0], lines
assert guard.allows_step(torch.tensor(1.0), torch.tensor(1.0))
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_decide_alike_though_one_of_them_has_a_finite_loss(tmp_path):
    words = [sys.executable, "-c", TWO_RANKS]
    ranks = [subprocess.Popen([*words, str(rank), tmp_path / "meet"]) for rank in (0, 1)]
    assert [process.wait(120) for process in ranks] == [0, 0]


def test_what_nobody_catches_is_printed_without_a_traceback_and_exits_with_1():
    code = "from atlas_nnunet.errors import *; raise TrainingError('no memory', where='w', do='d')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "\nerror: w: no memory\n  -> d\n"
    assert issubclass(TrainingError, Exception)


FAILURES = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "--memory-gb": RuntimeError("CUDA error: out of memory"),
    "main memory left": MemoryError(),
    "nnUNet_n_proc_DA": RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    "/dev/shm": RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    "a worker process": ConnectionResetError(104, "Connection reset by peer"),
    "disk is full": OSError(28, "No space left on device"),
    "checkpoint is damaged": RuntimeError("PytorchStreamReader failed reading zip archive"),
}


@pytest.mark.parametrize("expected", FAILURES)
def test_failures_from_outside_are_words_and_their_traceback_goes_to_the_log(expected):
    guard, _ = watching()
    log = []
    with pytest.raises(TrainingError) as caught, in_words(guard, log.append):
        raise FAILURES[expected]
    assert expected in str(caught.value)
    assert "iteration 1 (cases: case_a, case_b; batch x channels x patch: 2 x 1 x 3" in (
        caught.value.where
    )
    assert "Traceback" in log[0]
    assert "Traceback" not in str(caught.value)


def test_a_bug_keeps_its_traceback():
    guard, _ = watching()
    for bug in (RuntimeError("shape mismatch"), KeyError("x")):
        with pytest.raises(type(bug)) as caught, in_words(guard, print):
            raise bug
        assert caught.value is bug


class Unreadable:
    """In the place of nnU-Net's loader and data set: the third batch cannot be read."""

    source_folder = "/preprocessed/Dataset701_Tiny/Plans_3d_fullres"
    n = 0

    def load_case(self, identifier):
        return identifier

    def generate_train_batch(self):
        Unreadable.n += 1
        key = self._data.load_case(f"case_{np.random.randint(100)}")
        if Unreadable.n == 3:
            raise ValueError("wrong magic\nin the header")
        return {"keys": [key]}


def test_a_batch_that_cannot_be_prepared_names_the_case_in_its_turn():
    Unreadable.n = 0
    loader = Unreadable()
    loader._data = RememberedCases(Unreadable())
    batches = Batches(SeededBatches(loader, 0, 0, "train"), 0, 4, 1, False, 2)
    assert [len(next(batches)["keys"]) for _ in range(2)] == [1, 1]
    with pytest.raises(TrainingError, match=r"case_\d+: ValueError: wrong magic\n") as caught:
        next(batches)
    assert "atlas-nnunet preprocess Dataset701_Tiny" in caught.value.do
    assert caught.value.where.startswith(Unreadable.source_folder)
    assert "generate_train_batch" in caught.value.__notes__[0]


def test_an_error_of_ours_keeps_its_own_words():
    class Refusing:
        def __getitem__(self, _):
            raise PlanError("no", do="yes")

    with pytest.raises(PlanError, match="no"):
        opened(ReportedBatches(Refusing())[0])


def test_a_checkpoint_of_bad_weights_is_not_written():
    network = torch.nn.Conv3d(1, 1, 1)
    refuse_bad_weights(network, "checkpoint_latest.pth")
    with torch.no_grad():
        network.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="bias"):
        refuse_bad_weights(network, "checkpoint_latest.pth")


def test_a_note_is_seen_though_the_hosts_lines_are_not(capsys):
    Bar("train").note("it has collapsed")
    assert "note: it has collapsed" in capsys.readouterr().err


# ---- real trainings


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set and a plan of 2 epochs with 3 iterations each, a checkpoint after each."""
    space = Workspace(tmp_path_factory.mktemp("failures") / "space")
    write_tiny_dataset(space.folder / "nnUNet_raw", "Dataset701_Tiny", 4, seed=1)
    run_all(
        space.run,
        ("fingerprint", 701, "-np", 1),
        ("plan", 701, "--preset", "cpu", "--memory-gb", 0.02, "--epochs", 2, "--iterations", 3,
         "--val-iterations", 1, "--save-every", 1, "--ema-decay", 0.9),
        ("preprocess", 701, "-np", 1),
    )  # fmt: skip
    return space


@pytest.fixture
def training(prepared, tmp_path, monkeypatch):
    """A copy; `training.before_step` is called with the trainer and each training batch."""
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer as Trainer

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # two threads wait for each other

    class Training(Workspace):
        before_step = staticmethod(lambda trainer, batch: None)
        after_step = staticmethod(lambda trainer: None)
        fold = tmp_path / "space/nnUNet_results/Dataset701_Tiny" / RUN / "fold_all"

        def log(self):
            return "".join(p.read_text() for p in sorted(self.fold.glob("training_log*.txt")))

        def checkpoint(self, name):
            path = self.fold / f"checkpoint_{name}.pth"
            return torch.load(path, map_location="cpu", weights_only=False)

    space = Training(tmp_path / "space")
    shutil.copytree(prepared.folder, space.folder)
    stock = Trainer.train_step

    def train_step(trainer, batch):
        space.before_step(trainer, batch)
        out = stock(trainer, batch)
        space.after_step(trainer)
        return out

    monkeypatch.setattr(Trainer, "train_step", train_step)
    return space


def state_of(trainer):
    return copy.deepcopy([trainer.network.state_dict(), trainer.optimizer.state_dict()])


def flat(value):
    if isinstance(value, dict):
        return [leaf for key in value for leaf in flat(value[key])]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in flat(inner)]
    return [value]


def same(one, other):
    pairs = zip(flat(one), flat(other), strict=True)
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs)


def test_an_infinite_voxel_costs_one_step_and_nothing_else(training, capsys):
    """Weights, momentum and average (in the optimizer's state) are as before, bit for bit."""
    states, cases = {}, {}

    def spoil(trainer, batch):
        iteration = trainer.guard.iteration + 1
        states[iteration], cases[iteration] = state_of(trainer), batch["keys"]
        if iteration == 5:
            batch["data"][1, 0, 0, 0, 0] = torch.inf

    training.before_step = spoil
    assert training.run(*PRETRAIN) == 0
    assert same(states[5], states[6])
    assert not same(states[4], states[5])
    end = training.checkpoint("final")
    assert all(torch.isfinite(value).all() for value in end["network_weights"].values())
    assert not same(end["network_weights"], states[6][0])
    log = training.log()
    assert "iteration 5: step skipped" in log
    assert f"voxels that are not finite: {cases[5][1]}" in log
    curves = json.loads((training.fold / "curves.json").read_text())
    assert curves["skipped_steps"] == [0, 1]
    assert np.isfinite(curves["train_loss"]).all()
    shown = capsys.readouterr().err
    assert "1 step(s) of this epoch were skipped" in shown
    assert "final validation: not run: fold all holds no case out" in shown


def test_bad_steps_in_a_row_end_with_code_1_and_the_last_checkpoint(training, capsys, monkeypatch):
    monkeypatch.setattr(guard_module, "MAX_IN_A_ROW", 2)

    def spoil(trainer, batch):
        if trainer.guard.iteration >= 3:
            batch["data"][:] = torch.nan

    training.before_step = spoil
    assert training.run(*PRETRAIN) == 1
    shown = capsys.readouterr().err
    assert "2 iterations in a row" in shown
    assert "case_0" in shown
    assert "Traceback" not in shown
    assert not (training.fold / "checkpoint_final.pth").exists()
    latest = training.checkpoint("latest")
    assert latest["current_epoch"] == 1
    assert all(torch.isfinite(value).all() for value in latest["network_weights"].values())

    left = training.fold / f".partial~{os.uname().nodename}~{2**22 + 1}~checkpoint_latest.pth"
    left.write_text("half a checkpoint")
    training.before_step = lambda *_: None
    assert training.run(*PRETRAIN) == 0
    assert not left.exists(), "swept at the start"
    curves = json.loads((training.fold / "curves.json").read_text())
    del curves["dice_of_structures"]  # one list for each structure
    assert {len(values) for values in curves.values()} == {2}
    assert training.checkpoint("final")["current_epoch"] == 2


def test_no_gpu_memory_in_mid_training(training, capsys):
    def fail(trainer, _):
        if trainer.guard.iteration == 4:

            def forward(*_):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

            trainer.network.forward = forward

    training.before_step = fail
    assert training.run(*PRETRAIN) == 1
    shown = capsys.readouterr().err
    assert "iteration 5 (cases: case_0" in shown
    assert "patch: 2 x 1 x 20 x 24 x 24" in shown
    assert "--memory-gb" in shown
    assert "Traceback" not in shown
    assert "Traceback" in training.log()
    assert training.checkpoint("latest")["current_epoch"] == 1


@pytest.mark.parametrize(("workers", "epochs"), [("0", "2"), ("2", "10")])
def test_a_file_that_is_cut_off_between_epochs(training, capsys, monkeypatch, workers, epochs):
    """Two workers prepare 8 batches ahead: with 2 epochs they would be done before the cut."""
    from atlas_nnunet.cli import main

    for name, value in {**training.variables, "nnUNet_n_proc_DA": workers}.items():
        monkeypatch.setenv(name, value)
    words = (
        "plan 701 --preset cpu --memory-gb 0.02 --iterations 3 --val-iterations 1 --save-every 1"
    )
    assert main([*words.split(), "--epochs", epochs]) == 0
    folder = training.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    files = sorted(folder.glob("AtlasPretrainPlans_3d_fullres/case_???.b2nd"))
    assert len(files) == 4

    def cut(trainer):
        if trainer.guard.iteration == 4:
            for path in files:
                os.truncate(path, path.stat().st_size // 2)

    training.after_step = cut
    train = [str(word) for word in PRETRAIN]
    assert main(train) == 1
    shown = capsys.readouterr().err
    assert "no batch could be made of case case_0" in shown
    assert ".b2nd" in shown
    assert "atlas-nnunet preprocess Dataset701_Tiny" in shown
    assert "Traceback" not in shown
    assert "load_case" in training.log(), "the traceback is in the log"
    assert training.checkpoint("latest")["current_epoch"] >= 1
    assert not (training.fold / "checkpoint_final.pth").exists()
    assert main(["preprocess", "701", "-np", "1"]) == 0
    training.after_step = lambda *_: None
    if epochs == "2":
        assert main(train) == 0, "it resumes"


def test_a_worker_that_is_killed(training, capsys, monkeypatch):
    from atlas_nnunet.cli import main

    for name, value in {**training.variables, "nnUNet_n_proc_DA": "2"}.items():
        monkeypatch.setenv(name, value)
    before = {process.pid for process in multiprocessing.active_children()}
    prepared, held = SeededBatches.__getitem__, training.folder / "held"

    def held_up(batches, iteration):
        """The sixth batch is not ready when the worker dies, however fast the machine is."""
        if batches.stream == "train" and iteration == 5:
            held.write_text(str(os.getpid()))
            time.sleep(600)
        return prepared(batches, iteration)

    def kill(trainer):
        if trainer.guard.iteration == 4:
            while not held.is_file() or not held.read_text():
                time.sleep(0.05)
            os.kill(int(held.read_text()), signal.SIGKILL)

    monkeypatch.setattr(SeededBatches, "__getitem__", held_up)
    training.after_step = kill
    assert main([str(word) for word in PRETRAIN]) == 1
    shown = capsys.readouterr().err
    assert "a worker process that prepares batches was killed" in shown
    assert "nnUNet_n_proc_DA" in shown
    assert "Traceback" not in shown
    assert training.checkpoint("latest")["current_epoch"] == 1
    left = {process.pid for process in multiprocessing.active_children()} - before
    assert not left, "the other workers have ended too"


def test_equal_checkpoints_have_equal_bytes_and_name_no_machine(training, monkeypatch):
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer

    folder = training.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    plans = json.loads((folder / "AtlasPretrainPlans.json").read_text())
    dataset_json = json.loads((folder / "dataset.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in training.variables.items():
            patch.setenv(name, value)
        trainer = AtlasPretrainTrainer({**plans, "continue_training": False}, "3d_fullres", "all",
                                       dataset_json, torch.device("cpu"))  # fmt: skip
        trainer.initialize()
    machine = SimpleNamespace(nodename="machine-of-ours")
    monkeypatch.setattr(os, "uname", lambda: machine)
    paths = [training.folder / name for name in ("one.pth", "sub/another.pth")]
    for path in paths:
        trainer.save_checkpoint(str(path))
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert machine.nodename.encode() not in one
    assert b"partial~" not in one
    assert [p.name for p in paths[1].parent.iterdir()] == ["another.pth"]


SHORT = ("plan", 701, "--preset", "cpu", "--memory-gb", 0.02, "--val-iterations", 1)


def test_a_training_that_predicts_nothing_says_so_once(training, capsys, monkeypatch):
    """After 3 epochs here, not 20, to keep the test short."""
    monkeypatch.setattr(collapse_module, "N_EPOCHS", 3)
    words = ("--epochs", 5, "--iterations", 1, "--learning-rate", 1e-12)
    assert training.run(*SHORT, *words) == 0

    def silence(trainer, _):
        with torch.no_grad():
            for layer in trainer.network.decoder.seg_layers:
                layer.bias.fill_(-100)

    training.before_step = silence
    assert training.run(*PRETRAIN) == 0
    curves = json.loads((training.fold / "curves.json").read_text())
    assert curves["predicted_vox"] == [0] * 5
    text = curves["collapse"][2]
    assert "no structure at all" in text
    assert curves["collapse"] == ["", "", text, "", ""]
    for place in (capsys.readouterr().err, training.log()):
        assert place.count(text) == 1


def test_a_training_that_learns_reports_no_collapse(training, monkeypatch):
    monkeypatch.setattr(collapse_module, "N_EPOCHS", 3)
    assert training.run(*SHORT, "--epochs", 5, "--iterations", 4) == 0
    assert training.run(*PRETRAIN) == 0
    curves = json.loads((training.fold / "curves.json").read_text())
    assert curves["collapse"] == [""] * 5
    assert min(curves["predicted_vox"]) > 0
    assert curves["train_loss"][-1] < curves["train_loss"][0]


def test_a_validation_loss_that_is_not_finite_is_reported(training, capsys, monkeypatch):
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer as Trainer

    stock = Trainer.validation_step

    def validation_step(trainer, batch):
        if trainer.current_epoch == 1:
            batch["data"][:] = torch.inf
        return stock(trainer, batch)

    monkeypatch.setattr(Trainer, "validation_step", validation_step)
    assert training.run(*PRETRAIN) == 0
    text = "the validation loss was not finite (cases: case_0"
    for place in (capsys.readouterr().err, training.log()):
        assert place.count(text) == 1
