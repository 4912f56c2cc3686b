"""Which number format a device gets, and when a loss scaler is needed."""

import pytest
import torch

from atlas_nnunet.training import precision
from atlas_nnunet.training.precision import choose_precision


@pytest.mark.parametrize(
    ("device", "has_bf16", "dtype", "scaler"),
    [
        ("cuda", True, torch.bfloat16, False),
        ("cuda", False, torch.float16, True),
        ("cpu", True, torch.bfloat16, False),
        ("cpu", False, None, False),
        ("mps", True, None, False),
    ],
)
def test_a_device_gets_the_format_it_has(monkeypatch, device, has_bf16, dtype, scaler):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    chosen = choose_precision(torch.device(device))
    assert chosen.dtype is dtype
    assert chosen.needs_scaler == scaler
    assert chosen.because


def test_autocast_is_what_was_chosen():
    x = torch.ones(4, 4)
    with precision.Precision("cpu", torch.bfloat16, "x").autocast():
        assert (x @ x).dtype is torch.bfloat16
    with precision.Precision("cpu", None, "x").autocast():
        assert (x @ x).dtype is torch.float32
