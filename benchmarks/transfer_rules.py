"""What share of a target's encoder and decoder a source serves, where the two networks differ.

    python benchmarks/transfer_rules.py

Ours, from shapes alone (no weights, seconds), for networks of nnU-Net's default widths; whether the
rules keep the function is what tests/test_transfer_laws.py holds. Beside it what was measured once
with the loader of nnU-Net's DynamicPretrainedTrainer at commit 0e495086 (2026-07-13, later than
2.8.1, with its own networks; not run again here). That loader takes encoders only.
"""

from __future__ import annotations

from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.transfer.shares import forecast

UNET = "dynamic_network_architectures.architectures.unet."
WIDTHS = (32, 64, 128, 256, 320, 320)
BLOCKS = {True: (1, 3, 4, 6, 6, 6), False: (2, 2, 2, 2, 2, 2)}  # ResEnc-M and L; the default
HEADS = ("background", "liver")

# Difference -> (of the source, of the target). `residual` None: both classes are tried.
CASES: dict[str, tuple[dict, dict]] = {
    "identical": ({}, {}),
    "image channels 1 to 2": ({}, {"channels": 2}),
    "image channels 2 to 1": ({"channels": 2}, {}),
    "image channels 2 to 4": ({"channels": 2}, {"channels": 4}),
    "kernels 3x3x3 to 1x3x3": ({}, {"kernel": 1}),
    "kernels 1x3x3 to 3x3x3": ({"kernel": 1}, {}),
    "up-convolutions 2x2x2 to 1x2x2": ({}, {"stride": 1}),
    "stages 4 to 3": ({"n": 4}, {"n": 3}),
    "stages 4 to 5": ({"n": 4}, {"n": 5}),
    "widths doubled": ({}, {"wider": 2}),
    "widths halved": ({"wider": 2}, {}),
    "3-D to 2-D": ({}, {"axes": 2}),
    "2-D to 3-D": ({"axes": 2}, {}),
    "the other encoder": ({}, {"other": True}),
}

FAILS = "error"
# Share of the encoder, or FAILS; None: not measured. Residual source, plain source.
MEASURED: dict[str, tuple[float | str | None, float | str | None]] = {
    "identical": (1.0, 1.0),
    "image channels 1 to 2": (1.0, FAILS),
    "image channels 2 to 1": (FAILS, None),
    "image channels 2 to 4": (FAILS, None),
    "kernels 3x3x3 to 1x3x3": (1.0, FAILS),
    "kernels 1x3x3 to 3x3x3": (FAILS, None),
    "stages 4 to 3": (1.0, 1.0),
    "stages 4 to 5": (0.63, None),
    "widths doubled": (FAILS, FAILS),
    "the other encoder": (0.0, 0.0),
}


def network(
    residual: bool, n: int = 6, channels: int = 1, kernel: int = 3, stride: int = 2, wider: int = 1,
    axes: int = 3, other: bool = False,
) -> NetworkSpec:  # fmt: skip
    """A network of nnU-Net's defaults; `other` turns plain into residual and back."""
    residual ^= other
    kwargs = {
        "n_stages": n,
        "features_per_stage": [wider * width for width in WIDTHS[:n]],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[kernel, 3, 3][3 - axes :]] * n,
        "strides": [[1] * axes] + [[stride, 2, 2][3 - axes :]] * (n - 1),
        "n_blocks_per_stage" if residual else "n_conv_per_stage": list(BLOCKS[residual][:n]),
        "n_conv_per_stage_decoder": [1 if residual else 2] * (n - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = UNET + ("ResidualEncoderUNet" if residual else "PlainConvUNet")
    images = tuple(f"image{i}" for i in range(channels))
    requires = ("conv_op", "norm_op", "dropout_op", "nonlin")
    return NetworkSpec(name, kwargs, requires, images, HEADS)


def said(measured: float | str | None) -> str:
    return "-" if measured is None else measured if isinstance(measured, str) else f"{measured:.0%}"


def main() -> int:
    print("| difference | source | encoder | decoder | nnU-Net 0e495086, encoder |\n|" + "---|" * 5)
    for name, (old, new) in CASES.items():
        for column, residual in enumerate((True, False)):
            shares = forecast(network(residual, **old), network(residual, **new), {})
            mine = [1 - shares.fractions(group)["kept"] for group in ("encoder", "decoder")]
            claim = " (no claim)" if any(shares.unclaimed.values()) else ""
            theirs = said(MEASURED.get(name, (None, None))[column])
            kind = "residual" if residual else "plain"
            print(f"| {name} | {kind} | {mine[0]:.1%}{claim} | {mine[1]:.1%} | {theirs} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
