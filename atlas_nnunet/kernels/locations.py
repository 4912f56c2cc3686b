"""Where each class lies: nnU-Net's sample of foreground voxels, the same arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

SEED = 1234  # these four: DefaultPreprocessor._sample_foreground_locations, nnunetv2 2.8.1
LEAST_SAMPLES = 10000
LEAST_SHARE = 0.01

Class = int | tuple[int, ...]


def class_locations(
    seg: np.ndarray | torch.Tensor, classes_or_regions: Sequence[int | Sequence[int]]
) -> dict[Class, np.ndarray | list]:
    """Voxels of each class, drawn without replacement: a hundredth of them, at least 10,000.

    Args:
        seg: (1, x, y, z) whole numbers of any dtype, -1 outside the body among them. A tensor is
            brought to the CPU: the draws are NumPy's.
        classes_or_regions: A label, or the labels of a region.

    Returns:
        Label, or tuple of labels -> (n, 4) int64 indices into `seg`; [] where there is none.
    """
    if isinstance(seg, torch.Tensor):
        seg = seg.cpu().numpy()
    draw = np.random.RandomState(SEED)
    asked: list[Class] = [
        tuple(int(x) for x in c) if isinstance(c, Sequence) else int(c) for c in classes_or_regions
    ]
    own = {label for c in asked for label in (c if isinstance(c, tuple) else (c,))}
    by_label = _voxels_by_label(seg.ravel(), own)
    found: dict[Class, np.ndarray | list] = {}
    for one in asked:
        parts = [by_label[x] for x in (one if isinstance(one, tuple) else (one,)) if x in by_label]
        if not parts:
            found[one] = []
            continue
        counts = [len(part) for part in parts]
        total = int(np.sum(counts))
        n = max(min(LEAST_SAMPLES, total), int(np.ceil(total * LEAST_SHARE)))
        picked = draw.choice(total, n, replace=False)
        ends = np.cumsum(counts)
        which = np.searchsorted(ends, picked, side="right")
        voxels = np.empty(n, np.int64)
        for number, part in enumerate(parts):
            here = which == number
            voxels[here] = part[picked[here] - (ends[number] - counts[number])]
        found[one] = np.stack(np.unravel_index(voxels, seg.shape), axis=1)
    return found


def _voxels_by_label(flat: np.ndarray, own: set[int]) -> dict[int, np.ndarray]:
    """Flat indices of each label's voxels, ascending; int32 where that is enough."""
    if not flat.size:
        return {}
    lowest, highest = int(flat.min()), int(flat.max())
    is_small = lowest >= np.iinfo(np.int16).min and highest - lowest <= np.iinfo(np.int16).max
    flat = flat.astype(np.int16 if is_small else np.int64, copy=False)
    wanted = np.zeros(highest - lowest + 1, bool)
    wanted[[label - lowest for label in own if lowest <= label <= highest]] = True
    voxels = np.flatnonzero(wanted[flat - lowest])
    if flat.size < 2**31:
        voxels = voxels.astype(np.int32)
    if not len(voxels):
        return {}
    labels = flat[voxels]
    order = np.argsort(labels, kind="stable")
    voxels, labels = voxels[order], labels[order]
    present, starts = np.unique(labels, return_index=True)
    return dict(zip(present.tolist(), np.split(voxels, starts[1:]), strict=True))
