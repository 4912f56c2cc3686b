"""A tiny data set and a workspace, for tests that run whole stages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlas_nnunet.artefacts import ROOTS
from atlas_nnunet.cli import main
from atlas_nnunet.host import READER
from atlas_nnunet.labelmap import Coding


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders, and our command line in them."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {name: str(self.folder / name) for name in ROOTS}

    def run(self, *words: object) -> int:
        """`atlas-nnunet WORDS` in this process, in this workspace."""
        before = {name: os.environ.get(name) for name in (*ROOTS, "nnUNet_n_proc_DA")}
        os.environ.update(self.variables, nnUNet_n_proc_DA="0")
        try:
            return main([str(word) for word in words])
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


TINY_STRUCTURES = ("liver", "kidney_left", "kidney_right", "liver_tumor")
TINY_OVERLAPS = [frozenset({"liver", "liver_tumor"})]


def tiny_case(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A (40, 36, 32) CT, int16, and masks: a liver with a tumour, and two kidneys."""
    index = np.indices((40, 36, 32))

    def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
        moved = np.array(center) + rng.uniform(-1, 1, 3)
        return ((index - moved[:, None, None, None]) ** 2).sum(0) < radius**2

    masks = {
        "liver": ball((28, 18, 20), 8),
        "kidney_left": ball((9, 12, 9), 4),
        "kidney_right": ball((29, 12, 6), 4),
        "liver_tumor": ball((28, 18, 20), 3),
    }
    ct_hu = rng.normal(-50, 20, index.shape[1:])
    for name, hu in (
        ("liver", 60),
        ("kidney_left", 150),
        ("kidney_right", 150),
        ("liver_tumor", 0),
    ):
        ct_hu[masks[name]] = hu + rng.normal(0, 20, int(masks[name].sum()))
    return ct_hu.astype(np.int16), masks


def write_tiny_dataset(raw: Path, name: str, n_cases: int, seed: int) -> Path:
    """A raw data set of nnU-Net with regions and label status, as `convert` leaves one."""
    folder = raw / name
    coding = Coding.of(TINY_STRUCTURES, TINY_OVERLAPS)
    status: dict[str, dict[str, str]] = {}
    for number in range(n_cases):
        case = f"case_{number:03d}"
        ct_hu, masks = tiny_case(np.random.default_rng([seed, number]))
        codes, _ = coding.encode(((s, masks[s]) for s in TINY_STRUCTURES), ct_hu.shape)
        affine = np.diag([1.0, 1.0, 1.5, 1.0])
        for sub, array, ending in (("imagesTr", ct_hu, "_0000"), ("labelsTr", codes, "")):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / sub / f"{case}{ending}.nii.gz")
        status[case] = {"liver_tumor": "pseudo"} if number % 2 else {"kidney_left": "unlabelled"}
    dataset_json = {
        "channel_names": {"0": "CT"},
        **coding.as_dataset_json(),
        "numTraining": n_cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": READER,
        "atlas_nnunet": {"key": "tiny", "schema": 1},
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    conversion = {"pseudo_weight": 0.5, "cases": {c: {"status": s} for c, s in status.items()}}
    (folder / "conversion.json").write_text(json.dumps(conversion))
    return folder


def run_all(run: Callable[..., int], *commands: tuple) -> None:
    """Every command ends well."""
    for words in commands:
        assert run(*words) == 0, words


def what_was_written(raw: Path) -> tuple[dict[str, Any], Coding]:
    """conversion.json of a raw data set, and the coding that its dataset.json declares."""
    conversion = json.loads((raw / "conversion.json").read_text())
    return conversion, Coding.of_dataset_json(json.loads((raw / "dataset.json").read_text()))


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in value and type, through dictionaries and sequences."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs
