"""Preprocessing, fingerprint and export: ours against stock nnU-Net 2.8.1, in one run.

    python benchmarks/stages.py [-o FOLDER] [--kinds thin thick] [--rows NAME ...]

A phantom patient of 25 organs, 50 Mvoxel ("thin") and one of 5 mm slices ("thick"). Each piece of
work is done in a process of its own with one thread; CPU seconds and that process' peak memory are
compared as ratios. Results are compared too: a difference is a failure, whatever the speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import KINDS, Case, measured, phantom_case, plan_files

TOLERANCE = 1e-5  # of the range, for images; labels and drawn numbers are equal to the bit
HEADS = 33


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", dest="folder", type=Path, default=Path("benchmark-cases"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["thin", "thick"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repeat", type=int, default=1, help="the least of so many counts")
    args = parser.parse_args()
    print("| work | case | stock | ours | CPU time | peak memory | result |\n|" + "---|" * 7)
    well = True
    for kind in args.kinds:
        case = made(args.folder, kind)
        plan_files(args.folder, case)
        for name in args.rows:
            well &= compare(ROWS[name], kind, case, args.folder, args.repeat)
    return 0 if well else 1


def made(folder: Path, kind: str) -> Case:
    """The case; drawn in another process, whose memory is not ours."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(phantom_case, (folder, kind))


@dataclass(frozen=True)
class Row:
    """Work that both do.

    Attributes:
        name: For people.
        stock, ours: `begin` of `cases.measured`.
        tolerance: Of the range by which results may differ.
    """

    name: str
    stock: Callable
    ours: Callable
    tolerance: float = 0.0


def compare(row: Row, kind: str, case: Case, folder: Path, repeat: int) -> bool:
    files = {who: folder / f"result_{who}.npy" for who in ("stock", "ours")}
    best: dict[str, Any] = {}
    for who, path in files.items():
        runs = [measured(getattr(row, who), (case, folder), path) for _ in range(repeat)]
        best[who] = min(runs, key=lambda run: run.cpu_s)
    stock, ours = (np.load(files[who], mmap_mode="r") for who in ("stock", "ours"))
    same = stock.shape == ours.shape and differs_by(stock, ours) <= row.tolerance
    for path in files.values():
        path.unlink()
    a, b = best["stock"], best["ours"]
    verdict = ("equal" if row.tolerance == 0 else f"within {TOLERANCE:g}") if same else "DIFFERENT"
    print(f"| {row.name} | {kind} | {a.cpu_s:.2f} s, {a.peak_gb:.2f} GB | {b.cpu_s:.2f} s, "
          f"{b.peak_gb:.2f} GB | {a.cpu_s / b.cpu_s:.1f}x | {b.peak_gb / a.peak_gb:.2f}x | "
          f"{verdict} |", flush=True)  # fmt: skip
    return same


def differs_by(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range, plane by plane."""
    if a.ndim < 3:
        return 0.0 if np.array_equal(a, b) else 1.0
    pairs = list(zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *a.shape[-2:]), strict=True))
    low, high = min(float(x.min()) for x, _ in pairs), max(float(x.max()) for x, _ in pairs)
    apart = max(float(np.abs(x.astype(float) - y).max()) for x, y in pairs)
    return apart / max(high - low, 1e-30)


def grids(case: Case) -> tuple[np.ndarray, np.ndarray, list[float], np.ndarray]:
    """Image, labels, spacing, and the shape to come to."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    from atlas_nnunet.reading import read_images, read_labels

    image, properties = read_images("NibabelIOWithReorient", [case.image])
    labels, _ = read_labels("NibabelIOWithReorient", case.label)
    spacing = properties["spacing"]
    return image, labels, spacing, compute_new_shape(image.shape[1:], spacing, case.spacing_mm)


def resampling(case: Case, *, seg: bool, ours: bool) -> Callable:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    from atlas_nnunet.kernels.resample_image import resample_image
    from atlas_nnunet.kernels.resample_labels import resample_labels

    image, labels, spacing, shape = grids(case)
    words = (labels if seg else image, shape, spacing, case.spacing_mm)
    del image, labels
    if ours:
        return lambda: (resample_labels if seg else resample_image)(*words)
    how = {"order_z": 0, "force_separate_z": None, "order": 1 if seg else 3, "is_seg": seg}
    return lambda: resample_data_or_seg_to_shape(*words, **how)


def stock_labels(case: Case, folder: Path) -> Callable:
    return resampling(case, seg=True, ours=False)


def our_labels(case: Case, folder: Path) -> Callable:
    return resampling(case, seg=True, ours=True)


def stock_image(case: Case, folder: Path) -> Callable:
    return resampling(case, seg=False, ours=False)


def our_image(case: Case, folder: Path) -> Callable:
    return resampling(case, seg=False, ours=True)


def flat(locations: dict) -> np.ndarray:
    return np.concatenate([np.asarray(v).reshape(-1) for v in locations.values()])


def stock_locations(case: Case, folder: Path) -> Callable:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    labels = grids(case)[1]
    sample = DefaultPreprocessor._sample_foreground_locations
    return lambda: flat(sample(labels.astype(np.float32), list(range(1, 26))))


def our_locations(case: Case, folder: Path) -> Callable:
    from atlas_nnunet.kernels.locations import class_locations

    labels = grids(case)[1]
    return lambda: flat(class_locations(labels, list(range(1, 26))))


def stock_preprocess(case: Case, folder: Path) -> Callable:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(folder / "plans.json"))
    configuration = plans.get_configuration("3d_fullres")
    for path in folder.glob("stock*.b2nd"):
        path.unlink()  # stock does not write over a file

    def work() -> np.ndarray:
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder / "stock"), [str(case.image)], str(case.label), plans, configuration,
            str(folder / "dataset.json"),
        )  # fmt: skip
        return stored(folder / "stock.b2nd")

    return work


def our_preprocess(case: Case, folder: Path) -> Callable:
    import atlas_nnunet.preprocess.files
    import atlas_nnunet.volume.prepare  # noqa: F401
    from atlas_nnunet.preprocess.case import Job, preprocess_case
    from atlas_nnunet.rawdata import RawCase

    job = Job(
        "ours", RawCase((case.image,), case.label), folder / "plans.json",
        folder / "dataset.json", "3d_fullres", "benchmark", folder, folder / "records",
    )  # fmt: skip
    job.record.unlink(missing_ok=True)

    def work() -> np.ndarray:
        preprocess_case(job)
        return stored(folder / "ours.b2nd")

    return work


def stored(path: Path) -> np.ndarray:
    """A few planes of what was written: a look at all of it would count as work."""
    import blosc2

    array = blosc2.open(str(path), mode="r")
    return array[0, array.shape[1] // 2 : array.shape[1] // 2 + 3]


def stock_fingerprint(case: Case, folder: Path) -> Callable:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    def work() -> np.ndarray:
        return np.asarray(DatasetFingerprintExtractor.analyze_case(
            [str(case.image)], str(case.label), NibabelIOWithReorient, DRAWN)[2][0])  # fmt: skip

    return work


DRAWN = 10_796  # intensities of a case of AbdomenAtlas: 1e8 // 9,262


def our_fingerprint(case: Case, folder: Path) -> Callable:
    from atlas_nnunet.fingerprint.case import Job, analyse
    from atlas_nnunet.fingerprint.record import Record

    job = Job("x", (case.image,), case.label, "NibabelIOWithReorient", DRAWN, folder / "x.npz")
    job.record.unlink(missing_ok=True)

    def work() -> np.ndarray:
        analyse(job)
        return Record.read(job.record).drawn(DRAWN)[0]

    return work


def logits_of(case: Case, folder: Path) -> tuple[np.ndarray, Any, dict[str, Any]]:
    """Logits of 33 heads on the network's grid, as a trained network's: sure within organs, less at
    borders, a little noise everywhere; nnU-Net's managers; and what its export reads."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from scipy.ndimage import gaussian_filter

    from atlas_nnunet.kernels.resample_labels import resample_labels

    image, labels, spacing, shape = grids(case)
    small = resample_labels(labels, shape, spacing, case.spacing_mm)[0]
    rng = np.random.default_rng(0)
    logits = np.empty((HEADS, *small.shape), np.float16)
    for head, own in enumerate(logits):
        own[:] = gaussian_filter((small == head).astype(np.float32), 1.0) * 20 - 10
        own += rng.normal(0, 0.3, small.shape).astype(np.float16)
    plans = PlansManager(str(folder / "plans.json"))
    properties = {
        "spacing": spacing, "shape_before_cropping": image.shape[1:],
        "shape_after_cropping_and_before_resampling": image.shape[1:],
        "bbox_used_for_cropping": [[0, n] for n in image.shape[1:]],
    }  # fmt: skip
    return logits, plans, properties


def heads_json(regions: bool) -> dict[str, Any]:
    if not regions:
        return {"labels": {"background": 0} | {f"s{k}": k for k in range(1, HEADS)}}
    named = {f"s{k}": [k, HEADS + 1] for k in range(1, HEADS + 1)}
    return {"labels": {"background": 0} | named, "regions_class_order": list(range(1, HEADS + 1))}


def stock_export(case: Case, folder: Path, regions: bool = False) -> Callable:
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )

    logits, plans, properties = logits_of(case, folder)
    configuration = plans.get_configuration("3d_fullres")
    manager = plans.get_label_manager(heads_json(regions))
    return lambda: convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, manager, properties, num_threads_torch=1
    )


def our_export(case: Case, folder: Path, regions: bool = False) -> Callable:
    from atlas_nnunet.volume.export import Export

    logits, plans, properties = logits_of(case, folder)
    export = Export(plans, plans.get_configuration("3d_fullres"), heads_json(regions), False)
    return lambda: export.label_map(logits, properties)


def stock_regions(case: Case, folder: Path) -> Callable:
    return stock_export(case, folder, regions=True)


def our_regions(case: Case, folder: Path) -> Callable:
    return our_export(case, folder, regions=True)


ROWS = {
    "labels": Row("label resampling, 25 labels", stock_labels, our_labels),
    "image": Row("image resampling, order 3", stock_image, our_image, TOLERANCE),
    "locations": Row("class locations", stock_locations, our_locations),
    "preprocess": Row("preprocess, file to file", stock_preprocess, our_preprocess, TOLERANCE),
    "fingerprint": Row("fingerprint", stock_fingerprint, our_fingerprint),
    "export": Row(f"export of {HEADS} classes", stock_export, our_export),
    "regions": Row(f"export of {HEADS} regions", stock_regions, our_regions),
}

if __name__ == "__main__":
    sys.exit(main())
