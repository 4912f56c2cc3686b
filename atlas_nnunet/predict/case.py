"""One case in three steps, so that they may overlap: prepare, network, export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, whole_file, write_json
from atlas_nnunet.errors import SourceError
from atlas_nnunet.host import network_spec, read_json, resolve_configuration
from atlas_nnunet.predict.model import Model, load
from atlas_nnunet.predict.previous_stage import as_painted, refuse_joined
from atlas_nnunet.reading import Header, read_images, read_labels
from atlas_nnunet.volume.grid import voxels
from atlas_nnunet.volume.stock import is_stock_preprocessor

PROCESS_BYTES = 1_500_000_000  # torch, nnU-Net, the network, and slabs worked at


@dataclass(frozen=True)
class Job:
    """One image to predict.

    Attributes:
        case: Identifier.
        images: One file a channel.
        previous: The previous stage's label map, for a cascade's second stage; else None.
        output: The label map's file.
        record: Where the case's record goes, written last.
        model: What predicts.
        model_key: Its `key()`.
    """

    case: str
    images: tuple[Path, ...]
    previous: Path | None
    output: Path
    record: Path
    model: Model
    model_key: str

    @property
    def inputs(self) -> tuple[Path, ...]:
        return self.images if self.previous is None else (*self.images, self.previous)

    @property
    def truncated(self) -> Path:
        """The output's path without its ending."""
        return self.output.with_name(self.case)

    def written(self) -> list[Path]:
        """What there is when the case is done, beside its record."""
        extra = (".npz", ".pkl") if self.model.probabilities else ()
        return [self.output, *(self.output.with_name(self.case + ending) for ending in extra)]


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid.

    Attributes:
        key: Hash of all that its label map is made from.
        data: (channel, *spatial) float32.
        properties: For the export.
    """

    key: str
    data: np.ndarray
    properties: dict[str, Any]


def prepare_case(job: Job) -> Prepared | None:
    """Read and resample a case; None if its record says that it is done.

    Raises:
        SourceError: an input is broken or missing.
    """
    key = content_hash([job.model_key, [file_hash(p) for p in job.inputs]])
    if _is_done(job, key):
        return None
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    from atlas_nnunet.volume.export import joins
    from atlas_nnunet.volume.prepare import prepare

    predictor = load(job.model)
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    if is_stock_preprocessor(configuration.configuration):
        reader = plans.plans["image_reader_writer"]
        data, properties = read_images(reader, job.images)
        labels = read_labels(reader, job.previous)[0] if job.previous else None
        if labels is not None and labels.shape[1:] != data.shape[1:]:
            raise SourceError(
                f"the image has {data.shape[1:]} voxels, the previous stage's label map "
                f"{labels.shape[1:]}", where=str(job.previous),
                do="predict the previous stage on these images first",
            )  # fmt: skip
        if labels is not None and joins(predictor.dataset_json):
            labels = as_painted(labels, predictor.dataset_json, str(job.previous))
        data, seg = prepare(data, labels, properties, plans, configuration, in_float64=True)
    else:
        previous = None if job.previous is None else str(job.previous)
        if job.previous is not None and joins(predictor.dataset_json):
            labels = read_labels(plans.plans["image_reader_writer"], job.previous)[0]
            refuse_joined(labels, predictor.dataset_json, previous or "")
        data, seg, properties = configuration.preprocessor_class(verbose=False).run_case(
            [str(p) for p in job.images], previous, plans, configuration, predictor.dataset_json
        )
    if job.previous is not None and seg is not None:
        values = predictor.label_manager.foreground_labels
        data = np.vstack([data, convert_labelmap_to_one_hot(seg[0], values, data.dtype)])
    return Prepared(key, data, properties)


def run_network(job: Job, prepared: Prepared) -> Any:
    """(head, *spatial) logits, float16, on the CPU: nnU-Net's sliding window."""
    import torch

    data = torch.from_numpy(np.ascontiguousarray(prepared.data))
    return load(job.model).predict_logits_from_preprocessed_data(data).cpu()


def export_case(job: Job, key: str, properties: dict[str, Any], logits: Any) -> bool:
    """Write label map and record; True.

    Args:
        job: The case.
        key, properties: Of what was prepared.
        logits: From `run_network`.
    """
    from atlas_nnunet.volume.export import Export

    predictor = load(job.model)
    plans = predictor.plans_manager
    export = Export(
        plans, predictor.configuration_manager, predictor.dataset_json, job.model.joined
    )
    if job.model.probabilities:
        labels = export.with_probabilities(logits, properties, job.truncated)
    else:
        labels = export.label_map(logits, properties)
    with whole_file(job.output) as partial:
        plans.image_reader_writer_class().write_seg(labels, str(partial), properties)
    hashes = [file_hash(path) for path in job.written()]
    write_json(job.record, {"key": key, "outputs": hashes})
    return True


def predict_case(job: Job) -> bool:
    """All three steps; True if there was work."""
    prepared = prepare_case(job)
    if prepared is None:
        return False
    logits = run_network(job, prepared)
    return export_case(job, prepared.key, prepared.properties, logits)


def need_bytes(job: Job) -> int:
    """The most memory that a case takes, beyond PROCESS_BYTES, by headers alone: at its peak it is
    being resampled in float64, or there are its logits, and they are being decided on."""
    plans = json.loads((job.model.folder / "plans.json").read_text())
    configuration = job.model.folder.name.split("__")[-1]
    wanted = resolve_configuration(plans, configuration)["spacing"]
    dataset_json = read_json(job.model.folder / "dataset.json", "atlas-nnunet train")
    spec = network_spec(plans, configuration, dataset_json)
    before, after = voxels(Header.of(job.images[0]), wanted)
    images = len(job.images) * (12 * before + 12 * after) + 16 * max(before, after)
    words = 1 + len(spec.heads) // 62
    logits = after * (4 * len(spec.channels) + 2 * len(spec.heads) + 2 + 16 * words + 8)
    return int(max(images, logits + 8 * before))


def _is_done(job: Job, key: str) -> bool:
    if not job.record.is_file() or not all(path.is_file() for path in job.written()):
        return False
    record = json.loads(job.record.read_text())
    return record == {"key": key, "outputs": [file_hash(path) for path in job.written()]}
