"""How many batches may wait in memory, and so how many processes prepare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

IMAGE_BYTES, LABEL_BYTES = 4, 2  # float32 and int16: nnUNetDataLoader, nnunetv2 2.8.1
FACTOR = 4  # batches ahead for each worker where memory allows; torch's own default is 2
GB = 10**9


def batch_bytes(
    batch_size: int,
    n_channels: int,
    patch_vox: Sequence[int],
    scales: Sequence[Sequence[float]] | None,
) -> int:
    """Size of one batch as a worker hands it over.

    Args:
        batch_size: Samples on this rank.
        n_channels: Input channels of the network; a cascade has one more for each label of the
            previous stage, as float32 (MoveSegAsOneHotToDataTransform, batchgeneratorsv2 0.3.6).
        patch_vox: Shape of the patch that the network gets, two or three axes.
        scales: Factors of the label maps for deep supervision, by output and axis; None for one
            label map of full size.
    """
    image = n_channels * math.prod(int(n) for n in patch_vox) * IMAGE_BYTES
    factors = [[1.0] * len(patch_vox)] if scales is None else scales
    labels = sum(
        math.prod(round(int(n) * f) for n, f in zip(patch_vox, own, strict=True)) for own in factors
    )
    return batch_size * (image + labels * LABEL_BYTES)


@dataclass(frozen=True)
class Prefetch:
    """Worker processes for training and validation, and how far they prepare ahead.

    Attributes:
        train_workers: Processes that prepare training batches; 0: the main process does.
        val_workers: The same for validation batches.
        factor: Batches ahead for each worker; a queue holds at most workers x factor.
        bytes_each: Size of one batch.
        asked: Training workers that were allowed.
        budget_gb: Memory for both queues.
    """

    train_workers: int
    val_workers: int
    factor: int
    bytes_each: int
    asked: int
    budget_gb: float

    @classmethod
    def within(cls, budget_gb: float, bytes_each: int, workers: int) -> Prefetch:
        """As many workers as allowed, each as far ahead as fits; fewer where one batch each is
        too much.

        Validation gets half as many workers as training, as in nnU-Net (nnUNetTrainer.py, 2.8.1).

        Args:
            budget_gb: Memory for both queues together; 1 GB is 10^9 bytes.
            bytes_each: `batch_bytes`.
            workers: nnU-Net's number of worker processes for this rank.
        """
        n_batches = int(budget_gb * GB) // bytes_each
        train = next((n for n in range(workers, 0, -1) if n + n // 2 <= n_batches), 0)
        queues = train + train // 2
        factor = min(FACTOR, n_batches // queues) if queues else 0
        return cls(train, train // 2, factor, bytes_each, workers, budget_gb)

    def workers(self, stream: str) -> int:
        """Worker processes of the stream "train" or "val"."""
        return {"train": self.train_workers, "val": self.val_workers}[stream]

    @property
    def most_batches(self) -> int:
        """Most batches that can wait in both queues together."""
        return (self.train_workers + self.val_workers) * self.factor

    def summary(self) -> str:
        """One line for the training's log."""
        text = (
            f"prefetch: {self.train_workers} worker(s) for training and {self.val_workers} for "
            f"validation, at most {self.most_batches} batches of {self.bytes_each / 1e6:.1f} MB "
            f"({self.most_batches * self.bytes_each / GB:.2f} GB of {self.budget_gb:g} GB)"
        )
        if self.train_workers < self.asked:
            text += (
                f"; {self.asked} workers would need more memory: "
                "plan again with a larger --prefetch-gb to use them"
            )
        return text
