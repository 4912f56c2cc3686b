"""One case: source files -> image and mask of nnUNet_raw, and a record of how."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import content_hash, whole_file, write_json
from atlas_nnunet.convert.account import Account
from atlas_nnunet.convert.channels import Channel, read_channels
from atlas_nnunet.convert.placing import Placer
from atlas_nnunet.convert.sources import label_map, png_stack, structure_masks
from atlas_nnunet.convert.templates import CaseFiles
from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.nifti import nifti_bytes
from atlas_nnunet.registry import LABEL_MAP, MASKS, PNG_STACK, DatasetCard

VERSION = 2  # of this code: raise it when the same source would give other files
SOURCES: dict[str, ModuleType] = {
    MASKS: structure_masks, LABEL_MAP: label_map, PNG_STACK: png_stack,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One case to convert.

    Attributes:
        card: The data set's.
        case: Identifier in nnU-Net.
        files: Of the source.
        structures: Chosen, in order of priority.
        held_out: To imagesTs and labelsTs.
        raw: The data set's folder in nnUNet_raw; None reads everything and writes nothing.
    """

    card: DatasetCard
    case: str
    files: CaseFiles
    structures: tuple[str, ...]
    held_out: bool
    raw: Path | None

    @property
    def templates(self) -> tuple[str, ...]:
        """Of the images: a set's own held-out cases have theirs."""
        layout = self.card.layout
        own = layout.held_out_images if self.held_out else ()
        return own or layout.images

    def outputs(self) -> dict[str, Path]:
        """What is written, by path relative to the data set's folder."""
        root = self.raw or Path()
        images, labels = ("imagesTs", "labelsTs") if self.held_out else ("imagesTr", "labelsTr")
        names = [f"{images}/{self.case}_{c:04d}.nii.gz" for c in range(len(self.card.channels))]
        return {name: root / name for name in (*names, f"{labels}/{self.case}.nii.gz")}


def recipe(card: DatasetCard, structures: tuple[str, ...]) -> str:
    """Hash of what, beside a case's own files, decides what is written."""
    codes = [sorted(members) for members in card.coding(structures).codes]
    parts = [asdict(card.layout), list(structures), codes, list(card.channels),
             {s: list(v) for s, v in card.files.items()}, card.missing_file, card.missing_value,
             card.refuses_identity_affine,
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
    source = SOURCES[job.card.layout.kind]
    masks: Sequence[SourceFile] = source.inputs(job.card, job.files, job.structures, job.case)
    images = [file for files in job.files.images for file in files]
    inputs = {file.name: file.sha256() for file in (*images, *masks)}
    wanted = content_hash([recipe(job.card, job.structures), inputs, job.held_out])
    if job.raw is not None:
        record = record_path(job.raw, job.case)
        if record.is_file():
            known = json.loads(record.read_text())
            sizes = {n: p.stat().st_size for n, p in job.outputs().items() if p.is_file()}
            if known["key"] == wanted and known["bytes"] == sizes:
                return known["entry"]
    channels = read_channels(job.card, job.templates, job.files.images, job.case)
    account = Account(images=[channel.voxels for channel in channels])
    place = Placer(channels[0].grid, job.case, account.geometry)
    codes = source.read_codes(job.card, job.files, job.structures, place, account)
    entry = account.entry() | {"inputs": inputs, "held_out": job.held_out}
    if job.raw is not None:
        _write(job, channels, codes)
        sizes = {name: path.stat().st_size for name, path in job.outputs().items()}
        write_json(record_path(job.raw, job.case), {"key": wanted, "bytes": sizes, "entry": entry})
    return entry


def _write(job: Job, channels: list[Channel], codes: np.ndarray) -> None:
    *image_targets, label_target = job.outputs().values()
    mask = nifti_bytes(codes, channels[0].grid.affine)
    writers: list[tuple[Path, Callable[[Path], object]]] = [
        *((t, c.write) for t, c in zip(image_targets, channels, strict=True)),
        (label_target, lambda partial: partial.write_bytes(mask)),
    ]
    for target, write in writers:
        with whole_file(target, record_path(target.parent.parent, "").parent) as partial:
            write(partial)
