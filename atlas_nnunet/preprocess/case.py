"""One case, file to file, known by a hash of all it was made from."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, file_times, partial_path, write_json
from atlas_nnunet.errors import GeometryError, LabelMapError
from atlas_nnunet.host import resolve_configuration, versions
from atlas_nnunet.images import values_in
from atlas_nnunet.rawdata import RawCase
from atlas_nnunet.reading import Header, read_images, read_labels
from atlas_nnunet.volume.grid import voxels
from atlas_nnunet.volume.stock import is_stock_preprocessor

KERNELS = 2  # of `atlas_nnunet.kernels`: raise it when they would give other arrays
PROCESS_BYTES = 1_000_000_000  # of a process that has read nothing yet, and slabs worked at
ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")  # what nnUNetDatasetBlosc2 writes, nnunetv2 2.8.1

# Parts of a plan that decide the preprocessed arrays; a new learning rate does not redo a case.
PLAN_KEYS = ("transpose_forward", "image_reader_writer", "label_manager",
             "foreground_intensity_properties_per_channel")  # fmt: skip
CONFIGURATION_KEYS = ("spacing", "normalization_schemes", "use_mask_for_norm", "patch_size",
                      "preprocessor_name", "resampling_fn_data", "resampling_fn_data_kwargs",
                      "resampling_fn_seg", "resampling_fn_seg_kwargs")  # fmt: skip


def recipe(plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]) -> str:
    """Hash of what, beside the case's own files, decides its arrays."""
    config = resolve_configuration(plans, configuration)
    return content_hash(
        [
            {key: plans.get(key) for key in PLAN_KEYS},
            {key: config.get(key) for key in CONFIGURATION_KEYS},
            [dataset_json["labels"], dataset_json.get("regions_class_order")],
            versions(),
            KERNELS,
        ]
    )


@dataclass(frozen=True)
class Job:
    """One case to preprocess.

    Attributes:
        case: Identifier.
        raw: Its files.
        plans: Path of the plans file.
        dataset_json: Path of dataset.json.
        configuration: Name.
        recipe: See `recipe`.
        folder: Where arrays go (the configuration's data identifier).
        records: Where the case's record goes, written last.
    """

    case: str
    raw: RawCase
    plans: Path
    dataset_json: Path
    configuration: str
    recipe: str
    folder: Path
    records: Path

    @property
    def record(self) -> Path:
        return self.records / f"{self.case}.json"

    def inputs(self) -> tuple[Path, ...]:
        return (*self.raw.images, self.raw.label)

    def outputs(self) -> dict[str, Path]:
        return {ending: self.folder / f"{self.case}{ending}" for ending in ENDINGS}


def preprocess_case(job: Job) -> bool:
    """Preprocess a case unless its record says that it is done.

    Returns:
        True if there was work to do.
    """
    record = json.loads(job.record.read_text()) if job.record.is_file() else {}
    if record and record["stamp"] == _stamp(job):
        return False
    before = _input_times(job)
    key = content_hash([job.recipe, {p.name: file_hash(p) for p in job.inputs()}])
    is_done = bool(record) and record["key"] == key and record["outputs"] == _output_hashes(job)
    if not is_done:
        # The host writes under its own names; a folder of ours on the same disk makes that atomic.
        scratch = partial_path(job.folder / job.case)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            _make(job, scratch / job.case)
            job.record.unlink(missing_ok=True)
            for ending, target in job.outputs().items():
                os.replace(scratch / f"{job.case}{ending}", target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if before == _input_times(job):  # else the next run looks again
        hashes = _output_hashes(job)
        write_json(job.record, {"key": key, "stamp": _stamp(job), "outputs": hashes})
    return not is_done


def need_bytes(job: Job) -> int:
    """The most memory that a case takes at its peak, beyond PROCESS_BYTES; by headers alone.

    At the peak an image is being resampled: it is held with its labels, one channel of it without
    its mean, that channel on a grid half-way, and the result. benchmarks/preprocess.py holds the
    bound to what is measured.
    """
    plans = json.loads(job.plans.read_text())
    wanted = resolve_configuration(plans, job.configuration)["spacing"]
    header = Header.of(job.raw.images[0])
    channels = len(job.raw.images) * math.prod(header.shape[3:])
    before, after = voxels(header, wanted)
    image, labels, channel = channels * 4 * (before + after), 3 * (before + after), 8
    return int(image + labels + channel * max(before, after))


def forget_cases(folder: Path, records: Path, kept: set[str]) -> None:
    """Remove what an earlier run made of cases that are gone or refused now: training lists the
    folder. Only what our records name is touched."""
    for record in records.glob("*.json"):
        if record.stem not in kept:
            for ending in ENDINGS:
                (folder / f"{record.stem}{ending}").unlink(missing_ok=True)
            record.unlink()


def _stamp(job: Job) -> str | None:
    """What a case was made of and what was made of it, by the files' times; None while a file is
    missing. Where it has not changed, no byte is read."""
    outputs = list(job.outputs().values())
    if not all(path.is_file() for path in outputs):
        return None
    return content_hash([job.recipe, _input_times(job), [file_times(path) for path in outputs]])


def _input_times(job: Job) -> list[list[int]]:
    return [file_times(path) for path in job.inputs()]


def _output_hashes(job: Job) -> dict[str, str]:
    return {ending: file_hash(p) for ending, p in job.outputs().items() if p.is_file()}


def _make(job: Job, truncated: Path) -> None:
    """Write what stock's `run_case_save` would (default_preprocessor.py, nnunetv2 2.8.1)."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from atlas_nnunet.kernels.threads import one_thread
    from atlas_nnunet.preprocess.files import save_case
    from atlas_nnunet.volume.prepare import finish, prepare

    plans = PlansManager(str(job.plans))
    configuration = plans.get_configuration(job.configuration)
    dataset_json = json.loads(job.dataset_json.read_text())
    if not is_stock_preprocessor(configuration.configuration):
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(truncated), [str(p) for p in job.raw.images], str(job.raw.label),
            plans, configuration, dataset_json,
        )  # fmt: skip
        return
    with one_thread():  # the number of threads could change a sum's last bit
        reader = plans.plans["image_reader_writer"]
        labels, _ = read_labels(reader, job.raw.label)
        _check_labels(labels, dataset_json, job)
        data, properties = read_images(reader, job.raw.images)
        if data.shape[1:] != labels.shape[1:]:
            raise GeometryError(
                f"the image has {data.shape[1:]} voxels, the label map {labels.shape[1:]}",
                where=str(job.raw.label), do="export the label map on the image's grid",
            )  # fmt: skip
        data, seg = prepare(data, labels, properties, plans, configuration)
        seg = finish(cast(np.ndarray, seg), properties, plans, dataset_json)
    save_case(truncated, data, seg, properties, tuple(configuration.patch_size))


def _check_labels(labels: np.ndarray, dataset_json: Mapping[str, Any], job: Job) -> None:
    """Raise LabelMapError for values that dataset.json does not name: nnU-Net's check of integrity
    refuses them, its training dies of them on the GPU."""
    known = {
        int(value)
        for one in dataset_json["labels"].values()
        for value in (one if isinstance(one, list) else [one])
    }
    unknown = sorted(set(values_in(labels)) - known - {0})
    if unknown:
        raise LabelMapError(
            f"the label map holds {unknown[:10]}, which dataset.json does not name",
            where=str(job.raw.label), do="name them under labels, or mend the label map",
        )  # fmt: skip
