"""The cases of a raw data set, as nnU-Net's naming of files has them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import AtlasError, SourceError


@dataclass(frozen=True)
class RawCase:
    """One case of nnUNet_raw: its images, one a channel, and its mask."""

    images: tuple[Path, ...]
    label: Path


def raw_cases(
    folder: Path, dataset_json: Mapping[str, Any]
) -> tuple[dict[str, RawCase], dict[str, AtlasError]]:
    """The training cases of a raw data set, by identifier, in nnU-Net's order.

    As `get_filenames_of_train_images_and_targets` (utilities/utils.py, nnunetv2 2.8.1): sorted, or
    as the optional list "dataset" of a dataset.json has them.

    Returns:
        The cases that are complete, and why the others are refused: a mask is missing, or there is
        not one file a channel.
    """
    ending = dataset_json["file_ending"]
    if "dataset" in dataset_json:
        found = {
            name: RawCase(
                tuple(folder / os.path.expandvars(p) for p in entry["images"]),
                folder / os.path.expandvars(entry["label"]),
            )
            for name, entry in dataset_json["dataset"].items()
        }
    else:
        files = channel_files(folder / "imagesTr", ending)
        found = {n: RawCase(f, folder / "labelsTr" / (n + ending)) for n, f in files.items()}
    channels = len(dataset_json.get("channel_names") or dataset_json["modality"])
    refused: dict[str, AtlasError] = {}
    for name, case in found.items():
        missing = [str(p) for p in (*case.images, case.label) if not p.is_file()]
        if missing or len(case.images) != channels:
            what = f"no such file: {', '.join(missing)}" if missing else (
                f"{len(case.images)} channel(s), dataset.json names {channels}"
            )  # fmt: skip
            refused[name] = SourceError(what, where=str(folder),
                                        do="convert the case again, or remove it")  # fmt: skip
    return {name: case for name, case in found.items() if name not in refused}, refused


def channel_files(folder: Path, ending: str) -> dict[str, tuple[Path, ...]]:
    """Case -> its files CASE_0000ENDING, CASE_0001ENDING, ..., sorted."""
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*" + ending)):
        match = pattern.fullmatch(path.name)
        if match:
            found.setdefault(match.group(1), []).append(path)
    return {case: tuple(files) for case, files in sorted(found.items())}
