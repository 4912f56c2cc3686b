"""The clock decides nothing; what a plan calls deterministic is so, or stops in words."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise import gaussian_blur
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from support import Workspace

from atlas_nnunet.errors import TrainingError
from atlas_nnunet.settings import Training
from atlas_nnunet.training.determinism import arithmetic, untimed
from atlas_nnunet.training.failures import in_words
from atlas_nnunet.training.guard import StepGuard

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def space(planned, tmp_path_factory):
    """A copy, since these tests plan more."""
    space = Workspace(tmp_path_factory.mktemp("determinism") / "space")
    shutil.copytree(planned.folder, space.folder)
    return space


def trainer_of(space, monkeypatch):
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer

    for name, value in {**space.variables, "nnUNet_n_proc_DA": "0"}.items():
        monkeypatch.setenv(name, value)
    folder = space.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    plans = json.loads((folder / "AtlasPretrainPlans.json").read_text())
    return AtlasPretrainTrainer(
        {**plans, "continue_training": False}, "3d_fullres", "all",
        json.loads((folder / "dataset.json").read_text()), torch.device("cpu"),
    )  # fmt: skip


def clock(monkeypatch, fast):
    """A clock by which FFT is faster (`fast="fft"`), or the convolution."""
    now, blur = [0.0], gaussian_blur.blur_dimension

    def blurred(*args, force_use_fft=None, **options):
        now[0] += 1.0 if force_use_fft == (fast == "fft") else 9.0
        return blur(*args, force_use_fft=force_use_fft, **options)

    monkeypatch.setattr(gaussian_blur, "blur_dimension", blurred)
    monkeypatch.setattr(gaussian_blur, "time", lambda: now[0])


def batches_by(clock_of, space, switch_off):
    """The first batches of our loader, every one of them blurred."""
    with pytest.MonkeyPatch.context() as patch:
        clock(patch, clock_of)
        patch.setattr("atlas_nnunet.training.fed.untimed",
                      untimed if switch_off else lambda transform: transform)  # fmt: skip
        patch.setattr(RandomTransform, "get_parameters", lambda *_, **__: {"apply_transform": True})
        trainer = trainer_of(space, patch)
        trainer.initialize()
        train, _ = trainer.get_dataloaders()
        return [next(train)["data"].numpy() for _ in range(3)]


def test_two_loaders_give_the_same_bytes_whichever_blur_is_faster(space):
    ours = [batches_by(which, space, switch_off=True) for which in ("fft", "convolution")]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*ours, strict=True))
    stock = [batches_by(which, space, switch_off=False) for which in ("fft", "convolution")]
    assert any(a.tobytes() != b.tobytes() for a, b in zip(*stock, strict=True))
    for a, b in zip(ours[0], stock[1], strict=True):
        assert a.tobytes() == b.tobytes(), "the values of stock where it convolves"
    for a, b in zip(*stock, strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-3)


def test_it_is_switched_off_however_deep_it_is():
    deep = [GaussianBlurTransform(benchmark=True) for _ in range(3)]
    whole = ComposeTransforms([
        RandomTransform(RandomTransform(deep[0])), ComposeTransforms([deep[1]]),
        OneOfTransform([deep[2]]), BasicTransform(),
    ])  # fmt: skip
    assert untimed(whole) is whole
    assert [blur.benchmark for blur in deep] == [False] * 3


def flags():
    cudnn = torch.backends.cudnn
    return cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("before", [(False, True, False), (True, False, True)])
def test_deterministic_arithmetic_ends_with_the_training(before):
    cudnn, first = torch.backends.cudnn, flags()
    cudnn.deterministic, cudnn.benchmark = before[:2]
    torch.use_deterministic_algorithms(before[2])
    try:
        with arithmetic(False):
            assert flags() == before
        seen = []
        with pytest.raises(KeyError), arithmetic(True):
            raise KeyError(seen.append(flags()))
        assert seen == [(True, False, True)]
        assert flags() == before
    finally:
        cudnn.deterministic, cudnn.benchmark = first[:2]
        torch.use_deterministic_algorithms(first[2])


def test_an_operation_without_a_deterministic_form_stops_in_words():
    guard = StepGuard(print, print)
    log = []
    with pytest.raises(TrainingError) as caught, in_words(guard, log.append), arithmetic(True):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
    assert "put_" in str(caught.value)
    assert caught.value.do == "plan again without --deterministic"


def test_the_plan_says_whether_a_training_is_deterministic(space, monkeypatch):
    assert space.run("plan", 701, "-p", "Same", "--preset", "cpu", "--memory-gb", 0.02,
                       "--deterministic") == 0  # fmt: skip
    folder = space.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    settings = json.loads((folder / "Same.json").read_text())["atlas_nnunet"]["training"]
    assert settings["deterministic"] is True
    assert settings["final_validation"] == "auto"
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    seen = []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda _: seen.append(flags()[2]))
    trainer = trainer_of(space, monkeypatch)
    for deterministic in (False, True):
        trainer = copy.copy(trainer)
        trainer.training = Training(deterministic=deterministic)
        trainer.run_training()
    assert seen == [False, True]


@pytest.mark.parametrize(("word", "value"), [("--final-validation", True),
                                             ("--no-final-validation", False)])  # fmt: skip
def test_the_final_validation_is_asked_for_or_not(space, word, value):
    assert space.run("plan", 701, "-p", "Asked", "--preset", "cpu", "--memory-gb", 0.02,
                       word) == 0  # fmt: skip
    path = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/Asked.json"
    found = json.loads(path.read_text())["atlas_nnunet"]["training"]["final_validation"]
    assert found is value
    assert space.run("plan", 701, "-pl", "ExperimentPlanner", word) == 2


@pytest.mark.parametrize("setting", [True, False, "auto"])
@pytest.mark.parametrize("fold", [0, "all"])
def test_a_validation_that_somebody_asks_for_runs(space, monkeypatch, setting, fold):
    """`nnUNetv2_train --val` calls no `run_training` before."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    ran = []
    for name in ("perform_actual_validation", "run_training"):
        monkeypatch.setattr(nnUNetTrainer, name, lambda *_, name=name: ran.append(name))
    trainer = trainer_of(space, monkeypatch)
    monkeypatch.setattr(trainer, "print_to_log_file", print)
    trainer.training, trainer.fold = Training(final_validation=setting), fold
    trainer.perform_actual_validation()
    assert ran == ["perform_actual_validation"]
    trainer.run_training()
    trainer.perform_actual_validation()
    wanted = setting is True or (setting == "auto" and fold == 0)
    assert ran[1:] == ["run_training", *["perform_actual_validation"] * wanted]
