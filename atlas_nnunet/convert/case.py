"""One case: source files -> image and mask of nnUNet_raw, and a record of how."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, whole_file, write_json
from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.convert.sources import label_map, structure_masks
from atlas_nnunet.errors import GeometryError, SourceError
from atlas_nnunet.geometry import Relation, relate
from atlas_nnunet.images import GZIP_MAGIC, Volume, nifti_bytes, read_ct
from atlas_nnunet.registry import LABEL_MAP, DatasetCard

VERSION = 1  # of this code: raise it when the same source would give other files


@dataclass(frozen=True)
class Job:
    """One case to convert.

    Attributes:
        card: The data set's.
        folder: Of the source.
        case: Identifier, in the source and in nnU-Net.
        structures: Chosen, in order of priority.
        held_out: To imagesTs and labelsTs.
        raw: The data set's folder in nnUNet_raw; None reads everything and writes nothing.
    """

    card: DatasetCard
    folder: Path
    case: str
    structures: tuple[str, ...]
    held_out: bool
    raw: Path | None

    def images(self) -> list[Path]:
        layout = self.card.layout
        templates = (self.held_out and layout.held_out_images) or layout.images
        return [self.folder / t.format(case=self.case) for t in templates]

    def mask(self) -> Path:
        layout = self.card.layout
        template = (self.held_out and layout.held_out_masks) or layout.masks
        return self.folder / template.format(case=self.case, structure="*")

    def outputs(self) -> dict[str, Path]:
        """What is written, by path relative to the data set's folder."""
        root = self.raw or Path()
        images, labels = ("imagesTs", "labelsTs") if self.held_out else ("imagesTr", "labelsTr")
        names = [f"{images}/{self.case}_{c:04d}.nii.gz" for c in range(len(self.card.channels))]
        return {name: root / name for name in (*names, f"{labels}/{self.case}.nii.gz")}


def recipe(card: DatasetCard, structures: tuple[str, ...]) -> str:
    """Hash of what, beside a case's own files, decides what is written."""
    codes = [sorted(members) for members in card.coding(structures).codes]
    parts = [asdict(card.layout), list(structures), codes,
             {s: list(v) for s, v in card.files.items()}, card.missing_file,
             {v: sorted(n) for v, n in card.values.sets.items()},
             sorted(card.pseudo_structures), VERSION]  # fmt: skip
    return content_hash(parts)


def record_path(raw: Path, case: str) -> Path:
    return raw / "atlas_nnunet" / "records" / f"{case}.json"


def convert_case(job: Job) -> dict[str, Any]:
    """Convert unless the record says that these very files were converted so before.

    Returns:
        The case's entry in conversion.json.

    Raises:
        AtlasError: why the case is refused.
    """
    images = job.images()
    missing = [p for p in images if not p.exists()]
    if missing:
        raise SourceError(f"no CT: {missing[0].relative_to(job.folder)}", where=job.case,
                          do=job.card.obtain)  # fmt: skip
    files = [*(f for p in images for f in _files_of(p)), *_mask_files(job)]
    inputs = {p.relative_to(job.folder).as_posix(): file_hash(p) for p in files}
    wanted = content_hash([recipe(job.card, job.structures), inputs, job.held_out])
    if job.raw is not None:
        record = record_path(job.raw, job.case)
        if record.is_file():
            known = json.loads(record.read_text())
            sizes = {n: p.stat().st_size for n, p in job.outputs().items() if p.is_file()}
            if known["key"] == wanted and known["bytes"] == sizes:
                return known["entry"]
    entry, ct, codes = _read(job, images)
    entry |= {"inputs": inputs, "held_out": job.held_out}
    if job.raw is not None:
        _write(job, images, ct, codes)
        sizes = {name: path.stat().st_size for name, path in job.outputs().items()}
        write_json(record_path(job.raw, job.case), {"key": wanted, "bytes": sizes, "entry": entry})
    return entry


def _files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def _mask_files(job: Job) -> list[Path]:
    if job.card.layout.kind == LABEL_MAP:
        if not job.mask().is_file():
            raise SourceError(f"no label map: {job.mask().relative_to(job.folder)}",
                              where=job.case, do=job.card.obtain)  # fmt: skip
        return [job.mask()]
    masks = structure_masks.find_masks(job.card, job.folder, job.case).masks
    chosen = [masks[s] for s in job.structures if s in masks]
    if not chosen:
        raise SourceError("no mask of any structure", where=job.case, do=job.card.obtain)
    return chosen


def _masks(
    job: Job, place: Placer, status: dict[str, str], notes: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    if job.card.layout.kind == LABEL_MAP:
        return label_map.read_masks(job.card, job.mask(), job.structures, place, status)
    found = structure_masks.find_masks(job.card, job.folder, job.case)
    notes += found.notes
    return structure_masks.read_masks(job.card, found, job.structures, place, status)


def _read(job: Job, images: list[Path]) -> tuple[dict[str, Any], list[Volume], np.ndarray]:
    ct = [read_ct(path) for path in images]
    for other in ct[1:]:
        if relate(ct[0].grid, other.grid) is not Relation.SAME:
            raise GeometryError(f"channels lie on different grids: {ct[0].grid}; {other.grid}",
                                where=job.case, do="resample them to one grid")  # fmt: skip
    status: dict[str, str] = {}
    notes: list[str] = []
    place = Placer(ct[0].grid, job.case)
    coding = job.card.coding(job.structures)
    codes, conflicts = coding.encode(_masks(job, place, status, notes), ct[0].grid.shape_vox)
    entry = {
        "status": dict(sorted(status.items())),
        "geometry": place.notes,
        "notes": notes,
        "conflicts": {f"{a} gave way to {b}": n for (a, b), n in sorted(conflicts.items())},
    }
    return entry, ct, codes


def _write(job: Job, images: list[Path], ct: list[Volume], codes: np.ndarray) -> None:
    *image_targets, label_target = job.outputs().values()
    for source, volume, target in zip(images, ct, image_targets, strict=True):
        _write_image(source, volume, target)
    with whole_file(label_target) as partial:
        partial.write_bytes(nifti_bytes(codes, ct[0].grid.affine))


def _write_image(source: Path, volume: Volume, target: Path) -> None:
    """The source's own bytes where nnU-Net can read them; a hard link where the disk allows it,
    for a second copy of 700 GB helps nobody, and nnU-Net never writes to its raw data."""
    with whole_file(target) as partial:
        if source.is_file() and source.read_bytes()[:2] == GZIP_MAGIC:
            try:
                os.link(source.resolve(), partial)
            except OSError:
                shutil.copyfile(source, partial)
        else:
            partial.write_bytes(nifti_bytes(volume.array, volume.grid.affine))
