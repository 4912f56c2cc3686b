"""Several processes train as one process with the same batch; one of them writes."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
import torch
from support import Workspace

from atlas_nnunet.training.distributed import Ranks, global_rank

pytest.importorskip("nnunetv2")
gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)


def relative(found, want):
    """Largest difference relative to the largest value of a list of tensors."""
    scale = max(float(w.abs().max()) for w in want)
    return max(float((f - w).abs().max()) for f, w in zip(found, want, strict=True)) / scale


def of_both(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    ranks.on_two_ranks(ranks.steps_of_all_cases, folder)
    return of_both(folder)


@gloo
@pytest.mark.parametrize("case", ranks.CASES, ids=str)
def test_two_ranks_have_the_gradient_of_one_process(on_ranks, case):
    """Batch of 3 as 2 + 1, partial label status, deep supervision; iteration 2 is reached."""
    want = ranks.two_steps(case, ranks.problem(case[0], case[2])[0], slice(None), 3)
    first, second = (found[case] for found in on_ranks)
    assert torch.allclose((first["loss"] + second["loss"]) / 2, want["loss"], rtol=1e-5)
    for gradient, other in zip(first["gradients"], second["gradients"], strict=True):
        assert torch.equal(gradient, other)
    assert relative(first["gradients"], want["gradients"]) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert relative(first["weights"], want["weights"]) < 1e-5


@gloo
@pytest.mark.host
def test_the_sum_over_ranks_has_the_gradient_of_nnunets(tmp_path):
    ranks.on_two_ranks(ranks.sums, tmp_path / "sums")
    for ours, stock in of_both(tmp_path / "sums"):
        assert torch.equal(ours[0], stock[0])
        assert torch.equal(ours[1], stock[1])
    assert torch.equal(Ranks().sum(ours[0]), ours[0]), "of one process: itself"


@pytest.fixture
def space(planned, tmp_path):
    """A copy with a fold 0 and plans for batches of 2 and 3."""
    space = Workspace(tmp_path / "space")
    shutil.copytree(planned.folder, space.folder)
    folder = space.folder / "nnUNet_preprocessed/Dataset701_Tiny"
    cases = [f"case_{i:03d}" for i in range(4)]
    split = [{"train": cases[:2], "val": cases[2:]}]
    (folder / "splits_final.json").write_text(json.dumps(split))
    plans = json.loads((folder / "AtlasPretrainPlans.json").read_text())
    for name, batch_size in (("Two", 2), ("Three", 3)):
        plans["plans_name"] = name
        configuration = plans["configurations"]["3d_fullres"]
        configuration["batch_size"], configuration["batch_dice"] = batch_size, True
        network = configuration["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [4] * network["n_stages"]
        training = plans["atlas_nnunet"]["training"]
        training["optimizer"], training["final_validation"] = "sgd", True
        (folder / f"{name}.json").write_text(json.dumps(plans))
    return space


@gloo
@pytest.mark.host
def test_two_trainers_step_as_one(space, tmp_path, monkeypatch):
    """The real train_step and validation: gradients, weights, loss and online Dice."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer

    ranks.on_two_ranks(ranks.steps_of_the_trainer, tmp_path / "two", space.folder)
    for name, value in space.variables.items():
        monkeypatch.setenv(name, value)
    for name in ("DDP", "device_count", "get_network_from_plans"):  # replaced by ranks.trainer_in
        monkeypatch.setattr(nnUNetTrainer, name, getattr(nnUNetTrainer, name))
    (tmp_path / "one").mkdir()
    ranks.steps_of_the_trainer(0, tmp_path / "one", space.folder, shared=False)
    want = torch.load(tmp_path / "one/rank0.pt", weights_only=False)
    first, second = of_both(tmp_path / "two")
    assert np.mean(first["losses"] + second["losses"]) == pytest.approx(want["losses"][0], rel=1e-5)
    names = list(want["gradients"])
    assert list(first["gradients"]) == names
    for key in ("gradients", "weights"):
        mine, other, one = ([found[key][n] for n in names] for found in (first, second, want))
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True)), key
        assert relative(mine, one) < 1e-5, key
    for key, value in want["logged"].items():
        assert first["logged"][key] == pytest.approx(value, rel=1e-4, nan_ok=True), key
        assert second["logged"][key] == pytest.approx(value, rel=1e-4, nan_ok=True), key


@gloo
@pytest.mark.host
def test_two_ranks_train_resume_and_validate_as_one_training(space, tmp_path):
    """Only rank 0 writes (rank 1 raises if it saves), both resume, both predict cases."""
    folder = tmp_path / "run"
    ranks.on_two_ranks(ranks.whole_trainings, folder, space.folder)
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["resumed"] == first["weights"], "bit for bit"
    assert second["resumed"] == first["weights"]
    assert len(set(first["sums"] + second["sums"])) == 12, "no batch is repeated"
    out = "Dataset701_Tiny/AtlasPretrainTrainer__Two__3d_fullres/fold_0"
    for name in ("through", "resumed"):
        stored = torch.load(folder / name / out / "checkpoint_final.pth", weights_only=False)
        for parameter, values in first["weights"].items():
            assert stored["network_weights"][parameter].tolist() == values
        curves = json.loads((folder / name / out / "curves.json").read_text())
        assert len(curves["train_loss"]) == 2
    validation = folder / "through" / out / "validation"
    assert sorted(p.name for p in validation.glob("*.nii.gz")) == [
        "case_002.nii.gz", "case_003.nii.gz"
    ]  # fmt: skip
    assert (validation / "summary.json").is_file()


def mimic(local_rank, **more):
    """Our trainer on a host that counts ranks by node and over all nodes."""
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer

    trainer = object.__new__(AtlasPretrainTrainer)
    trainer.local_rank, trainer.disable_checkpointing = local_rank, False
    for name, value in more.items():
        setattr(trainer, name, value)
    return trainer


def test_the_rank_is_the_global_one_where_the_host_has_one():
    assert global_rank(SimpleNamespace(local_rank=1)) == 1
    assert global_rank(SimpleNamespace(local_rank=1, global_rank=5)) == 5
    assert mimic(0, global_rank=4).rank == 4


@pytest.mark.host
def test_a_second_node_neither_writes_nor_repeats_batches(tmp_path, monkeypatch):
    """local_rank 0 and global_rank 2 on a host that guards its writing by the global rank."""
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from atlas_nnunet.training import fed
    from atlas_nnunet.training.collapse import Record

    def save(self, target):
        if self.global_rank == 0:
            target.write(b"weights")

    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", save)
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda self: None)
    monkeypatch.setattr(fed, "WeightedLoader", lambda *_, **__: None)
    path = tmp_path / "checkpoint_latest.pth"
    seeds = []
    monkeypatch.setattr(fed, "SeededBatches", lambda _, seed, rank, stream: seeds.append(rank))
    monkeypatch.setattr(fed, "Batches", lambda *_, **__: None)
    logged = {"dice_per_class_or_region": [[0.5]]}
    for number in (2, 0):
        trainer = mimic(
            0, global_rank=number, output_folder=str(tmp_path), batch_size=1, current_epoch=0,
            configuration_manager=SimpleNamespace(patch_size=(8, 8, 8)), label_manager=None,
            oversample_foreground_percent=0, probabilistic_oversampling=False, num_epochs=1,
            training=SimpleNamespace(seed=0), device=torch.device("cpu"),
            logger=SimpleNamespace(get_value=lambda key, **_: logged.get(key, [0.5])),
            network=torch.nn.Linear(1, 1), status=SimpleNamespace(structures=("liver",)),
            guard=SimpleNamespace(end_epoch=lambda: 0), record=Record(), _predicted_vox=1,
            print_to_log_file=lambda *_, **__: None,
        )  # fmt: skip
        trainer.save_checkpoint(str(path))
        trainer.on_epoch_end()
        assert path.is_file() == (tmp_path / "curves.json").is_file() == (number == 0)
        ahead = SimpleNamespace(workers=lambda _: 0, factor=None)
        trainer._batches("train", None, (8, 8, 8), BasicTransform(), 1, ahead, None)
    assert seeds == [2, 0]
