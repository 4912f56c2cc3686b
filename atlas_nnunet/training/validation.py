"""nnU-Net's final validation with our export and our scores.

The host's `perform_actual_validation` looks up three functions and the predictor in its own
module; workers import the functions from here. The export writes the same label maps in less time
and memory; where `convert` made the dataset, voxels get the codes of all their regions, so that an
organ is measured whole, with its tumour. The scores leave out what nobody labelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as host
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from atlas_nnunet.kernels.export import Target, logits_to_labels
from atlas_nnunet.training.validation_scores import score_folder
from atlas_nnunet.volume.export import Export, joins, nan_refused
from atlas_nnunet.volume.predictor import SteadyPredictor
from atlas_nnunet.volume.stock import is_stock_resampling


@contextmanager
def our_export() -> Iterator[None]:
    """The host's final validation predicts, exports and scores by our functions meanwhile."""
    ours = {
        "export_prediction_from_logits": export_case,
        "resample_and_save": export_for_next_stage,
        "compute_metrics_on_folder": score_folder,
        "nnUNetPredictor": SteadyPredictor,
    }
    before = {name: getattr(host, name) for name in ours}
    try:
        for name, function in ours.items():
            setattr(host, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(host, name, function)


def export_case(
    logits: torch.Tensor,
    properties: Mapping[str, Any],
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: Mapping[str, Any],
    truncated: str,
    save_probabilities: bool = False,
) -> None:
    """As the host's `export_prediction_from_logits`, with its arguments in its order."""
    export = Export(plans, configuration, dataset_json, joins(dataset_json))
    if save_probabilities:
        labels = export.with_probabilities(logits, properties, Path(truncated))
    else:
        labels = export.label_map(logits, properties)
    writer = plans.image_reader_writer_class()
    writer.write_seg(labels, truncated + dataset_json["file_ending"], properties)


def export_for_next_stage(
    logits: torch.Tensor,
    shape: Sequence[int],
    truncated: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    properties: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    threads: int,
    dataset_class: Any,
) -> None:
    """As the host's `resample_and_save`: the label map on the grid of a cascade's next stage.

    Labels are painted as nnU-Net paints them, one region over the other, whoever made the dataset:
    the next stage must see in training what it will see in prediction, by nnUNetv2_predict and by
    ours (predict/previous_stage.py).
    """
    is_ours = is_stock_resampling(configuration.configuration, "probabilities")
    if dataset_class not in (None, nnUNetDatasetBlosc2) or not is_ours:
        from nnunetv2.inference.export_prediction import resample_and_save

        resample_and_save(logits, list(shape), truncated, plans, configuration, dict(properties),
                          dict(dataset_json), threads, dataset_class)  # fmt: skip
        return
    export = Export(plans, configuration, dataset_json, joined=False)
    spacing = export.target(properties).current_spacing
    target = Target(tuple(int(n) for n in shape), spacing, spacing)
    with nan_refused():
        labels = logits_to_labels(logits, target, paint=export.paint, wide=export.is_wide)
    patch = tuple(configuration.patch_size)
    blocks, chunks = comp_blosc2_params((1, *labels.shape), patch, labels.itemsize)
    nnUNetDatasetBlosc2.save_seg(
        np.ascontiguousarray(labels), truncated, chunks_seg=chunks[1:], blocks_seg=blocks[1:]
    )
