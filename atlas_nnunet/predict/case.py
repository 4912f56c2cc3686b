"""One image -> one label map: nnU-Net's network and export, organs kept whole under tumours."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, whole_file, write_json
from atlas_nnunet.host import versions
from atlas_nnunet.labelmap import Coding


@dataclass(frozen=True)
class Model:
    """A trained model and how to use it.

    Attributes:
        folder: nnU-Net's folder TRAINER__PLANS__CONFIGURATION.
        folds: Folds whose networks are averaged.
        checkpoint: File name in each fold.
        step_size: Of the sliding window, share of the patch.
        mirroring: Test-time mirroring along the axes that training mirrored.
        device: "cuda" or "cpu".
        threads: Of this process, on a CPU.
    """

    folder: Path
    folds: tuple[str, ...]
    checkpoint: str
    step_size: float
    mirroring: bool
    device: str
    threads: int

    def key(self) -> str:
        """Hash of the weights and of every option that changes a voxel."""
        weights = [file_hash(self.folder / f"fold_{f}" / self.checkpoint) for f in self.folds]
        options = [self.step_size, self.mirroring, self.device]
        return content_hash([weights, options, versions(), "codes joined"])


@dataclass(frozen=True)
class Job:
    """One image to predict: its channels' files, and where label map and record go."""

    case: str
    images: tuple[Path, ...]
    output: Path
    record: Path
    model: Model
    model_key: str


@lru_cache(maxsize=1)
def load(model: Model) -> Any:
    """nnU-Net's predictor, once in a process."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(model.threads)
    predictor = nnUNetPredictor(
        tile_step_size=model.step_size,
        use_mirroring=model.mirroring,
        perform_everything_on_device=model.device == "cuda",
        device=torch.device(model.device),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model.folder), model.folds, model.checkpoint)
    return predictor


def predict_case(job: Job) -> bool:
    """Predict unless the record says that this model did so already; True if there was work."""
    wanted = content_hash([job.model_key, [file_hash(p) for p in job.images]])
    if job.record.is_file() and job.output.is_file():
        record = json.loads(job.record.read_text())
        if record == {"key": wanted, "output": file_hash(job.output)}:
            return False
    predictor = load(job.model)
    labels, properties = _label_map(predictor, job.images)
    writer = predictor.plans_manager.image_reader_writer_class()
    with whole_file(job.output) as partial:
        writer.write_seg(labels, str(partial), properties)
    write_json(job.record, {"key": wanted, "output": file_hash(job.output)})
    return True


def _label_map(predictor: Any, images: tuple[Path, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as export,
    )

    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(
        [str(p) for p in images], None, plans, configuration, predictor.dataset_json
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    regions = predictor.label_manager.has_regions
    threads = max(1, torch.get_num_threads())
    exported = export(
        logits, plans, configuration, predictor.label_manager, properties,
        return_probabilities=regions, num_threads_torch=threads,
    )  # fmt: skip
    if not regions:
        return exported, properties
    return join_codes(exported[1], predictor.dataset_json), properties


def join_codes(probabilities: np.ndarray, dataset_json: dict[str, Any]) -> np.ndarray:
    """Region probabilities -> codes.

    Stock paints one code a region, each over the last: a tumour's voxels leave the organ, and a
    kidney tumour loses its side. Here a voxel gets the code of *all* its regions; where these
    may not overlap, the later one in `regions_class_order` wins, as it does in stock.

    Args:
        probabilities: (region, *spatial) in [0, 1]; a region is taken above 0.5.
        dataset_json: With regions.

    Returns:
        (*spatial) uint8.
    """
    coding = Coding.of_dataset_json(dataset_json)
    codes = np.zeros(probabilities.shape[1:], np.uint8)
    for column, region in enumerate(probabilities):
        mask = region > 0.5
        codes[mask] = coding.join[codes[mask], column]
    return codes


def processes_for(device: str, wanted: int) -> int:
    """One process on a GPU: two would share its memory."""
    return wanted if device == "cpu" else 1


def cores() -> int:
    return len(os.sched_getaffinity(0))
