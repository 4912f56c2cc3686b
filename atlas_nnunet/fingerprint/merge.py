"""The records of one data set or several -> the content of dataset_fingerprint.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.errors import PlanError
from atlas_nnunet.fingerprint.record import Head, Record

SAMPLES = 10e7  # foreground intensities over the whole set (fingerprint_extractor.py:45, 2.8.1)
PERCENTILES = np.array((0.5, 50.0, 99.5))


def samples_of_a_case(n_cases: int) -> int:
    """Foreground intensities that nnU-Net draws from each of so many cases."""
    return int(SAMPLES // n_cases)


def merge(paths: Sequence[Path]) -> dict[str, Any]:
    """The fingerprint of the cases together, number for number as stock computes it.

    Args:
        paths: Their records, in the order in which stock would list the cases: sums of floats
            depend on it. Each must give `samples_of_a_case(len(paths))`.

    Raises:
        PlanError: no case has any foreground.
    """
    n = samples_of_a_case(len(paths))
    heads = [Head.read(path) for path in paths]
    # Stock's list for a case without foreground is a float64 one, and makes all float64.
    foreground = [head is not None and head.n_foreground > 0 for head in heads]
    if not any(foreground):
        raise PlanError("no case has any foreground", where=str(paths[0].parent),
                        do="check the masks: atlas-nnunet convert KEY DIR --check")  # fmt: skip
    dtype = np.float32 if all(foreground) else np.float64
    channels = max(head.channels for head in heads if head)
    drawn = np.empty((channels, n * sum(foreground)), dtype)
    spacings, shapes, sizes, filled = [], [], [], 0
    for path in paths:
        record = Record.read(path)
        values = record.drawn(n)
        drawn[:, filled : filled + values.shape[1]] = values
        filled += values.shape[1]
        spacings.append(list(record.spacing_mm))
        shapes.append(list(record.shape_after_crop_vox))
        sizes.append(record.relative_size)
    return {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {
            channel: _statistics(values) for channel, values in enumerate(drawn)
        },
        "median_relative_size_after_cropping": float(np.median(sizes, 0)),
    }


def _statistics(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, PERCENTILES)
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
