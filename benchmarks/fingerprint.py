"""Fingerprint of one case, 512 x 512 x 200 and 25 labels: ours against stock nnU-Net, in one run.

    python benchmarks/fingerprint.py [--repeat 3] [--map LABELS.nii.gz] [--reader SimpleITKIO]

Each way works in a process of its own with one thread, and is charged its CPU time and the memory
that it takes beyond its imports. Ours also hashes the files and writes its record. Numbers drawn
are compared; a difference is a failure, whatever the speed. Then a case is added to four.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, ".")

import numpy as np  # noqa: E402  # after the number of threads is set

SHAPE = (512, 512, 200)
AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
N_CASES = 9_262  # AbdomenAtlas: how many intensities are drawn from a case depends on it
WAYS = ("ours", "stock")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="the least of so many counts")
    parser.add_argument("--map", type=Path, help="a real label map instead of drawn organs")
    parser.add_argument("--reader", default="NibabelIOWithReorient")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measured(args.way, args.folder, args.reader)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_case(folder, args.map)
        rows = {way: best(way, folder, args.reader, args.repeat) for way in WAYS}
        equal = (folder / "ours.json").read_text() == (folder / "stock.json").read_text()
        same = "equal" if equal else "DIFFERENT"
        print(f"{' x '.join(map(str, SHAPE))}, {args.reader}; least of {args.repeat}; {same}")
        print(f"{'':8}{'CPU s':>8}{'MB':>8}{'CPU':>10}{'memory':>10}")
        for way, row in rows.items():
            ratios = (row["cpu_s"] / rows["ours"]["cpu_s"], row["mb"] / rows["ours"]["mb"])
            print(f"{way:8}{row['cpu_s']:>8.2f}{row['mb']:>8.0f}"
                  + "".join(f"{ratio:>9.2f}x" for ratio in ratios))  # fmt: skip
        print(f"ours was foretold to need at most {rows['ours']['need_mb']:.0f} MB")
        add_one(folder, args.reader)
    return 0 if equal else 1


def best(way: str, folder: Path, reader: str, repeat: int) -> dict[str, float]:
    runs = []
    for _ in range(repeat):
        words = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
        done = subprocess.run(
            [*words, "--reader", reader], check=True, capture_output=True, text=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: min(run[name] for run in runs) for name in runs[0]}


def write_case(folder: Path, label_map: Path | None) -> None:
    """A label map of 25 organs, and a CT with a density for each of them and noise."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]

    def fill(center: np.ndarray, radii: np.ndarray, value: int) -> None:
        parts = zip(axes, center, radii, strict=True)
        labels[sum(((x - c) / r) ** 2 for x, c, r in parts) < 1] = value

    fill(np.array(SHAPE) / 2, np.array([0.45, 0.35, 2.0]) * SHAPE, 1)
    body = labels.copy()
    if label_map is None:
        labels[:] = 0
        for value in range(1, 26):
            fill(rng.uniform(0.3, 0.7, 3) * SHAPE, rng.uniform(0.03, 0.12, 3) * SHAPE, value)
    else:
        whole = np.asarray(nib.load(label_map).dataobj)
        labels = np.ascontiguousarray(whole[:, :, : SHAPE[2]])
    ct_hu = np.where(body, -50, -1000) + rng.integers(-100, 200, 256)[labels] * (labels > 0)
    ct_hu = (ct_hu + rng.normal(0, 12, SHAPE)).clip(-1024, 3071).astype(np.int16)
    nib.save(nib.Nifti1Image(ct_hu, AFFINE), folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "labels.nii.gz")


def measured(way: str, folder: Path, reader: str) -> dict[str, float]:
    """CPU seconds of all threads, and MB beyond the imports."""
    sys.modules["indexed_gzip"] = None  # type: ignore[assignment]  # plain, as it is installed
    work = {"ours": ours, "stock": stock}[way](folder, reader)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before_mb = peak_mb()
    began = time.process_time()
    shape, spacing, relative, drawn = work()
    cpu_s = time.process_time() - began
    after_mb = peak_mb()
    found = [list(map(int, shape)), list(map(float, spacing)), float(relative)]
    numbers = [np.asarray(d, np.float64).tolist() for d in drawn]
    (folder / f"{way}.json").write_text(json.dumps([*found, numbers]))
    from atlas_nnunet.fingerprint.case import need_bytes

    return {"cpu_s": cpu_s, "mb": after_mb - before_mb,
            "need_mb": need_bytes(job_of(folder, reader)) / 2**20}  # fmt: skip


def peak_mb() -> float:
    """High-water mark of resident memory; getrusage would count the parent's, before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def job_of(folder: Path, reader: str, case: str = "", n_cases: int = N_CASES):
    from atlas_nnunet.fingerprint.case import Job
    from atlas_nnunet.fingerprint.merge import samples_of_a_case

    return Job(
        case, (folder / f"{case}ct.nii.gz",), folder / f"{case}labels.nii.gz", reader,
        samples_of_a_case(n_cases), folder / f"{case}record.npz",
    )  # fmt: skip


def ours(folder: Path, reader: str):
    from atlas_nnunet.fingerprint.case import analyse
    from atlas_nnunet.fingerprint.record import Record

    if reader.startswith("SimpleITK"):
        import SimpleITK  # noqa: F401
        from nnunetv2.imageio import reader_writer_registry  # noqa: F401

    job = job_of(folder, reader)
    job.record.unlink(missing_ok=True)

    def work():
        analyse(job)
        found = Record.read(job.record)
        return (found.shape_after_crop_vox, found.spacing_mm, found.relative_size,
                found.drawn(job.n_samples))  # fmt: skip

    return work


def stock(folder: Path, reader: str):
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    job, kind = job_of(folder, reader), recursive_find_reader_writer_by_name(reader)

    def work():
        shape, spacing, drawn, _, relative = DatasetFingerprintExtractor.analyze_case(
            [str(p) for p in job.images], str(job.label), kind, job.n_samples
        )
        return shape, spacing, relative, drawn

    return work


def add_one(folder: Path, reader: str) -> None:
    """Four cases, then five: what each run reads, and what it costs."""
    from atlas_nnunet.fingerprint.case import analyse

    for n_cases in (4, 5, 4):
        cases = [f"case_{number}_" for number in range(n_cases)]
        for case in cases:
            for kind in ("ct.nii.gz", "labels.nii.gz"):
                if not (folder / f"{case}{kind}").exists():
                    shutil.copyfile(folder / kind, folder / f"{case}{kind}")
        began = time.process_time()
        came = [analyse(job_of(folder, reader, case, N_CASES + n_cases)) for case in cases]
        cpu_s = time.process_time() - began
        print(f"{n_cases} cases: {', '.join(came)}; {cpu_s:.3f} s of CPU")


if __name__ == "__main__":
    raise SystemExit(main())
