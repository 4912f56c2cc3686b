"""Data sets that have a fingerprint and no voxels: planning looks at nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support import Workspace

from atlas_nnunet.host import READER

NOTHING = {
    "max": 1.0, "mean": 0.0, "median": 0.0, "min": -1.0, "percentile_00_5": -1.0,
    "percentile_99_5": 1.0, "std": 1.0,
}  # fmt: skip


def write_set(
    space: Workspace, number: int, spacings: list, shapes: list, channels: tuple = ("CT",),
    labels: dict | None = None, cropped: float = 1.0,
) -> Path:  # fmt: skip
    """`DatasetNNN_Set` with one case a spacing; (z, y, x). Returns its preprocessed folder."""
    name = f"Dataset{number}_Set"
    raw = space.folder / "nnUNet_raw" / name
    folder = space.folder / "nnUNet_preprocessed" / name
    raw.mkdir(parents=True)
    folder.mkdir(parents=True)
    cases = [f"c{number:03d}" for number in range(len(spacings))]
    dataset_json = {
        # Where the cases are listed, the host starts no processes to list them.
        "dataset": {c: {"images": [f"{c}_0000.nii.gz"], "label": f"{c}.nii.gz"} for c in cases},
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": labels or {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": len(spacings),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": READER,
    }
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": cropped,
        "foreground_intensity_properties_per_channel": {
            str(i): NOTHING for i in range(len(channels))
        },
    }
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return folder


def abdominal(n: int = 21) -> tuple[list, list]:
    """CTs as AbdomenAtlas has them: large, slices of 1 to 5 mm; nnU-Net plans a cascade."""
    rng = np.random.default_rng(0)
    spacings = [[float(rng.choice([1.0, 2.5, 2.5, 5.0])), 0.8, 0.8] for _ in range(n)]
    return spacings, [[int(rng.integers(120, 300)), 512, 512] for _ in range(n)]


def prostate(n: int = 15) -> tuple[list, list]:
    """MR with few thick slices, as MSD's prostate: 10th percentile, deep in the plane."""
    rng = np.random.default_rng(1)
    spacings = [[float(rng.choice([3.0, 3.6, 4.0])), 0.6, 0.6] for _ in range(n)]
    return spacings, [[int(rng.integers(15, 24)), 320, 320] for _ in range(n)]


def isotropic(n: int = 9) -> tuple[list, list]:
    rng = np.random.default_rng(2)
    return [[1.0, 1.0, 1.0]] * n, [[int(rng.integers(120, 160)), 180, 160] for _ in range(n)]


def tiny(n: int = 5) -> tuple[list, list]:
    """Few small images, as MSD's hippocampus: the data set bounds the batch."""
    return [[1.0, 1.0, 1.0]] * n, [[36 + i, 50, 35] for i in range(n)]


def sagittal(n: int = 7) -> tuple[list, list]:
    """Coarse from left to right: nnU-Net puts that axis first."""
    return [[0.8, 0.9, 3.0]] * n, [[200, 220, 60 + i] for i in range(n)]
