"""The label maps of a cascade's previous stage, as its next stage was trained on them.

In training the next stage reads labels as nnU-Net paints them (training/validation.py). Where
`convert` made the dataset, `predict` writes the codes of all regions of a voxel instead: liver and
the tumour in it are 5, where nnU-Net paints 4. The code says which regions there are, so that
nnU-Net's label follows from it. A label that nnU-Net painted is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atlas_nnunet.errors import SourceError
from atlas_nnunet.labelmap import Coding


def as_painted(labels: np.ndarray, dataset_json: Mapping[str, Any], where: str) -> np.ndarray:
    """Codes -> the label of the last region of each voxel (`regions_class_order`).

    As `convert_probabilities_to_segmentation` paints it (label_handling.py, nnunetv2 2.8.1).

    Args:
        labels: Integer codes of a dataset of ours, of any shape.
        dataset_json: Of the model.
        where: The file, for the error.

    Returns:
        The same array where the dataset has no regions, else another of its shape and dtype.

    Raises:
        SourceError: a label that dataset.json does not name.
    """
    order = dataset_json.get("regions_class_order")
    if order is None:
        return labels
    coding = Coding.of_dataset_json(dataset_json)
    odd = [int(v) for v in (labels.min(initial=0), labels.max(initial=0))
           if not 0 <= v < len(coding.codes)]  # fmt: skip
    if odd:
        raise SourceError(
            f"the previous stage's label map has the label {odd[0]}, and dataset.json names labels "
            f"from 0 to {len(coding.codes) - 1}", where=where,
            do="predict the previous stage with the model of this dataset",
        )  # fmt: skip
    table = np.zeros(len(coding.codes), labels.dtype)
    for code, members in enumerate(coding.codes):
        for label, structure in zip(order, coding.structures, strict=True):
            if structure in members:
                table[code] = label
    return table[labels]


def refuse_joined(labels: np.ndarray, dataset_json: Mapping[str, Any], where: str) -> None:
    """For a preprocessor that is not nnU-Net's default, which reads the file itself.

    Args:
        labels, dataset_json, where: As for `as_painted`.

    Raises:
        SourceError: a voxel has the code of several regions, or an unknown label.
    """
    if not np.array_equal(as_painted(labels, dataset_json, where), labels):
        raise SourceError(
            "the previous stage's label map has codes of several regions, and the plan names a "
            "preprocessor that reads labels as nnU-Net paints them", where=where,
            do="predict the previous stage again with --regions stock",
        )  # fmt: skip
