"""nnU-Net's summary.json, corrected for label status: what nobody labelled does not count.

nnU-Net (evaluate_predictions.py, nnunetv2 2.8.1) scores every structure in every case. Where a
structure is unlabelled, its reference is empty, so that a right prediction scores Dice 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.errors import EvaluationError
from atlas_nnunet.labelmap import BACKGROUND
from atlas_nnunet.labelstatus import Conversion, Status, status_of


class Names:
    """Structures by nnU-Net's keys: `3` for a label, `(1, 2)` for a region, as number or text.

    Args:
        dataset_json: Its `labels` give the names.
    """

    def __init__(self, dataset_json: Mapping[str, Any]) -> None:
        self.by_values = {
            frozenset(v if isinstance(v, list | tuple) else [v]): name
            for name, v in dataset_json["labels"].items()
        }

    def of(self, key: object, where: str) -> str:
        """The structure of a key.

        Raises:
            EvaluationError: dataset.json has no name for it.
        """
        values = frozenset(int(n) for n in re.findall(r"\d+", str(key)))
        if values not in self.by_values:
            raise EvaluationError(
                f"label {key} has no name in dataset.json, which names "
                f"{sorted(self.by_values.values())}",
                where=where,
                do="put the data set's own dataset.json beside it",
            )
        return self.by_values[values]


def case_of(entry: Mapping[str, Any], file_ending: str) -> str:
    """The case identifier of an entry of `metric_per_case`."""
    return Path(entry["reference_file"]).name.removesuffix(file_ending)


def heed_status(
    summary: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    conversion: Conversion | None,
    where: str,
) -> dict[str, Any]:
    """The summary with unlabelled structures left out.

    Args:
        summary: `metric_per_case`, `mean` and `foreground_mean`, as nnU-Net computes them or as
            its file holds them. It is not changed.
        dataset_json: The data set's `labels` and `file_ending`.
        conversion: Its conversion.json; None leaves the summary as it is.
        where: For messages.

    Returns:
        The same structure. In `metric_per_case` every metric of an unlabelled structure is nan;
        `mean` is over the cases whose reference is known (nan where there is none), and
        `foreground_mean` over the structures that are known in at least one case. Structures that
        are known in every case keep nnU-Net's own numbers.

    Raises:
        SourceError: conversion.json does not know a case or a structure.
        EvaluationError: a label has no name.
    """
    if conversion is None:
        return dict(summary)
    names, ending = Names(dataset_json), dataset_json.get("file_ending", ".nii.gz")
    unknown: dict[Any, int] = {}
    entries = []
    for entry in summary["metric_per_case"]:
        case = case_of(entry, ending)
        metrics = {}
        for key, own in entry["metrics"].items():
            is_unknown = (
                names.of(key, where) != BACKGROUND
                and status_of(conversion, case, names.of(key, where)) is Status.UNLABELLED
            )
            unknown[key] = unknown.get(key, 0) + is_unknown
            metrics[key] = dict.fromkeys(own, math.nan) if is_unknown else dict(own)
        entries.append({**entry, "metrics": metrics})
    mean = {
        key: _mean([e["metrics"][key] for e in entries], own) if unknown.get(key) else dict(own)
        for key, own in summary["mean"].items()
    }
    known = [
        own
        for key, own in mean.items()
        if unknown.get(key, 0) < len(entries) and names.of(key, where) != BACKGROUND
    ]
    foreground = {
        metric: float(np.mean([own[metric] for own in known])) if known else math.nan
        for metric in summary.get("foreground_mean", {})
    }
    return {**summary, "metric_per_case": entries, "mean": mean, "foreground_mean": foreground}


def _mean(rows: list[dict[str, float]], metrics: Mapping[str, float]) -> dict[str, float]:
    columns = {m: np.array([row[m] for row in rows], float) for m in metrics}
    return {
        m: float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
        for m, values in columns.items()
    }
