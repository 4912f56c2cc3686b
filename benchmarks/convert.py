"""One case of 25 masks, 512 x 512 x 200: our conversion against plain loops, in one run.

    python benchmarks/convert.py [--repeat 3] [--map LABELS.nii.gz]

Each way works in a process of its own and is charged its CPU time and the memory that it takes
beyond its imports. The loops do what ours does: read the CT and every mask, write one label map,
copy the CT. Ours also hashes every input, looks for NaN, checks every grid, counts overlaps and
writes its record. Equality is checked before anything is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE = (512, 512, 200)
AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
WAYS = ("ours", "nibabel", "SimpleITK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="the least of so many counts")
    parser.add_argument("--map", type=Path, help="a real label map instead of drawn organs")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        n = write_case(folder, args.map)
        rows = {way: best(way, folder, args.repeat) for way in WAYS}
    same = {rows[way]["sum"] for way in WAYS}
    if len(same) > 1:
        print(f"the label maps differ: {rows}")
        return 1
    print(f"{n} masks of {' x '.join(map(str, SHAPE))}; label maps equal; least of {args.repeat}")
    print(f"{'':12}{'CPU s':>8}{'MB':>8}{'CPU':>10}{'memory':>10}")
    for way, row in rows.items():
        ratios = (row["cpu_s"] / rows["ours"]["cpu_s"], row["mb"] / rows["ours"]["mb"])
        print(f"{way:12}{row['cpu_s']:>8.2f}{row['mb']:>8.0f}"
              + "".join(f"{ratio:>9.2f}x" for ratio in ratios))  # fmt: skip
    return 0


def best(way: str, folder: Path, repeat: int) -> dict[str, float]:
    runs = []
    for _ in range(repeat):
        words = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: min(run[name] for run in runs) for name in runs[0]}


def write_case(folder: Path, label_map: Path | None) -> int:
    """BDMAP_1 in AbdomenAtlas' layout: a noisy CT, and ellipsoids that do not overlap."""
    import nibabel as nib

    from atlas_nnunet.structures import ABDOMENATLAS_ORGANS

    rng = np.random.default_rng(0)
    ct = rng.normal(-100, 300, SHAPE).clip(-1000, 1000).astype(np.int16)
    if label_map is None:
        labels = np.zeros(SHAPE, np.uint8)
        for value in range(1, len(ABDOMENATLAS_ORGANS) + 1):
            center, radii = rng.uniform(0.25, 0.75, 3) * SHAPE, rng.uniform(0.03, 0.12, 3) * SHAPE
            axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
            parts = zip(axes, center, radii, strict=True)
            labels[sum(((x - c) / r) ** 2 for x, c, r in parts) < 1] = value
    else:
        whole = np.asarray(nib.load(label_map).dataobj)
        labels = np.ascontiguousarray(whole[:, :, : SHAPE[2]])
    case = folder / "source" / "BDMAP_1"
    (case / "segmentations").mkdir(parents=True)
    nib.save(nib.Nifti1Image(ct, AFFINE), case / "ct.nii.gz")
    for value, name in enumerate(ABDOMENATLAS_ORGANS, 1):
        mask = (labels == value).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, AFFINE), case / "segmentations" / f"{name}.nii.gz")
    return len(ABDOMENATLAS_ORGANS)


def measured(way: str, folder: Path) -> dict[str, float]:
    """CPU seconds of all threads, MB beyond the imports, and a sum that tells label maps apart."""
    work = {"ours": ours, "nibabel": with_nibabel, "SimpleITK": with_simpleitk}[way](folder)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before_mb = peak_mb()
    began = time.process_time()
    path = work()
    cpu_s = time.process_time() - began
    after_mb = peak_mb()
    import nibabel as nib

    counts = np.bincount(np.asarray(nib.load(path).dataobj).ravel())
    total = float((counts * np.arange(1, len(counts) + 1)).sum())
    return {"cpu_s": cpu_s, "mb": after_mb - before_mb, "sum": total}


def peak_mb() -> float:
    """High-water mark of resident memory; getrusage would count the parent's, before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def ours(folder: Path):
    from atlas_nnunet.convert.case import Job, convert_case
    from atlas_nnunet.convert.source import open_source
    from atlas_nnunet.convert.tree import source_files
    from atlas_nnunet.registry import card_of
    from atlas_nnunet.structures import ABDOMENATLAS_ORGANS

    card = card_of("abdomenatlas-1.1-mini")
    raw = Path(tempfile.mkdtemp(dir=folder))
    files, _ = source_files(folder / "source", folder)
    own = open_source(card, files, "").cases["BDMAP_1"]

    def work() -> Path:
        convert_case(Job(card, "BDMAP_1", own, ABDOMENATLAS_ORGANS, False, raw))
        return raw / "labelsTr/BDMAP_1.nii.gz"

    return work


def with_nibabel(folder: Path):
    import shutil

    sys.modules["indexed_gzip"] = None  # type: ignore[assignment]  # plain, as it is installed
    import nibabel as nib

    names = organ_files(folder)

    def work() -> Path:
        ct = nib.load(folder / "source/BDMAP_1/ct.nii.gz")
        labels = np.zeros(np.asarray(ct.dataobj).shape, np.uint8)
        for value, path in enumerate(names, 1):
            labels[np.asarray(nib.load(path).dataobj) > 0.5] = value
        out = Path(tempfile.mkdtemp(dir=folder)) / "labels.nii.gz"
        nib.save(nib.Nifti1Image(labels, ct.affine), out)
        shutil.copyfile(folder / "source/BDMAP_1/ct.nii.gz", out.with_name("ct.nii.gz"))
        return out

    return work


def with_simpleitk(folder: Path):
    import shutil

    import SimpleITK as sitk

    names = organ_files(folder)

    def work() -> Path:
        ct = sitk.ReadImage(str(folder / "source/BDMAP_1/ct.nii.gz"))
        labels = np.zeros(ct.GetSize()[::-1], np.uint8)
        for value, path in enumerate(names, 1):
            mask = sitk.ReadImage(str(path))
            labels[sitk.GetArrayViewFromImage(mask) > 0.5] = value
        out = Path(tempfile.mkdtemp(dir=folder)) / "labels.nii.gz"
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(ct)
        sitk.WriteImage(image, str(out), useCompression=True)
        shutil.copyfile(folder / "source/BDMAP_1/ct.nii.gz", out.with_name("ct.nii.gz"))
        return out

    return work


def organ_files(folder: Path) -> list[Path]:
    from atlas_nnunet.structures import ABDOMENATLAS_ORGANS

    return [folder / f"source/BDMAP_1/segmentations/{n}.nii.gz" for n in ABDOMENATLAS_ORGANS]


if __name__ == "__main__":
    raise SystemExit(main())
