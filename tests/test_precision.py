"""Which number format a device gets, and when a loss scaler is needed."""

import os
import subprocess
import sys

import pytest
import torch

from atlas_nnunet.networks.shapes import outgrown
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


def test_a_kernel_longer_than_its_map_is_found():
    """Strides count, transposed convolutions do not, and an axis without kernel is no matter."""
    conv, up = torch.nn.Conv3d, torch.nn.ConvTranspose3d
    net = torch.nn.Sequential(
        conv(2, 4, 3, padding=1), conv(4, 4, 3, stride=2, padding=1),
        conv(4, 4, (1, 3, 3), padding=(0, 1, 1)), up(4, 4, 2, stride=2),
    )  # fmt: skip
    assert outgrown(net, 2, (4, 6, 8)) == {}
    assert outgrown(net, 2, (2, 6, 8)) == {"0": (2, 6, 8), "1": (2, 6, 8)}
    assert outgrown(net, 2, (4, 4, 8)) == {"2": (2, 2, 4)}
    assert not any(m._forward_pre_hooks for m in net.modules()), "nothing is left behind"
    twice = torch.nn.ModuleDict({"conv": net[0], "all_modules": torch.nn.Sequential(net[0])})
    twice.forward = twice["all_modules"].forward
    assert outgrown(twice, 2, (2, 6, 8)) == {"conv": (2, 6, 8)}
    assert {p.device.type for p in (*net.parameters(), *twice.parameters())} == {"cpu"}
    flat = torch.nn.Conv2d(1, 1, 3, padding=1)
    assert outgrown(torch.nn.Sequential(flat), 1, (2, 9)) == {"0": (2, 9)}


def test_a_cpu_falls_back_to_float32_where_its_bfloat16_is_wrong():
    cpu = precision.Precision("cpu", torch.bfloat16, "x")
    assert cpu.for_maps({}) is cpu
    plain = cpu.for_maps({"stem.conv": (2, 4, 4)})
    assert plain.dtype is None
    assert "stem.conv: 2 x 4 x 4 vox" in plain.because
    cuda = precision.Precision("cuda", torch.bfloat16, "x")
    assert cuda.for_maps({"stem.conv": (2, 4, 4)}) is cuda


GRADIENTS = """
import itertools, torch
torch.set_num_threads(1)
wrong = []
for dtype, kernel, stride in itertools.product(
    (torch.bfloat16, torch.float32), ((3, 3, 3), (1, 3, 3), (5, 5, 5)), (1, 2)
):
    for edges in itertools.product((2, 3, 4, 6), repeat=3):
        if dtype is torch.bfloat16 and any(k > e for k, e in zip(kernel, edges)):
            continue
        torch.manual_seed(0)
        image, weight = torch.randn(2, 8, *edges), torch.randn(16, 8, *kernel)
        padding = [k // 2 for k in kernel]
        shape = torch.nn.functional.conv3d(image, weight, None, stride, padding).shape
        upstream = torch.randn(shape)
        def gradients(kind):
            given = (t.to(kind) for t in (upstream, image, weight))
            return torch.ops.aten.convolution_backward(
                *given, [16], [stride] * 3, padding, [1] * 3, False, [0] * 3, 1, [True] * 3)
        for ours, right in zip(gradients(dtype), gradients(torch.float64)):
            if not ((ours - right).abs().max() <= 0.03 * right.abs().max()):
                wrong.append((dtype, kernel, stride, edges))
print(wrong)
"""


def test_gradients_of_a_cpu_are_right_where_we_take_them():
    """In memory full of 3.4e38 (glibc fills what it hands out), so that a gap cannot hide."""
    variables = {**os.environ, "MALLOC_PERTURB_": "128", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", GRADIENTS], env=variables, check=True,
                         capture_output=True, text=True)  # fmt: skip
    assert ran.stdout.strip() == "[]"
