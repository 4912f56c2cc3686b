"""One case's arrays, as nnU-Net's DefaultPreprocessor makes them (default_preprocessor.py, 2.8.1).

The same steps in the same order on the same memory layout, so that sums come out alike: transpose,
crop, normalise, resample, sample foreground. Normalisation is the host's own code; resampling and
sampling are ours where the plan names the stock function with the stock arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from atlas_nnunet.kernels.crop import nonzero_mask
from atlas_nnunet.kernels.locations import class_locations
from atlas_nnunet.kernels.resample_image import resample_image
from atlas_nnunet.kernels.resample_labels import resample_labels
from atlas_nnunet.volume.grid import full_spacing
from atlas_nnunet.volume.stock import is_stock_resampling

OUTSIDE = -1  # label of the zeros around the body: `nonzero_label` of crop_to_nonzero
KERNELS: dict[str, Callable] = {"data": resample_image, "seg": resample_labels}


def resampler(configuration: ConfigurationManager, kind: str) -> Callable:
    """What resamples: a kernel, or what the plan names.

    Args:
        configuration: Of the plan.
        kind: "data" or "seg".
    """
    if is_stock_resampling(configuration.configuration, kind):
        return KERNELS[kind]
    theirs = getattr(configuration, f"resampling_fn_{kind}")

    def as_the_host_calls_it(data: np.ndarray, *words: Any) -> np.ndarray:
        found = theirs(data.astype(np.float32), *words)
        return np.asarray(found).astype(data.dtype, copy=False)

    return as_the_host_calls_it


def prepare(
    data: np.ndarray,
    labels: np.ndarray | None,
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
    *,
    in_float64: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Transpose, crop, normalise, resample.

    Args:
        data: (channel, *spatial) float32 as the plan's reader hands it out; it is written to.
        labels: (1, *spatial) signed integers, or None.
        properties: The reader's; the export needs what is added here.
        plans: Of the data set.
        configuration: Of the plan.
        in_float64: Resample in float64 as stock does: twice the memory, and label maps predicted
            from it are stock's; else images are stock's to within 1e-5 of their range.

    Returns:
        Images (float32) and labels on the configuration's grid; None where there were no labels.
    """
    forward = plans.transpose_forward
    order = [0, *(axis + 1 for axis in forward)]
    data = data.transpose(order)
    spacing = [properties["spacing"][axis] for axis in forward]
    mask = nonzero_mask(data)
    box = get_bbox_from_mask(mask)
    inside = bounding_box_to_slice(box)
    properties["shape_before_cropping"] = data.shape[1:]
    properties["bbox_used_for_cropping"] = box
    data, mask = data[(slice(None), *inside)], mask[inside][None]
    properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
    if labels is None:
        seg = np.where(mask, np.int8(0), np.int8(OUTSIDE))
    else:
        seg = labels.transpose(order)[(slice(None), *inside)]
        seg[(seg == 0) & ~mask] = OUTSIDE
    wanted = full_spacing(configuration.spacing, spacing)
    shape = compute_new_shape(data.shape[1:], spacing, wanted)
    data = _normalised(data, seg, plans, configuration)
    wide = data.astype(np.float64) if in_float64 else data
    data = resampler(configuration, "data")(wide, shape, spacing, wanted).astype(
        np.float32, copy=False
    )
    if labels is None:
        return data, None
    return data, resampler(configuration, "seg")(seg, shape, spacing, wanted)


def finish(
    seg: np.ndarray,
    properties: dict[str, Any],
    plans: PlansManager,
    dataset_json: Mapping[str, Any],
) -> np.ndarray:
    """Sample foreground for training, and come to stock's type.

    Args:
        seg: (1, *spatial) integers from `prepare`.
        properties: Gets `class_locations`.
        plans: Of the data set.
        dataset_json: With the labels.

    Returns:
        int16.
    """
    manager = plans.get_label_manager(dict(dataset_json))
    classes: Sequence = (
        manager.foreground_regions if manager.has_regions else manager.foreground_labels
    )
    if manager.has_ignore_label:  # all that is annotated, background too
        classes = [*classes, [OUTSIDE, *manager.all_labels]]
    properties["class_locations"] = class_locations(seg, classes)
    return seg.astype(np.int16, copy=False)


def _normalised(
    data: np.ndarray, seg: np.ndarray, plans: PlansManager, configuration: ConfigurationManager
) -> np.ndarray:
    properties = plans.foreground_intensity_properties_per_channel
    return DefaultPreprocessor(verbose=False)._normalize(data, seg, configuration, properties)
