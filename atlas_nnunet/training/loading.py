"""Batches that depend on (seed, rank, stream, iteration) alone, not on workers or on their order.

nnU-Net's own loader draws and augments every batch (data_loader.py, nnunetv2 2.8.1); only the
random state before each batch is ours, and workers hand batches back in order. So any number of
workers, and a training resumed in the middle, sees the same batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from atlas_nnunet.training.failures import ReportedBatches, opened

STREAMS = {"train": 0, "val": 1}


class HostLoader(Protocol):
    """What we use of nnU-Net's `nnUNetDataLoader`."""

    def generate_train_batch(self) -> dict[str, Any]: ...


def seed_everything(*entropy: int) -> None:
    """Set the three random states that nnU-Net's loading and augmentation draw from."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


@dataclass(frozen=True)
class SeededBatches(Dataset):
    """Batch number i as a function of (seed, rank, stream, i).

    Attributes:
        loader: nnU-Net's loader, transforms included.
        seed: The plan's.
        rank: Of this process in a distributed training.
        stream: "train" or "val".
    """

    loader: HostLoader
    seed: int
    rank: int
    stream: str

    def __getitem__(self, iteration: int) -> dict[str, Any]:
        seed_everything(self.seed, self.rank, STREAMS[self.stream], iteration)
        batch = self.loader.generate_train_batch()
        return {**batch, "keys": [str(key) for key in batch["keys"]]}


class Batches(Iterator[dict[str, Any]]):
    """Batches from `start` up to `stop`, prepared ahead by worker processes.

    Args:
        batches: Where they come from.
        start: First iteration, counted from the start of the training.
        stop: One past the last.
        workers: Processes; 0 prepares each batch when it is asked for.
        pin_memory: For faster copies to a GPU.
        factor: Batches that each worker prepares ahead: never more than workers x factor wait.
    """

    def __init__(
        self,
        batches: SeededBatches,
        start: int,
        stop: int,
        workers: int,
        pin_memory: bool,
        factor: int,
    ) -> None:
        self.stream = batches.stream
        self._ahead = iter(
            DataLoader(
                ReportedBatches(batches),
                batch_size=None,
                sampler=range(start, stop),
                num_workers=workers,
                prefetch_factor=factor if workers else None,
                pin_memory=pin_memory,
            )
        )

    def __next__(self) -> dict[str, Any]:
        return opened(next(self._ahead))
