"""The forward check: do source and target see alike, level by level, on one patch?

Not a proof but a look: for each level the correlation of the target's feature maps with those
channels of the source from which they started, after pooling both to the coarser of the two grids,
and the correlation of the logits of each structure that both know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.transfer.checkpoints import Source
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.intensities import Affine, to_source
from atlas_nnunet.transfer.starting import network_of
from atlas_nnunet.transfer.widths import resize_outputs

MOST_VOX = 64  # along an axis: the check is to take seconds


@dataclass(frozen=True)
class Agreement:
    """Correlation at one place; None where there is none to be had.

    Attributes:
        place: "encoder level 0", "logits liver", ...
        correlation: Mean over channels, -1 to 1.
        why_not: In words, where there is none.
    """

    place: str
    correlation: float | None
    why_not: str = ""


def forward_check(
    source: nn.Module, target: nn.Module, patch: Tensor, heads: Heads,
    *, shift: int = 0, folds: Sequence[Affine] = (),
) -> list[Agreement]:  # fmt: skip
    """Both networks on one patch.

    Args:
        source: With the source's weights.
        target: With its starting weights.
        patch: (1, channels, *vox) as the target's preprocessing leaves it.
        heads: Which rows mean the same.
        shift: Of levels.
        folds: Difference in normalisation: the source gets the patch as its own preprocessing would
            have left it (inside both windows).
    """
    if not all(hasattr(net, "levels") or hasattr(net, "encoder") for net in (source, target)):
        return [Agreement("all", None, "no network whose feature maps we know where to find")]
    n_channels, axes = _reads(source)
    if axes != patch.ndim - 2:
        why = f"the source works on {axes} axes, the target on {patch.ndim - 2}"
        return [Agreement("all", None, why)]
    own = to_source(patch, folds) if len(folds) == patch.shape[1] else patch
    if n_channels != patch.shape[1]:
        own = own.mean(1, keepdim=True).expand(-1, n_channels, *patch.shape[2:])
    try:
        with torch.no_grad():
            a, b = (_seen(net, x) for net, x in ((source, own), (target, patch)))
    except (RuntimeError, ValueError) as error:  # a look must not stop a transfer
        why = f"a network refuses the patch {list(patch.shape)}: {str(error).splitlines()[0]}"
        return [Agreement("all", None, why)]
    out = []
    for level, features in enumerate(b[0]):
        place, there = f"encoder level {level}", level + shift
        if not 0 <= there < len(a[0]):
            out.append(Agreement(place, None, "the source has no such level"))
            continue
        have = resize_outputs(a[0][there], 1, features.shape[1])
        out.append(_agreement(place, have, features))
    for row, other in heads.shared.items():
        place = f"logits {heads.target[row]}"
        out.append(_agreement(place, a[1][:, [other]], b[1][:, [row]]))
    return out


def look(
    source: Source, target: nn.Module, patch: Tensor, heads: Heads,
    *, shift: int = 0, folds: Sequence[Affine] = (),
) -> list[Agreement]:  # fmt: skip
    """`forward_check` with the source's own network, as far as its file has it.

    A source without a decoder has features to compare, and no logits.
    """
    try:
        network, whole = network_of(source)
    except Exception as error:  # of whatever kind a class that we do not know raises
        why = f"the source's network cannot be built here: {error}"
        return [Agreement("all", None, why)]
    known = heads if whole else Heads()
    return forward_check(network, target, patch, known, shift=shift, folds=folds)


def as_table(found: Sequence[Agreement]) -> str:
    """Plain text, one row a place."""
    return "\n".join(
        f"{a.place:28}" + (a.why_not if a.correlation is None else f"{a.correlation:7.3f}")
        for a in found
    )


def real_patch(folder: Path, size: Sequence[int], n_channels: int) -> tuple[Tensor, str]:
    """The middle of a preprocessed case, or noise where there is none; and which it is.

    Args:
        folder: Of the target's preprocessed cases.
        size: In voxels; two axes: a slice.
        n_channels: Of the target's network.
    """
    for path in sorted(folder.glob("*.b2nd")):
        if path.name.endswith("_seg.b2nd"):
            continue
        import blosc2

        case = torch.from_numpy(blosc2.open(str(path), mode="r")[:]).float()
        if case.shape[0] != n_channels:  # a cascade's second stage reads more than images
            continue
        if len(size) == 2:
            case = case[:, case.shape[1] // 2]
        return _middle(case, size)[None], f"the middle of {path.name.removesuffix('.b2nd')}"
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, n_channels, *size, generator=rng), "noise: no case is preprocessed yet"


def patch_size(planned: Sequence[int], *networks: NetworkSpec) -> list[int]:
    """The planned patch, cut to MOST_VOX along an axis.

    Whole strides of all networks with as many axes, and two voxels at the bottom of each: instance
    norm refuses a single one.
    """
    all_strides = [own.arch_kwargs.get("strides", []) for own in networks]
    pooled = [torch.tensor(own).prod(0).tolist() for own in all_strides
              if own and len(own[0]) == len(planned)]  # fmt: skip
    strides = [math.lcm(*own) for own in zip(*pooled, strict=True)] or [1] * len(planned)
    return [
        max(min(vox, MOST_VOX) // stride, 2) * stride
        for vox, stride in zip(planned, strides, strict=True)
    ]


def _middle(case: Tensor, size: Sequence[int]) -> Tensor:
    """(c, *vox) cut or padded with zeros to `size` around its middle."""
    for axis, want in enumerate(size, start=1):
        have = case.shape[axis]
        if have > want:
            case = case.narrow(axis, (have - want) // 2, want)
        elif have < want:
            zeros = [*case.shape[:axis], want - have, *case.shape[axis + 1 :]]
            case = torch.cat([case, case.new_zeros(zeros)], axis)
    return case


def _reads(network: nn.Module) -> tuple[int, int]:
    """Number of image channels and of axes, by the first convolution."""
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    return first.in_channels, len(first.kernel_size)


def _seen(network: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Feature maps of all levels, and the logits of the finest."""
    was = network.training
    network.eval()
    if hasattr(network, "levels"):  # of atlas_nnunet.networks
        features, logits = _overheard(network, x)
    else:
        features = network.encoder(x)
        logits = network.decoder(features)
    network.train(was)
    return features, logits[0] if isinstance(logits, list) else logits


def _overheard(network: Any, x: Tensor) -> tuple[list[Tensor], Any]:
    """What the modules that `levels` names give on the way to the output, finest first."""
    heard: dict[nn.Module, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda own, _, output: heard.update({own: output}))
        for module in network.levels()
    ]
    try:
        output = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [heard[module] for module in network.levels()], output


def _agreement(place: str, a: Tensor, b: Tensor) -> Agreement:
    """Mean over channels of the correlation over voxels."""
    grid = [min(one, other) for one, other in zip(a.shape[2:], b.shape[2:], strict=True)]
    pool: Any = functional.adaptive_avg_pool3d if len(grid) == 3 else functional.adaptive_avg_pool2d
    flat = []
    for features in (a, b):
        same = pool(features, grid).flatten(2)[0].double()
        flat.append(same - same.mean(1, keepdim=True))
    size = flat[0].norm(dim=1) * flat[1].norm(dim=1)
    alive = size > 1e-12
    if not alive.any():
        return Agreement(place, None, "constant on this patch")
    each = (flat[0] * flat[1]).sum(1)[alive] / size[alive]
    return Agreement(place, round(float(each.mean()), 4))  # beyond that threads differ
