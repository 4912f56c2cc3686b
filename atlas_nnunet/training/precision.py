"""Mixed precision: which number format a device computes in, and whether it needs a loss scaler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """How a training computes.

    Attributes:
        device_type: "cuda", "cpu" or "mps".
        dtype: Format of the matrix arithmetic; None is plain float32.
        because: Why, for the log.
    """

    device_type: str
    dtype: torch.dtype | None
    because: str

    @property
    def needs_scaler(self) -> bool:
        """float16 has 5 exponent bits: small gradients vanish unless the loss is scaled up."""
        return self.dtype is torch.float16

    def autocast(self) -> AbstractContextManager:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX).

    Elsewhere bfloat16 is emulated and slower than float32.
    """
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def choose_precision(device: torch.device) -> Precision:
    """bf16 where the device has it, else fp16 on a GPU and float32 elsewhere."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("cuda", torch.bfloat16, "the GPU has bfloat16")
        return Precision("cuda", torch.float16, "the GPU has no bfloat16")
    if device.type == "cpu" and cpu_has_bf16():
        return Precision("cpu", torch.bfloat16, "the processor has bfloat16 instructions")
    return Precision(device.type, None, "no faster format on this device")
