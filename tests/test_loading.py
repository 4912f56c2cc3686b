"""Batches depend on (seed, rank, stream, iteration), not on workers nor on where one starts."""

import random

import numpy as np
import pytest
import torch

from atlas_nnunet.training.loading import Batches, SeededBatches, seed_everything


class Draws:
    """Stands where nnU-Net's loader stands: draws from all three random states."""

    def generate_train_batch(self):
        data = torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])
        return {"data": data, "keys": np.array(["case"])}


def drawn(start=0, stop=6, workers=0, seed=1, rank=0, stream="train"):
    batches = SeededBatches(Draws(), seed, rank, stream)
    return [b["data"].tolist() for b in Batches(batches, start, stop, workers, False)]


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
