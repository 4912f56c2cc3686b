"""Preprocessing with our kernels against stock nnU-Net, single-threaded, in one run.

    python benchmarks/preprocess.py --map LABELS.nii.gz [--step 2]

LABELS is a label map with many structures (a combined_labels.nii.gz of AbdomenAtlas), read at every
STEP-th voxel. Results are compared voxel by voxel; a difference is a failure, whatever the speed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, ".")

import numpy as np  # noqa: E402  # after the number of threads is set


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--step", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2, help="the least of so many counts")
    args = parser.parse_args()
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.preprocessing.resampling.default_resampling import (
        compute_new_shape,
        resample_data_or_seg_to_shape,
    )

    from atlas_nnunet.images import as_integers, read_nifti
    from atlas_nnunet.kernels.locations import class_locations
    from atlas_nnunet.kernels.resample_labels import resample_labels

    volume = read_nifti(args.map)
    cut = np.s_[:: args.step, :: args.step, :: args.step]
    seg = as_integers(volume.array, str(args.map))[cut].transpose(2, 1, 0)[None].astype(np.int16)
    classes = [int(v) for v in np.unique(seg) if v]
    print(f"{seg[0].size / 1e6:.1f} Mvoxel, {len(classes)} labels, CPU seconds of one thread")
    ok = True
    for what, current, new in GRIDS:
        shape = compute_new_shape(seg.shape[1:], current, new)
        words = (seg, shape, current, new)

        def stock(words: Any = words) -> np.ndarray:
            return resample_data_or_seg_to_shape(
                *words, is_seg=True, order=1, order_z=0, force_separate_z=None
            )

        def ours(words: Any = words) -> np.ndarray:
            return resample_labels(*words)

        ok &= row(f"labels, {what}", stock, ours, args.repeat, np.array_equal)
    ok &= row(
        "class locations",
        lambda: DefaultPreprocessor._sample_foreground_locations(seg, classes),
        lambda: class_locations(seg, classes), args.repeat,
        lambda a, b: all(np.array_equal(a[c], b[c]) for c in classes),
    )  # fmt: skip
    return 0 if ok else 1


# What, spacing, and spacing to come to, in mm. Slices more than three times as thick as a pixel is
# wide are resampled apart.
GRIDS = (
    ("to finer voxels", (2.0, 1.6, 1.6), (1.6, 1.28, 1.28)),
    ("to coarser voxels", (2.0, 1.6, 1.6), (3.0, 2.4, 2.4)),
    ("thick slices", (5.0, 0.8, 0.8), (4.0, 1.0, 1.0)),
)


def row(what: str, stock: Callable, ours: Callable, repeat: int, same: Callable) -> bool:
    (a, stock_s), (b, ours_s) = (counted(one, repeat) for one in (stock, ours))
    equal = bool(same(a, b))
    print(f"{what:27}stock {stock_s:7.2f}  ours {ours_s:6.2f}  {stock_s / ours_s:6.1f}x  "
          f"{'equal' if equal else 'DIFFERENT'}")  # fmt: skip
    return equal


def counted(work: Callable, repeat: int) -> tuple[Any, float]:
    least, result = float("inf"), None
    for _ in range(repeat):
        began = time.process_time()
        result = work()
        least = min(least, time.process_time() - began)
    return result, least


if __name__ == "__main__":
    raise SystemExit(main())
