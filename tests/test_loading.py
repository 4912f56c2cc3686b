"""Batches depend on (seed, rank, stream, iteration), not on workers nor on where one starts."""

import random
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.training.loading import Batches, SeededBatches, seed_everything
from atlas_nnunet.training.prefetch import FACTOR, GB, Prefetch, batch_bytes


class Draws:
    """Stands where nnU-Net's loader stands: draws from all three random states."""

    def generate_train_batch(self):
        data = torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])
        return {"data": data, "keys": np.array(["case"])}


def drawn(start=0, stop=6, workers=0, seed=1, rank=0, stream="train"):
    batches = SeededBatches(Draws(), seed, rank, stream)
    return [b["data"].tolist() for b in Batches(batches, start, stop, workers, False, 4)]


def test_workers_do_not_change_a_batch():
    assert drawn(workers=0) == drawn(workers=2)


def test_a_resumed_training_sees_the_batches_it_would_have_seen():
    assert drawn()[3:] == drawn(start=3)


@pytest.mark.parametrize("other", [{"seed": 2}, {"rank": 1}, {"stream": "val"}])
def test_seed_rank_and_stream_draw_differently(other):
    whole = drawn()
    assert all(a != b for a, b in zip(whole, drawn(**other), strict=True))
    assert len({tuple(batch) for batch in whole}) == len(whole)


def test_all_three_random_states_are_set():
    states = []
    for _ in range(2):
        seed_everything(3, 4)
        states.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert states[0] == states[1]


class Marks:
    """Leaves a file for each batch that was prepared."""

    def __init__(self, folder):
        self.folder = folder

    def generate_train_batch(self):
        (self.folder / f"{torch.randint(2**60, (1,)).item()}").touch()
        return {"data": torch.zeros(4), "keys": np.array(["case"])}


@pytest.mark.parametrize(("workers", "factor"), [(1, 1), (2, 1), (2, 3)])
def test_no_more_batches_wait_than_workers_times_factor(tmp_path, workers, factor):
    ahead = Batches(SeededBatches(Marks(tmp_path), 1, 0, "train"), 0, 50, workers, False, factor)

    def prepared():
        """Once nothing is added for half a second."""
        before = -1
        while before != len(list(tmp_path.iterdir())):
            before = len(list(tmp_path.iterdir()))
            time.sleep(0.5)
        return before

    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    for taken in range(4):
        assert prepared() - taken == workers * factor
        next(ahead)


@given(
    budget_gb=st.floats(0, 20),
    bytes_each=st.integers(1, 3 * GB),
    workers=st.integers(0, 64),
)
def test_both_queues_fit_into_the_budget_and_no_worker_is_given_up_without_need(
    budget_gb, bytes_each, workers
):
    ahead = Prefetch.within(budget_gb, bytes_each, workers)
    assert ahead.most_batches * bytes_each <= budget_gb * GB
    assert ahead.val_workers == ahead.train_workers // 2
    queues = ahead.train_workers + ahead.val_workers
    if ahead.train_workers < workers:
        more = ahead.train_workers + 1
        assert (more + more // 2) * bytes_each > budget_gb * GB - bytes_each
        assert "--prefetch-gb" in ahead.summary()
    if queues:
        assert 1 <= ahead.factor <= FACTOR
        assert ahead.factor == FACTOR or queues * (ahead.factor + 1) * bytes_each > (
            budget_gb * GB - bytes_each
        )


def test_a_usual_batch_is_prefetched_as_before_and_a_cascade_of_the_atlas_is_bounded():
    scales = [[1 / 2**i] * 3 for i in range(5)]
    usual = Prefetch.within(4.0, batch_bytes(2, 1, (128, 128, 128), scales), 12)
    assert (usual.train_workers, usual.val_workers, usual.factor) == (12, 6, 4)
    each = batch_bytes(2, 46, (128, 128, 128), scales)
    assert 72 * each > 50 * GB
    cascade = Prefetch.within(4.0, each, 12)
    assert cascade.most_batches * each <= 4 * GB
    assert cascade.train_workers >= 3


@pytest.mark.host
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("patch", [(12, 10, 9), (12, 10)])
def test_the_size_of_a_batch_is_what_nnunets_loader_hands_over(patch, cascade):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    class Case:
        identifiers = ("case",)

        def load_case(self, _):
            shape = (20, 20, 20) if len(patch) == 3 else (1, 20, 20)
            previous = np.zeros(shape, np.int8) if cascade else None
            seg = np.zeros((1, *shape), np.int8)
            return np.zeros((2, *shape), np.float32), seg, previous, {"class_locations": {}}

    scales = [[1.0] * len(patch), [0.5] * len(patch), [0.25] * len(patch)]
    transforms = nnUNetTrainer.get_validation_transforms(
        scales, is_cascaded=cascade, foreground_labels=[1, 2, 3]
    )
    labels = LabelManager({"background": 0, "a": 1, "b": 2, "c": 3}, None)
    loader = nnUNetDataLoader(Case(), 3, patch, patch, labels, 0.0, transforms=transforms)
    batch = loader.generate_train_batch()
    found = batch["data"].nbytes + sum(target.nbytes for target in batch["target"])
    assert batch_bytes(3, 5 if cascade else 2, patch, scales) == found
