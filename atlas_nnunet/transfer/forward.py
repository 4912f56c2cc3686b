"""The forward check: do source and target see and decide alike on one patch?

Not a proof but a look: for each level the correlation of the target's feature maps with those
channels of the source from which they started, after pooling both to the coarser of the two grids;
the correlation of the logits of each joined structure with the weighted sum of source logits from
which its row started; and the voxels that both give to it (voxels.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas_nnunet.transfer.checkpoints import Source
from atlas_nnunet.transfer.heads import Heads, combine
from atlas_nnunet.transfer.intensities import Affine, to_source
from atlas_nnunet.transfer.starting import network_of
from atlas_nnunet.transfer.voxels import (
    VOXEL_COLUMNS,
    VoxelAgreement,
    voxel_agreement,
    voxel_table,
)
from atlas_nnunet.transfer.widths import resize_outputs


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


@dataclass(frozen=True)
class ForwardCheck:
    """What both networks do with one patch.

    Attributes:
        rows: Correlations of feature maps and logits.
        voxels: Decisions, for each joined structure.
        why_not: Why no decisions were compared, where none were.
    """

    rows: tuple[Agreement, ...]
    voxels: tuple[VoxelAgreement, ...] = ()
    why_not: str = ""

    @classmethod
    def impossible(cls, why: str) -> ForwardCheck:
        return cls((Agreement("all", None, why),), why_not=why)

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) for row in self.rows],
            "voxels": [asdict(own) for own in self.voxels],
            "why_not": self.why_not,
        }


def forward_check(
    source: nn.Module, target: nn.Module, patch: Tensor, heads: Heads,
    *, shift: int = 0, folds: Sequence[Affine] = (),
) -> ForwardCheck:  # fmt: skip
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
        return ForwardCheck.impossible("no network whose feature maps we know where to find")
    n_channels, axes = _reads(source)
    if axes != patch.ndim - 2:
        return ForwardCheck.impossible(
            f"the source works on {axes} axes, the target on {patch.ndim - 2}"
        )
    own = to_source(patch, folds) if len(folds) == patch.shape[1] else patch
    if n_channels != patch.shape[1]:
        own = own.mean(1, keepdim=True).expand(-1, n_channels, *patch.shape[2:])
    try:
        with torch.no_grad():
            a, b = (_seen(net, x) for net, x in ((source, own), (target, patch)))
    except (RuntimeError, ValueError) as error:  # a look must not stop a transfer
        return ForwardCheck.impossible(
            f"a network refuses the patch {list(patch.shape)}: {str(error).splitlines()[0]}"
        )
    out = []
    for level, features in enumerate(b[0]):
        place, there = f"encoder level {level}", level + shift
        if not 0 <= there < len(a[0]):
            out.append(Agreement(place, None, "the source has no such level"))
            continue
        have = resize_outputs(a[0][there], 1, features.shape[1])
        out.append(_agreement(place, have, features))
    logits = a[1][0], b[1][0]
    for index, row in enumerate(heads.rows):
        if row.terms:
            pair = combine(logits[0], row)[None, None], logits[1][None, [index]]
            out.append(_agreement(f"logits {row.name}", *pair))
    if logits[0].shape[1:] != logits[1].shape[1:]:
        grids = [list(own.shape[1:]) for own in logits]
        why = f"the networks answer on different grids, {grids[0]} and {grids[1]}"
        return ForwardCheck(tuple(out), why_not=why)
    return ForwardCheck(tuple(out), tuple(voxel_agreement(*logits, heads)))


def look(
    source: Source, target: nn.Module, patch: Tensor, heads: Heads,
    *, shift: int = 0, folds: Sequence[Affine] = (),
) -> ForwardCheck:  # fmt: skip
    """`forward_check` with the source's own network, as far as its file has it.

    A source without a decoder has features to compare, and no logits.
    """
    try:
        network, whole = network_of(source)
    except Exception as error:  # of whatever kind a class that we do not know raises
        return ForwardCheck.impossible(f"the source's network cannot be built here: {error}")
    known = heads if whole else Heads()
    found = forward_check(network, target, patch, known, shift=shift, folds=folds)
    if whole or found.why_not:
        return found
    return replace(found, why_not="the source has no decoder or no head")


def as_table(found: ForwardCheck) -> str:
    """Plain text: one line for each place, then one for each structure."""
    lines = [
        f"{a.place:28}" + (a.why_not if a.correlation is None else f"{a.correlation:7.3f}")
        for a in found.rows
    ]
    if found.voxels:
        table = [VOXEL_COLUMNS, *voxel_table(found.voxels)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in table
        ]
    elif found.why_not and len(found.rows) > 1:
        lines.append(f"decisions were not compared: {found.why_not}")
    return "\n".join(lines)


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
