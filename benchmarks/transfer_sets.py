"""The datasets of the transfer benchmark: phantoms in large voxels, and OpenKBP's patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import Dataset, link_or_copy, whole_file, write_json
from atlas_nnunet.cli import main as atlas
from atlas_nnunet.demo.phantom import UPPER_ABDOMEN, WIDE, View, make_patient
from atlas_nnunet.demo.phantom_files import (
    PhantomJob,
    write_nifti,
    write_phantom,
    write_target_description,
)
from atlas_nnunet.execution import Workers, map_cases
from atlas_nnunet.host import READER

N_CANDIDATES = 8  # of which a run trains on 1, 2, 4 or all
# In voxels that a CPU can train on by the hundred; the patients are the demo's.
COARSE_SOURCE = replace(WIDE, in_plane_mm=(2.5, 4.0), slice_mm=(4.0, 5.0))
COARSE_TARGET = replace(UPPER_ABDOMEN, in_plane_mm=(3.0, 4.0), slice_mm=(4.0, 5.0))
# For tumours, smaller voxels, fewer organs, and tumours in most patients.
TUMOURS = {"liver_tumor": 0.9, "kidney_tumor": 0.6}
TUMOUR_SOURCE = replace(
    UPPER_ABDOMEN, in_plane_mm=(2.0, 3.0), slice_mm=(3.0,), stream=2, lesion_probability=TUMOURS
)
TUMOUR_TARGET = replace(
    UPPER_ABDOMEN, in_plane_mm=(2.5, 3.5), slice_mm=(3.0, 4.0), stream=3, lesion_probability=TUMOURS
)
FEW_ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "pancreas", "gall_bladder")
# As LiTS and KiTS label their cases: exclusive classes, one for both kidneys, and a tumour is not
# part of its organ. Class -> structures of the phantom; a later class wins.
FLAT_CLASSES = {
    "liver": ("liver",),
    "kidney": ("kidney_left", "kidney_right"),
    "liver_tumor": ("liver_tumor",),
    "kidney_tumor": ("kidney_tumor",),
}
# OpenKBP's source has none of the target's structures.
KBP_TARGET = ("parotid_left", "parotid_right", "ptv70")
KBP_SOURCE = ("brainstem", "spinal_cord", "esophagus", "larynx", "mandible", "ptv56", "ptv63")


@dataclass(frozen=True)
class Budget:
    """Lengths as (epochs, iterations in each); spacings (z, y, x) in mm."""

    pretrain: tuple[int, int]
    finetune: tuple[int, int]
    source_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    memory_gb: float


@dataclass(frozen=True)
class Set:
    """A source, a target, and how they come to be.

    Attributes:
        sources: "all", and "organs" where there are tumours to leave out -> name.
        target: Name; its first N_CANDIDATES cases are to train on, the others are held out.
        n_held_out: How many others.
        make: (folder of the benchmark, folder of the data) -> nothing; both sets are in nnUNet_raw.
        tables: Of the benchmark that can be made.
        tolerance_mm: Of the surface distance: about a voxel.
        budget: Of a CPU, by the minute.
        long: Of a GPU, by the hour; nobody has run it yet.
        rates: Arm -> its learning rate, where another was best on this set.
    """

    sources: dict[str, str]
    target: str
    n_held_out: int
    make: Callable[[Set, Path, Path | None], None]
    tables: tuple[str, ...]
    tolerance_mm: float
    budget: Budget
    long: Budget
    rates: dict[str, float] = field(default_factory=dict)

    def on(self, device: str) -> Set:
        return replace(self, budget=self.long) if device == "cuda" else self

    def write(self, out: Path, data: Path | None) -> None:
        """Both sets in nnUNet_raw, and the held-out cases in folders of their own."""
        self.make(self, out, data)
        raw = Dataset(self.target).raw
        for case in held_out(self)[1]:
            for folder, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
                link = out / "held_out" / folder / name
                if not link.exists():
                    with whole_file(link) as partial:
                        link_or_copy(raw / f"{folder}Tr" / name, partial)

    def scored(self, out: Path) -> tuple[Path, Path]:
        return out / "held_out" / "images", out / "held_out" / "labels"


def held_out(chosen: Set) -> tuple[list[str], list[str]]:
    """Cases to choose from for training, and those to score."""
    names = (p.name for p in (Dataset(chosen.target).raw / "labelsTr").glob("*.nii.gz"))
    cases = sorted(name.removesuffix(".nii.gz") for name in names)
    return cases[:N_CANDIDATES], cases[N_CANDIDATES:]


def convert(key: str, folder: Path, name: str, *words: object) -> None:
    number, _, rest = name.removeprefix("Dataset").partition("_")
    line = ["convert", key, folder, "-d", int(number), "--name", rest, "-np", 2, *words]
    if atlas([str(word) for word in line]) == 2:
        raise RuntimeError(f"convert {name}")


def draw(write: Callable[[Any], bool], jobs: Sequence[Any]) -> None:
    named = {f"{job.folder.name}/{job.case}": job for job in jobs}
    _, failed = map_cases(write, named, workers=Workers(2), describe="phantom")
    if failed:
        raise RuntimeError(f"phantom: {failed}")


def patients(out: Path, parts: Mapping[str, tuple[int, View]]) -> list[Path]:
    """Folders of drawn patients; part ("atlas", a source; "Tr", a target) -> how many, and view."""
    folders = {part: out / "patients" / part for part in parts}
    draw(write_phantom, [
        PhantomJob(folders[part], 0, i, part, view)
        for part, (n, view) in parts.items()
        for i in range(1, n + 1)
    ])  # fmt: skip
    if "Tr" in parts:
        write_target_description(folders["Tr"], parts["Tr"][0], 0)
    return list(folders.values())


@dataclass(frozen=True)
class FlatJob:
    """One patient of the target with exclusive classes."""

    folder: Path
    index: int

    @property
    def case(self) -> str:
        return f"phantom_{self.index:03d}"


def write_flat_case(job: FlatJob) -> bool:
    """Draw a patient as nnU-Net's raw format has one, unless it is there; the label map is last."""
    labels = job.folder / "labelsTr" / f"{job.case}.nii.gz"
    if labels.is_file():
        return False
    patient = make_patient(0, job.index, TUMOUR_TARGET)
    codes = np.zeros(patient.ct_hu.shape, np.uint8)
    for code, structures in enumerate(FLAT_CLASSES.values(), 1):
        for name in structures:
            codes[patient.masks[name]] = code
    image = job.folder / "imagesTr" / f"{job.case}_0000.nii.gz"
    write_nifti(image, patient.ct_hu, patient.grid)
    write_nifti(labels, codes, patient.grid)
    return True


def make_tumours(chosen: Set, out: Path, data: Path | None) -> None:
    """Sources: the same patients with and without their tumours, which are pseudo-labels. The
    target has true tumours in exclusive classes, and is not a dataset of `convert`."""
    n_target = N_CANDIDATES + chosen.n_held_out
    (source,) = patients(out, {"atlas": (30, TUMOUR_SOURCE)})
    convert("phantom", source, chosen.sources["all"], "--structures", *FEW_ORGANS, *TUMOURS)
    convert("phantom", source, chosen.sources["organs"], "--structures", *FEW_ORGANS)
    raw = Dataset(chosen.target).raw
    draw(write_flat_case, [FlatJob(raw, i) for i in range(1, n_target + 1)])
    labels = {"background": 0, **{name: code for code, name in enumerate(FLAT_CLASSES, 1)}}
    write_json(raw / "dataset.json", {
        "channel_names": {"0": "CT"}, "labels": labels, "numTraining": n_target,
        "file_ending": ".nii.gz", "overwrite_image_reader_writer": READER,
    }, sort_keys=False)  # fmt: skip


def make_phantom(chosen: Set, out: Path, data: Path | None) -> None:
    n_target = N_CANDIDATES + chosen.n_held_out
    source, target = patients(out, {"atlas": (24, COARSE_SOURCE), "Tr": (n_target, COARSE_TARGET)})
    convert("phantom", source, chosen.sources["all"])
    convert("phantom-target", target, chosen.target)


def make_openkbp(chosen: Set, out: Path, data: Path | None) -> None:
    if data is None:
        raise SystemExit("name the folder of OpenKBP's cases: --data DIR")
    convert("openkbp", data, chosen.sources["all"], "--train", 60, "--structures", *KBP_SOURCE)
    convert("openkbp", data, chosen.target, "--skip", 60, "--train",
            N_CANDIDATES + chosen.n_held_out, "--structures", *KBP_TARGET)  # fmt: skip


SETS = {
    "phantom": Set(
        {"all": "Dataset731_PhantomAtlas"},
        "Dataset733_PhantomTarget", 12, make_phantom,
        ("main", "parts", "modes", "schedules", "rates"), 4.0,
        Budget((12, 60), (10, 24), (5.0, 5.0, 5.0), (4.5, 4.5, 4.5), 0.06),
        Budget((80, 250), (60, 50), (3.5, 3.5, 3.5), (3.0, 3.0, 3.0), 0.5),
    ),
    "tumours": Set(
        {"all": "Dataset751_TumourAtlas", "organs": "Dataset752_TumourOrgans"},
        "Dataset753_TumourTarget", 12, make_tumours, ("tumours",), 3.0,
        Budget((20, 60), (10, 24), (3.5, 3.5, 3.5), (3.5, 3.5, 3.5), 0.08),
        Budget((80, 250), (60, 50), (2.5, 2.5, 2.5), (2.5, 2.5, 2.5), 0.5),
    ),
    "openkbp": Set(
        {"all": "Dataset741_KbpSource"},
        "Dataset742_KbpTarget", 16, make_openkbp,
        ("main", "parts", "modes", "baseline rates"), 4.0,
        Budget((14, 60), (10, 24), (5.0, 5.0, 5.0), (4.5, 4.5, 4.5), 0.06),
        Budget((120, 250), (60, 50), (4.0, 4.0, 4.0), (3.5, 3.5, 3.5), 0.5),
        {"scratch": 3e-3, "encoder only": 3e-3},
    ),
}  # fmt: skip
