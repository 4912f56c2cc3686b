"""The patch of the forward check: of a preprocessed case, around what the transfer should keep."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.structures import canonical, parts_last
from atlas_nnunet.transfer.heads import BACKGROUND, KEPT, Heads

MOST_VOX = 64  # along an axis: the check takes seconds
MOST_CASES = 10  # that are searched for a structure


def wanted_labels(
    heads: Heads, dataset_json: Mapping[str, Any], names: Mapping[str, str]
) -> list[tuple[str, tuple[int, ...]]]:
    """(structure, its label values) for each joined structure, the most deeply nested first.

    Args:
        heads: Names of both heads.
        dataset_json: The target's.
        names: Head name -> canonical structure.
    """
    values = {
        names.get(name, canonical(name)): tuple(own) if isinstance(own, list | tuple) else (own,)
        for name, own in dataset_json["labels"].items()
    }
    joined = [row.name for row in heads.rows if row.how != KEPT and row.name != BACKGROUND]
    return [(name, values[name]) for name in reversed(parts_last(joined)) if name in values]


def real_patch(
    folder: Path,
    size: Sequence[int],
    n_channels: int,
    wanted: Sequence[tuple[str, Collection[int]]] = (),
) -> tuple[Tensor, str]:
    """A patch of a preprocessed case, or noise where there is none; and which it is.

    The patch is centred on the first structure of `wanted` that one of the first MOST_CASES cases
    contains, and otherwise on the middle of the first case.

    Args:
        folder: The target's preprocessed cases.
        size: In voxels; two axes: a slice.
        n_channels: Image channels of the target's network.
        wanted: (structure, label values).
    """
    images = [path for path in sorted(folder.glob("*.b2nd")) if not path.stem.endswith("_seg")]
    best: tuple[int, Path, list[int]] | None = None
    for path in images[:MOST_CASES]:
        seg = path.with_name(f"{path.stem}_seg.b2nd")
        place = _find(seg, wanted[: best[0] if best else None]) if seg.is_file() else None
        best = (place[0], path, place[1]) if place else best
    order = [best[1]] if best else []
    for path in (*order, *images):
        case = torch.from_numpy(_read(path)).float()
        if case.shape[0] != n_channels:  # a cascade's second stage reads more than images
            continue
        found = best if best and path == best[1] else None
        centre = found[2] if found else [n // 2 for n in case.shape[1:]]
        if len(size) == 2:
            case, centre = case[:, centre[0]], centre[1:]
        where = f"around {wanted[found[0]][0]}" if found else "the middle"
        patch = _around(case, centre, size)[None]
        return patch, f"{where}{' in' if found else ' of'} {path.name.removesuffix('.b2nd')}"
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, n_channels, *size, generator=rng), "noise: no case is preprocessed yet"


def patch_size(planned: Sequence[int], *networks: NetworkSpec) -> list[int]:
    """The planned patch, cut to MOST_VOX along an axis.

    Whole strides of all networks with as many axes, and two voxels at the bottom of each: instance
    norm refuses a single one.
    """
    all_strides = [own.arch_kwargs.get("strides", []) for own in networks]
    pooled = [
        torch.tensor(own).prod(0).tolist()
        for own in all_strides
        if own and len(own[0]) == len(planned)
    ]
    strides = [math.lcm(*own) for own in zip(*pooled, strict=True)] or [1] * len(planned)
    return [
        max(min(vox, MOST_VOX) // stride, 2) * stride
        for vox, stride in zip(planned, strides, strict=True)
    ]


def _find(seg: Path, wanted: Sequence[tuple[str, Collection[int]]]) -> tuple[int, list[int]] | None:
    """Index of the first wanted structure in a label map, and its voxel nearest to its middle."""
    if not wanted:
        return None
    labels = torch.from_numpy(_read(seg)[0].astype("int64"))
    present = set(labels.unique().tolist())
    for index, (_, values) in enumerate(wanted):
        shared = sorted(present & set(values))
        if shared:
            at = torch.isin(labels, torch.tensor(shared)).nonzero()
            middle = at.double().mean(0)
            return index, at[(at - middle).square().sum(1).argmin()].tolist()
    return None


def _read(path: Path) -> Any:
    import blosc2

    return blosc2.open(str(path), mode="r")[:]


def _around(case: Tensor, centre: Sequence[int], size: Sequence[int]) -> Tensor:
    """(c, *vox) cut to `size` around a voxel, inside the case where it is large enough, or padded
    with zeros on both sides."""
    for axis, (at, want) in enumerate(zip(centre, size, strict=True), start=1):
        have = case.shape[axis]
        if have > want:
            case = case.narrow(axis, min(max(at - want // 2, 0), have - want), want)
        elif have < want:
            before = (want - have) // 2
            case = torch.cat([_zeros(case, axis, before), case], axis)
            case = torch.cat([case, _zeros(case, axis, want - have - before)], axis)
    return case


def _zeros(case: Tensor, axis: int, length: int) -> Tensor:
    """Zeros of a tensor's shape, but of a given length along one axis."""
    return torch.zeros_like(case.narrow(axis, 0, 1)).repeat_interleave(length, axis)
