"""A network's logits -> the case's label map and probabilities, on the image's own grid.

The inverse of `prepare`: what nnU-Net's `export_prediction_from_logits` makes (inference/
export_prediction.py, nnunetv2 2.8.1), by kernels that never hold all heads at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from atlas_nnunet.artefacts import partial_path, whole_file
from atlas_nnunet.errors import SourceError
from atlas_nnunet.kernels.arrays import NanError
from atlas_nnunet.kernels.export import Target, logits_to_labels, painting
from atlas_nnunet.kernels.probabilities import labels_of, probability_slabs
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.volume.grid import full_spacing
from atlas_nnunet.volume.stock import is_stock_resampling

OURS = "atlas_nnunet"  # what `convert` adds to dataset.json


@contextmanager
def nan_refused() -> Iterator[None]:
    """NaN out of a network is told as what a user can do something about.

    Raises:
        SourceError: a logit is NaN.
    """
    try:
        yield
    except NanError as error:
        raise SourceError(
            str(error), where="the checkpoint",
            do="look at the training's curves; predict with checkpoint_best.pth: -chk",
        ) from error  # fmt: skip


@dataclass(frozen=True)
class Export:
    """How the logits of one model become files.

    Attributes:
        plans, configuration: Of the model.
        dataset_json: With the labels.
        joined: A voxel gets the code of all its regions (docs/decisions/0001), instead of the label
            of the last one.
    """

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: Mapping[str, Any]
    joined: bool

    @property
    def paint(self) -> np.ndarray | None:
        """Table for `logits_to_labels`; None without regions."""
        manager = self.plans.get_label_manager(dict(self.dataset_json))
        if not manager.has_regions:
            return None
        if self.joined:
            return Coding.of_dataset_json(self.dataset_json).join
        return painting(manager.regions_class_order)

    @property
    def is_wide(self) -> bool:
        """Whether label maps are uint16."""
        return len(self.plans.get_label_manager(dict(self.dataset_json)).foreground_labels) >= 255

    def target(self, properties: Mapping[str, Any]) -> Target:
        """The image's grid, from what `prepare` noted."""
        spacing = [properties["spacing"][axis] for axis in self.plans.transpose_forward]
        shape = tuple(properties["shape_after_cropping_and_before_resampling"])
        current = full_spacing(self.configuration.spacing, spacing)
        whole = tuple(properties["shape_before_cropping"])
        return Target(shape, current, spacing, whole, properties["bbox_used_for_cropping"])

    def label_map(
        self, logits: torch.Tensor | np.ndarray, properties: Mapping[str, Any]
    ) -> np.ndarray:
        """The label map.

        Args:
            logits: (head, *spatial), on the network's grid.
            properties: From `prepare`.

        Returns:
            (*spatial) uint8, or uint16 from 255 labels on, as the reader handed the image out.

        Raises:
            SourceError: a logit is NaN.
        """
        if not is_stock_resampling(self.configuration.configuration, "probabilities"):
            joins_regions = self.joined and self.paint is not None  # from their probabilities
            return self._by_stock(logits, properties, return_probabilities=joins_regions)[0]
        with nan_refused():
            labels = logits_to_labels(
                logits, self.target(properties), paint=self.paint, wide=self.is_wide
            )
        return labels.transpose(self.plans.transpose_backward)

    def with_probabilities(
        self, logits: torch.Tensor | np.ndarray, properties: Mapping[str, Any], file: Path
    ) -> np.ndarray:
        """Write FILE.npz and FILE.pkl as stock does, and give the label map they mean.

        The probabilities pass through a file beside them; memory holds some slices of them.

        Args:
            logits, properties: As for `label_map`.
            file: Without ending.

        Raises:
            SourceError: a logit is NaN.
        """
        if not is_stock_resampling(self.configuration.configuration, "probabilities"):
            labels, everything = self._by_stock(logits, properties, return_probabilities=True)
            self._save(everything, properties, file)
            return labels
        target, paint = self.target(properties), self.paint
        labels = np.zeros(target.whole, np.uint16 if self.is_wide else np.uint8)
        backward = self.plans.transpose_backward
        shape = tuple(target.whole[axis] for axis in backward)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = partial_path(file.with_name(f"{file.name}.npy"))
        try:
            kind = np.float32
            everything = np.lib.format.open_memmap(scratch, "w+", kind, (len(logits), *shape))
            seen = everything.transpose(0, *(1 + np.argsort(backward)))  # in the network's axes
            if paint is None:
                seen[0] = 1  # outside the crop it is background
            inside = seen[(slice(None), *target.crop)]
            with nan_refused():
                for rows, slab in probability_slabs(logits, target, is_regions=paint is not None):
                    inside[:, rows] = slab
                    labels[target.crop][rows] = labels_of(slab, paint)
            self._save(everything, properties, file)
        finally:
            scratch.unlink(missing_ok=True)
        return labels.transpose(backward)

    def _save(self, everything: np.ndarray, properties: Mapping[str, Any], file: Path) -> None:
        with whole_file(file.with_name(f"{file.name}.npz")) as partial:
            np.savez_compressed(partial, probabilities=everything)
        with whole_file(file.with_name(f"{file.name}.pkl")) as partial:
            write_pickle(dict(properties), str(partial))

    def _by_stock(
        self, logits: torch.Tensor | np.ndarray, properties: Mapping[str, Any],
        *, return_probabilities: bool,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """For plans that name another resampling function: nnU-Net's own export; probabilities are
        empty where they are not asked for."""
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape,
        )

        manager = self.plans.get_label_manager(dict(self.dataset_json))
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.plans, self.configuration, manager, dict(properties),
            return_probabilities=return_probabilities, num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
        if not return_probabilities:
            return found, np.empty(0, np.float32)
        labels, everything = found
        if self.joined and self.paint is not None:
            labels = labels_of(everything, self.paint).astype(labels.dtype)
        return labels, everything


def joins(dataset_json: Mapping[str, Any]) -> bool:
    """Whether a data set's labels are codes of ours, so that regions may be joined."""
    return OURS in dataset_json
