"""The patients that stages are measured on, and how: CPU seconds and peak memory of a child."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# In-plane and slice spacing in mm of the phantom, the spacing to come to as (z, y, x), and height.
KINDS = {
    "thin": (0.62, 1.0, (1.0, 0.75, 0.75), 262.0),  # 50 Mvoxel
    "thick": (0.62, 5.0, (4.0, 0.75, 0.75), 262.0),
    "small": (1.24, 2.0, (2.0, 1.5, 1.5), 200.0),  # to try a benchmark out
}


@dataclass(frozen=True)
class Case:
    """One patient on disk.

    Attributes:
        image, label: NIfTI; 25 organs as 1..25.
        spacing_mm: (z, y, x) to come to.
    """

    image: Path
    label: Path
    spacing_mm: tuple[float, ...]


def phantom_case(folder: Path, kind: str) -> Case:
    """A phantom patient, kept in `folder` from one run to the next."""
    import nibabel as nib
    import numpy as np

    from atlas_nnunet.demo.phantom import View, make_patient
    from atlas_nnunet.structures import ABDOMENATLAS_ORGANS

    pixel, slice_, wanted, height = KINDS[kind]
    case = Case(folder / f"{kind}_0000.nii.gz", folder / f"{kind}.nii.gz", wanted)
    if not case.label.is_file():
        view = View((pixel, pixel), (slice_,), (-175, -175), (height, height), 9)
        patient = make_patient(0, 0, view)
        labels = np.zeros(patient.ct_hu.shape, np.uint8)
        for number, name in enumerate(ABDOMENATLAS_ORGANS, start=1):
            labels[patient.masks[name]] = number
        folder.mkdir(parents=True, exist_ok=True)
        affine = patient.grid.affine
        nib.save(nib.Nifti1Image(patient.ct_hu, affine), case.image)
        nib.save(nib.Nifti1Image(labels, affine), case.label)
    return case


def plan_files(folder: Path, case: Case) -> tuple[Path, Path]:
    """A plan of nnU-Net's for the case, with stock's functions, and its dataset.json."""
    function, edge = "resample_data_or_seg_to_shape", {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "full", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [96, 160, 160], "spacing": list(case.spacing_mm), "architecture": {},
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **edge},
        "resampling_fn_seg": function,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **edge},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **edge},
    }  # fmt: skip
    window = {"mean": 40.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 300.0}
    plans = {
        "plans_name": "P", "dataset_name": "Dataset009_X", "label_manager": "LabelManager",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {"0": window},
    }  # fmt: skip
    names = {"background": 0} | {f"organ_{k}": k for k in range(1, 26)}
    files = folder / "plans.json", folder / "dataset.json"
    files[0].write_text(json.dumps(plans))
    files[1].write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": names}))
    return files


@dataclass(frozen=True)
class Measured:
    """What a piece of work cost: CPU seconds, and the process' peak memory in GB, imports too."""

    cpu_s: float
    peak_gb: float


def measured(begin: Callable, words: tuple, result: Path | None = None) -> Measured:
    """Do work in a process of its own, with one thread.

    Args:
        begin: Called with `words`; it imports, reads, and returns the work, which is called then,
            and counted. A function that a new process can import.
        words: Its arguments.
        result: Where the array that the work returns is saved, to be compared.
    """
    for name in THREADS:
        os.environ[name] = "1"
    for name in FOLDERS:
        os.environ.setdefault(name, ".")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_count, (begin, words, result))


def _count(begin: Callable, words: tuple, result: Path | None) -> Measured:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    work = begin(*words)
    began = time.process_time()
    found = work()
    used = time.process_time() - began
    peak_gb = _peak_gb()
    if result is not None:
        np.save(result, found)
    return Measured(used, peak_gb)


def _peak_gb() -> float:
    """Of this process since it began; `ru_maxrss` would count its parent's memory too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
