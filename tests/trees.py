"""A small source in the true layout of any card, so that tests cover a new card unasked."""

from __future__ import annotations

import gzip
import locale
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from atlas_nnunet.registry import MASKS, PNG_STACK, DatasetCard, Layout

SHAPE = (13, 11, 9)
AFFINE = np.array([[-0.8, 0, 0, 5], [0, -0.8, 0, -3], [0, 0, 2.5, 40], [0, 0, 0, 1.0]])
FOUND = ("liver", "liver_lesion", "_colon_tumor", "pancreatic_duct")  # where files tell structures
NAMES = {  # of cases, where the set's own names follow a rule; by default unpadded numbers
    "amos22": ("amos_0004", "amos_0410"),
    "amos22-mr": ("amos_0507", "amos_0600"),
    "totalsegmentator-v1": ("s0011", "s0235"),
    "totalsegmentator-v2": ("s0011", "s0235"),
    "ct-org": ("4", "21"),
    "verse": ("sub-verse004", "sub-verse401_split-verse253"),
}


@dataclass
class Tree:
    """A source on disk and what is true of it.

    Attributes:
        truth: Case -> structure -> mask, for structures that somebody drew.
        ct: Case -> channels, (i, j, k) each.
    """

    folder: Path
    truth: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    ct: dict[str, list[np.ndarray]] = field(default_factory=dict)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, **header: float) -> None:
    """A NIfTI, gzipped where its name says so; `slope` scales what is stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array.astype(np.uint8) if array.dtype == bool else array
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    if header:
        image.header.set_slope_inter(header["slope"], 0)
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data, 1, mtime=0) if path.name.endswith(".gz") else data)


def save_dicom(folder: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """One file a slice, named in reverse order of the slices' places: names say nothing."""
    import SimpleITK as sitk

    before = locale.setlocale(locale.LC_ALL)
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    axes = to_lps @ affine[:3, :3] / spacing
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(array.shape[2]):
        image = sitk.GetImageFromArray(array[:, :, k].T.astype(np.int16))
        image.SetSpacing([float(s) for s in spacing[:2]])
        place = to_lps @ (affine[:3, :3] @ [0, 0, k] + affine[:3, 3])
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0060": "CT",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{k + 1}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.3",
            "0020|0032": "\\".join(f"{x:.6f}" for x in place), "0020|0013": str(k),
            "0020|0037": "\\".join(f"{x:.6f}" for x in [*axes[:, 0], *axes[:, 1]]),
            "0018|0050": f"{spacing[2]:.6f}", "0028|1052": "0", "0028|1053": "1",
        }  # fmt: skip
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"IMG-{array.shape[2] - k:05d}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM leaves the process in "C"


def path_of(template: str, case: str, structure: str = "") -> str:
    """A path that a template means; a study's folder holds blanks, as they do."""
    study = "01-02-2003-NA-PET-CT Ganz (k)"
    return template.replace("*", "part 1").format(case=case, study=study, structure=structure)


def cases_of(card: DatasetCard) -> tuple[str, ...]:
    return NAMES.get(card.key, ("2", "10"))


def name_of(card: DatasetCard, case: str) -> str:
    """What nnU-Net will call it."""
    has_study = "{study}" in card.layout.images[0]
    return f"{case}_01-02-2003-NA-PET-CT-Ganz--k-" if has_study else case


def build(card: DatasetCard, folder: Path, layout: Layout | None = None) -> Tree:
    """Two cases for training, and two held out where the layout has a place for them."""
    tree, layout = Tree(folder), layout or card.layout
    train = cases_of(card)
    parts = [(train, layout.images, layout.masks)]
    if layout.held_out_masks:
        held_out = tuple(c[:-1] + str((int(c[-1]) + 3) % 10) for c in train)
        parts.append((held_out, layout.held_out_images, layout.held_out_masks))
    for cases, images, masks in parts:
        for case in cases:
            rng = np.random.default_rng([*card.key.encode(), *case.encode()])
            name = name_of(card, case)
            tree.ct[name] = [rng.integers(-900, 900, SHAPE).astype(np.int16) for _ in card.channels]
            _write_images(folder, layout, images, case, tree.ct[name])
            tree.truth[name] = _write_masks(card, folder, layout, masks, case, rng)
    for split in card.splits.values():
        if "table" in split:
            rows = [f"{case};{part}" for case, part in zip(train, ("train", "test"), strict=True)]
            (folder / split["table"]).write_text("\n".join(["image_id;split", *rows]) + "\n")
    return tree


def _write_images(
    folder: Path, layout: Layout, images: tuple[str, ...], case: str, ct: list[np.ndarray]
) -> None:
    if layout.channels_in_file:
        save(folder / path_of(images[0], case), np.stack(ct, -1))
        return
    for template, channel in zip(images, ct, strict=True):
        path = folder / path_of(template, case)
        if template.endswith("/"):
            save_dicom(path, channel)
        else:
            save(path, channel)
            path.with_name("._" + path.name).write_bytes(b"macOS")


def _write_masks(
    card: DatasetCard, folder: Path, layout: Layout, masks: str, case: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    if layout.kind == MASKS:
        names = card.structures or [n if layout.pseudo_prefix else n.strip("_") for n in FOUND]
        truth = {name: rng.random(SHAPE) < 0.03 for name in names}
        for name, mask in truth.items():
            stem = card.files.get(name, (name,))[0]
            save(folder / path_of(masks, case, stem), mask)
        return truth
    values = np.array([0, *card.values.sets])
    labels = values[rng.integers(0, len(values), SHAPE)]
    if layout.kind == PNG_STACK:
        _write_pngs(folder / path_of(masks, case), labels, layout.slices)
    else:
        save(folder / path_of(masks, case), labels.astype(np.int16))
    return {s: np.isin(labels, [v for v, own in card.values.sets.items() if s in own])
            for s in card.structures}  # fmt: skip


def _write_pngs(folder: Path, labels: np.ndarray, slices: str) -> None:
    """Rows along the second axis, columns along the first; unpadded numbers, up or down."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    order = range(labels.shape[2]) if slices == "up" else reversed(range(labels.shape[2]))
    for number, k in enumerate(order, 5):  # 5 to 13, unpadded; AFFINE's third axis runs up
        Image.fromarray(labels[:, :, k].T.astype(np.uint8)).save(folder / f"liver_GT_{number}.png")
