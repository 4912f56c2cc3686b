"""How source and target scale intensities, and what of the difference a first convolution can take.

CTNormalization (nnunetv2 2.8.1, default_normalization_schemes.py) clips to a window and gives
x = (hu - mean) / std. Inside both windows the source's x is an affine function of the target's:

    x_source = a * x_target + b,
    a = std_target / std_source,   b = (mean_target - mean_source) / std_source

so the first convolution may have its weights multiplied by a, and b times their sum added to its
bias. Exact where neither window clips and no zero padding is seen: padding is 0 on either side,
which is the source's mean before and the target's after.

An instance norm that follows directly removes a and b again (but for its epsilon), folded or not:
with nnU-Net's own networks the difference is at the border and in the clipping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atlas_nnunet.host import resolve_configuration

Affine = tuple[float, float]  # (a, b), of one image channel of the target

PROPERTIES = "foreground_intensity_properties_per_channel"
WINDOW = ("percentile_00_5", "percentile_99_5")
NUMBERS = ("mean", "std", *WINDOW)


def scheme(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Normalisation of each channel, and the numbers it uses."""
    config = resolve_configuration(plans, configuration)
    return {"schemes": config["normalization_schemes"], "intensities": plans.get(PROPERTIES)}


def affine(source: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[Affine, ...]:
    """(a, b) for each channel of the target; empty where nothing is to be folded.

    Args:
        source: Of `scheme`.
        target: Of `scheme`; as many channels, or the source has one.
    """
    if source == target or not source["intensities"] or not target["intensities"]:
        return ()
    if {*source["schemes"], *target["schemes"]} != {"CTNormalization"}:
        return ()
    n_source, n_target = len(source["schemes"]), len(target["schemes"])
    if n_source not in (1, n_target):
        return ()
    out = []
    for channel in range(n_target):
        old = source["intensities"][str(channel if n_source == n_target else 0)]
        new = target["intensities"][str(channel)]
        out.append((new["std"] / old["std"], (new["mean"] - old["mean"]) / old["std"]))
    return () if all(pair == (1.0, 0.0) for pair in out) else tuple(out)


def compare(
    source: Mapping[str, Any], target: Mapping[str, Any], folded: Sequence[Affine]
) -> dict[str, Any]:
    """For the receipt: both sides, and in words what was done and what is not exact."""
    same = source == target
    if same:
        said = "the same on both sides"
    elif folded:
        said = (
            "mean and std folded into the first convolution: exact where neither clip window cuts "
            f"and no zero padding is seen; windows {_windows(source)} and {_windows(target)} HU"
        )
    else:
        said = "source and target scale intensities differently; not corrected"
    return {"source": source, "target": target, "identical": same,
            "folded": [list(pair) for pair in folded], "said": said}  # fmt: skip


def _windows(side: Mapping[str, Any]) -> list[list[float]]:
    return [[round(own[end], 1) for end in WINDOW] for own in side["intensities"].values()]


def fold_weight(weight: Tensor, folds: Sequence[Affine]) -> Tensor:
    """(out, in, *kernel), one (a, b) for each input: times a."""
    scale = torch.tensor([a for a, _ in folds]).to(weight)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 2))


def fold_bias(bias: Tensor, weight: Tensor, folds: Sequence[Affine]) -> Tensor:
    """Plus b times the sum of the source's weights; a source of one channel serves each a part."""
    shift = torch.tensor([b for _, b in folds]).to(weight)
    per_input = weight.flatten(2).sum(2)
    return bias + per_input @ (shift if len(shift) == per_input.shape[1] else shift.mean()[None])


def to_source(image: Tensor, folds: Sequence[Affine]) -> Tensor:
    """(b, channels, ...) as the target sees it -> as the source would, inside both windows."""
    if not folds:
        return image
    a, b = (torch.tensor(v).to(image) for v in zip(*folds, strict=True))
    around = (1, -1, *[1] * (image.ndim - 2))
    return image * a.reshape(around) + b.reshape(around)
