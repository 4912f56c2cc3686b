"""Mixed precision: which number format a device computes in, and whether it needs a loss scaler."""

from __future__ import annotations

from collections.abc import Mapping
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

    @property
    def wants_room(self) -> bool:
        """Whether gradients are right only where no kernel is longer than its feature map."""
        return self.device_type == "cpu" and self.dtype is not None

    def for_maps(self, outgrown: Mapping[str, tuple[int, ...]]) -> Precision:
        """float32 where the processor's bfloat16 gradients are wrong.

        Where a kernel is longer than the feature map it reads, oneDNN 3.13 (torch 2.15) leaves
        parts of a bfloat16 weight gradient unwritten: whatever lay in memory, NaN by and by, never
        the same twice. Its forward pass and its float32 are right (tests/test_precision.py).

        Args:
            outgrown: Such convolutions, name -> edges of the map in voxels (networks/shapes.py).
        """
        if not self.wants_room or not outgrown:
            return self
        name, edges = next(iter(outgrown.items()))
        size = " x ".join(map(str, edges))
        return Precision("cpu", None, f"bfloat16 gradients are wrong where a kernel is longer than "
                         f"its feature map, as at {name}: {size} vox")  # fmt: skip


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
