"""The same batches whatever the clock says, and, where the plan asks for it, the same sums."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch.backends import cudnn


def untimed(transform: BasicTransform) -> BasicTransform:
    """Switch off, in place, every choice of an algorithm by its measured time; returns the same.

    nnU-Net's training blurs by convolution or by FFT, whichever was faster in nine trials
    (GaussianBlurTransform, `benchmark=True`; gaussian_blur.py, batchgeneratorsv2 0.3.6). The two
    differ in the last digits, so the batches depended on the load of the machine. Switched off, it
    is the convolution: what stock nnU-Net computes wherever its trials find that faster.
    """
    if getattr(transform, "benchmark", False):
        transform.benchmark = False
    for value in vars(transform).values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, BasicTransform):
                untimed(inner)
    return transform


@contextmanager
def arithmetic(deterministic: bool) -> Iterator[None]:
    """Sums in the same order in every run, if wanted; the settings before come back afterwards.

    nnU-Net sets `cudnn.benchmark` (run_training.py, nnunetv2 2.8.1): a GPU then takes the
    convolution that is fastest at the moment, and these sum in different orders.

    Args:
        deterministic: False leaves everything as nnU-Net sets it. True: `cudnn.deterministic`, no
            `cudnn.benchmark`, `torch.use_deterministic_algorithms`, and the workspace that cuBLAS
            needs for it. An operation without a deterministic implementation then raises a
            RuntimeError.
    """
    if not deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch, notes on randomness
    before: tuple[Any, ...] = (
        cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before[:2]
        torch.use_deterministic_algorithms(before[2])
