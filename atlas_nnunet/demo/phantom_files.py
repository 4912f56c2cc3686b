"""Phantom patients on disk: as AbdomenAtlas lays out its cases, and as MSD lays out a task."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from atlas_nnunet.artefacts import whole_file, write_json
from atlas_nnunet.demo.anatomy import LESIONS
from atlas_nnunet.demo.phantom import UPPER_ABDOMEN, WIDE, Patient, View, make_patient
from atlas_nnunet.geometry import Grid
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS

REVIEWED = 0.8  # share of (patient, tumour type) pairs that anybody looked at
MISSED = 0.15  # share of small tumours that the "model" behind the pseudo-labels missed
SMALL_ML = 3.0

# The target set's own vocabulary: other names, a class the source lacks, liver = 1 and 2.
TARGET_LABELS = ("background", "liver", "liver_cancer", "spleen", "right_kidney", "left_kidney",
                 "pancreas", "aorta", "inferior_vena_cava", "vertebrae")  # fmt: skip
TARGET_STRUCTURES = ("liver", "liver_tumor", "spleen", "kidney_right", "kidney_left", "pancreas",
                     "aorta", "postcava", "vertebrae")  # fmt: skip


@dataclass(frozen=True)
class PhantomJob:
    """One patient to draw and write.

    Attributes:
        folder: Of the data set.
        seed: Of the phantom.
        index: Of the patient.
        part: "atlas", or "Tr" / "Ts" of the target set.
        view: How it is scanned.
    """

    folder: Path
    seed: int
    index: int
    part: str
    view: View

    @property
    def case(self) -> str:
        return f"BDMAP_{self.index:08d}" if self.part == "atlas" else f"phantom_{self.index:03d}"

    @property
    def mark(self) -> Path:
        """Written last, and says which patient this is; nothing else proves that one is whole."""
        return self.folder / ".phantom" / f"{self.case}.json"

    def identity(self) -> dict[str, object]:
        return {"seed": self.seed, "index": self.index, "part": self.part, "version": 1}


def demo_jobs(
    atlas: Path, target: Path, seed: int, n_source: int, n_train: int, n_test: int
) -> dict[str, PhantomJob]:
    """Every patient of both sets."""
    jobs = [PhantomJob(atlas, seed, i, "atlas", WIDE) for i in range(1, n_source + 1)]
    parts = ["Tr"] * n_train + ["Ts"] * n_test
    jobs += [PhantomJob(target, seed, i, p, UPPER_ABDOMEN) for i, p in enumerate(parts, 1)]
    return {f"{job.part}/{job.case}": job for job in jobs}


def write_phantom(job: PhantomJob) -> bool:
    """Draw and write a patient unless this very one is there; True if there was work to do."""
    if job.mark.is_file() and json.loads(job.mark.read_text()) == job.identity():
        return False
    patient = make_patient(job.seed, job.index, job.view)
    if job.part == "atlas":
        write_atlas_case(job.folder / job.case, patient, job.seed, job.index)
    else:
        write_target_case(job.folder, job.case, job.part, patient)
    write_json(job.mark, job.identity())
    return True


def write_atlas_case(folder: Path, patient: Patient, seed: int, index: int) -> None:
    """ct.nii.gz, combined_labels.nii.gz and segmentations/*.nii.gz, by the authors' conventions:
    `_x.nii.gz` is predicted, an all-zero tumour file is reviewed and absent, no file is not
    reviewed."""
    write_nifti(folder / "ct.nii.gz", patient.ct_hu, patient.grid)
    combined = np.zeros(patient.ct_hu.shape, np.uint8)
    for value, name in enumerate(ABDOMENATLAS_ORGANS, 1):
        combined[patient.masks[name]] = value  # where masks overlap, the higher value wins
        write_nifti(folder / "segmentations" / f"{name}.nii.gz", patient.masks[name], patient.grid)
    write_nifti(folder / "combined_labels.nii.gz", combined, patient.grid)
    rng = np.random.default_rng([seed, 2, index])
    for name in ABDOMENATLAS_TUMORS:
        reviewed = rng.random() < REVIEWED
        predicted = predict_lesions(rng, name, patient)
        if reviewed:
            stem = f"_{name}" if predicted.any() else name
            write_nifti(folder / "segmentations" / f"{stem}.nii.gz", predicted, patient.grid)


def predict_lesions(rng: np.random.Generator, name: str, patient: Patient) -> np.ndarray:
    """What a model might have drawn: borders off by a voxel, some small tumours missed."""
    truth = patient.masks[name]
    hosts = [patient.masks[h] for h in LESIONS[name].hosts]
    organ = np.logical_or.reduce(hosts)
    labelled, _ = ndimage.label(truth)
    out = np.zeros_like(truth)
    for lesion, box in enumerate(ndimage.find_objects(labelled), 1):
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        part = labelled[wide] == lesion
        small = part.sum() * patient.grid.voxel_ml < SMALL_ML
        if rng.random() < (MISSED if small else 0.0):
            continue
        change = (ndimage.binary_dilation, ndimage.binary_erosion, np.copy)[rng.integers(3)]
        out[wide] |= change(part) & organ[wide]
    return out


def write_target_case(folder: Path, case: str, part: str, patient: Patient) -> None:
    """imagesTr or imagesTs, labelsTr or labelsTs; the label map holds the truth."""
    labels = np.zeros(patient.ct_hu.shape, np.uint8)
    # The tumour last: it lies in the liver, and this layout has one value a voxel.
    order = sorted(
        range(1, len(TARGET_LABELS)), key=lambda v: TARGET_STRUCTURES[v - 1] == "liver_tumor"
    )
    for value in order:
        labels[patient.masks[TARGET_STRUCTURES[value - 1]]] = value
    write_nifti(folder / f"images{part}" / f"{case}.nii.gz", patient.ct_hu, patient.grid)
    write_nifti(folder / f"labels{part}" / f"{case}.nii.gz", labels, patient.grid)


def write_target_description(folder: Path, n_train: int, n_test: int) -> None:
    """dataset.json as MSD writes one."""
    names = [f"phantom_{i:03d}.nii.gz" for i in range(1, n_train + n_test + 1)]
    content: Mapping[str, object] = {
        "name": "Phantom target",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(TARGET_LABELS)},
        "numTraining": n_train,
        "numTest": n_test,
        "training": [
            {"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:n_train]
        ],
        "test": [f"./imagesTs/{n}" for n in names[n_train:]],
    }
    write_json(folder / "dataset.json", content, sort_keys=False)


def write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Fast gzip, no time and no name in it; written whole."""
    stored = array.astype(np.uint8) if array.dtype == bool else array
    data = nib.Nifti1Image(stored, grid.affine).to_bytes()
    with whole_file(path) as partial:
        partial.write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
