"""Ranks of a distributed training: who writes files, and how a loss is taken over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist


class HasRank(Protocol):
    """What is used of nnU-Net's trainer."""

    local_rank: int


def global_rank(trainer: HasRank) -> int:
    """The rank of this process among all processes of the training, on all nodes.

    nnunetv2 2.8.1 has one attribute, `local_rank`, which is `dist.get_rank()` (nnUNetTrainer.py).
    Later hosts also train on several nodes: there `local_rank` counts within a node, and
    `global_rank` within the whole training.
    """
    return int(getattr(trainer, "global_rank", trainer.local_rank))


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def of_all_ranks(value: Any) -> list[Any]:
    """A small value of each process of the training, by rank; every rank has to take part."""
    if not is_distributed():
        return [value]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, value)
    return ranks


@dataclass(frozen=True)
class Ranks:
    """The global batch, of which each rank holds a part.

    DistributedDataParallel takes the mean of the ranks' gradients, whatever number of samples each
    rank has. So a loss is written such that its **mean over the ranks** equals the loss of one
    process that holds the global batch.

    Attributes:
        world: Number of ranks.
        batch_size: Samples of the global batch; None: as many as this process holds.
    """

    world: int = 1
    batch_size: int | None = None

    @classmethod
    def of_process(cls, batch_size: int) -> Ranks:
        """The ranks of the process group that this process belongs to, if there is one.

        Args:
            batch_size: Samples of the global batch, as in the plan.
        """
        return cls(dist.get_world_size(), batch_size) if is_distributed() else cls()

    def n_samples(self, n: int) -> int:
        """Samples of the global batch, where this rank holds n of them."""
        return n if self.batch_size is None else self.batch_size

    def mean(self, by_sample: Tensor) -> Tensor:
        """(sample, ...) -> (...): the mean over ranks of the result is the mean over all samples.

        Ranks may hold different numbers of samples: nnU-Net gives 2 and 1 of a batch of 3.
        """
        return by_sample.sum(0) * (self.world / self.n_samples(len(by_sample)))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, with gradients; every rank has to take part."""
        return tensor if self.world == 1 else SumOverRanks.apply(tensor)


class SumOverRanks(torch.autograd.Function):
    """Sum over the ranks of a process group, through which gradients pass.

    Every rank computes the same function of the sum, so that the gradients with respect to the sum
    are equal on all ranks. What a rank's term contributes to the sum of the ranks' losses is
    therefore the gradient times the number of ranks. nnU-Net 2.8.1 has the same value from
    AllGatherGrad(x).sum(0) (utilities/ddp_allgather.py), which later hosts removed, by a second
    communication in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * dist.get_world_size()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The other ranks wait until rank 0 has left the block and has written its files."""
    if is_distributed() and dist.get_rank() != 0:
        dist.barrier()
    try:
        yield
    finally:
        if is_distributed() and dist.get_rank() == 0:
            dist.barrier()
