"""Cost against the number of labels: resampling of labels, and export of as many heads.

    python benchmarks/labels.py [-o docs/labels.svg] [--labels 4 16 64 128]

The same 128 lumps in a volume of 5 Mvoxel, named by 4 to 128 labels: borders stay where they are,
and only the number of labels changes. One thread, in one run; results are compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import measured
from stages import differs_by

SHAPE, NEW = (120, 208, 208), (150, 230, 250)
ONES = (1.0, 1.0, 1.0)
LUMPS = 128


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", dest="figure", type=Path, default=Path("docs/labels.svg"))
    parser.add_argument("--labels", type=int, nargs="+", default=[4, 16, 64, 128])
    args = parser.parse_args()
    print("| work | labels | stock | ours | ratio | result |\n|" + "---|" * 6)
    seconds: dict[str, list[float]] = {}
    well = True
    for n in args.labels:
        for work, (stock, ours) in WORK.items():
            with tempfile.TemporaryDirectory() as folder:
                files = Path(folder) / "stock.npy", Path(folder) / "ours.npy"
                a = measured(stock, (n,), files[0]).cpu_s
                b = measured(ours, (n,), files[1]).cpu_s
                same = differs_by(np.load(files[0]), np.load(files[1])) == 0
            well &= same
            seconds.setdefault(f"{work}, stock", []).append(a)
            seconds.setdefault(f"{work}, ours", []).append(b)
            print(f"| {work} | {n} | {a:.2f} s | {b:.2f} s | {a / b:.0f}x | "
                  f"{'equal' if same else 'DIFFERENT'} |", flush=True)  # fmt: skip
    draw(args.figure, args.labels, seconds)
    return 0 if well else 1


def lumps() -> np.ndarray:
    """Which of the lumps a voxel lies in: that whose middle is nearest."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    middles = rng.uniform(0, SHAPE, (LUMPS, 3))
    places = np.indices(SHAPE).reshape(3, -1).T
    return cKDTree(middles).query(places)[1].reshape(SHAPE)


def label_map(n: int) -> np.ndarray:
    return (lumps() % n)[None].astype(np.int16)


def stock_labels(n: int) -> Callable:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    data = label_map(n)
    how = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    return lambda: resample_data_or_seg_to_shape(data, NEW, ONES, ONES, **how)


def our_labels(n: int) -> Callable:
    from atlas_nnunet.kernels.resample_labels import resample_labels

    data = label_map(n)
    return lambda: resample_labels(data, NEW, ONES, ONES)


def logits(n: int) -> np.ndarray:
    """Heads that are sure within their lumps, and less so at borders."""
    from scipy.ndimage import gaussian_filter

    of, rng = label_map(n)[0], np.random.default_rng(0)
    noise = rng.normal(0, 0.3, SHAPE).astype(np.float32)
    found = np.empty((n, *SHAPE), np.float16)
    for head in range(n):
        found[head] = gaussian_filter((of == head).astype(np.float32), 1) * 20 - 10
        found[head] += np.roll(noise, 7 * head, axis=1)
    return found


def stock_export(n: int) -> Callable:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    data = logits(n)
    how = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    return lambda: resample_data_or_seg_to_shape(data, NEW, ONES, ONES, **how).argmax(0)


def our_export(n: int) -> Callable:
    from atlas_nnunet.kernels.export import Target, logits_to_labels

    data = logits(n)
    return lambda: logits_to_labels(data, Target(NEW, ONES, ONES))


WORK = {
    "label resampling": (stock_labels, our_labels),
    "export of logits": (stock_export, our_export),
}


def draw(path: Path, labels: list[int], seconds: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "atlas-nnunet"  # the same numbers give the same bytes
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for number, (name, values) in enumerate(seconds.items()):
        style = "o--" if name.endswith("stock") else "o-"
        axes.plot(labels, values, style, color=f"C{number // 2}", label=name)
    axes.set(xscale="log", yscale="log", xlabel="labels", ylabel="CPU seconds, one thread")
    axes.set_xticks(labels, [str(n) for n in labels])
    axes.set_title(f"{np.prod(SHAPE) / 1e6:.1f} to {np.prod(NEW) / 1e6:.1f} Mvoxel")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
