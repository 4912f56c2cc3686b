"""Leakage: which cases of a target set are in a pre-training set as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import Dataset, whole_file
from atlas_nnunet.execution import Workers, map_cases, print_refused
from atlas_nnunet.images import read_nifti
from atlas_nnunet.kernels.thumbnail import similarity, thumbnail

VERSION = 1  # of the thumbnails: raise it when the same CT would give others
SAME = 0.9  # similarity from which two CTs are taken for one; docs/decisions/0010-leakage.md
ALIKE = 0.85  # from here on somebody should look
ITSELF = "itself"
CHUNK = 256  # pre-training cases held against a target's at once


@dataclass(frozen=True)
class Job:
    """One thumbnail to make: of a case's first channel, kept under its voxels' hash."""

    image: Path
    kept: Path


def kept_thumbnail(job: Job) -> Path:
    """Make it unless it was made of these very voxels before."""
    if not job.kept.is_file():
        volume = read_nifti(job.image)
        pictures = thumbnail(volume.array, volume.grid).astype(np.float16)
        with whole_file(job.kept) as partial, partial.open("wb") as out:
            np.save(out, pictures)
    return job.kept


def thumbnails(
    dataset: Dataset, conversion: Mapping[str, Any], workers: Workers
) -> dict[str, np.ndarray]:
    """Thumbnails of all cases of a data set, training and held out."""
    folder = dataset.raw / "atlas_nnunet" / "thumbnails"
    jobs = {}
    for case, entry in conversion["cases"].items():
        part = "imagesTs" if entry["held_out"] else "imagesTr"
        kept = folder / f"{case}.{entry['images'][0][:24]}.v{VERSION}.npy"
        jobs[case] = Job(dataset.raw / part / f"{case}_0000.nii.gz", kept)
    made, refused = map_cases(
        kept_thumbnail, jobs, workers=workers, describe=f"thumbnails {dataset.name}"
    )
    print_refused(refused)
    return {case: np.load(path).astype(np.float32) for case, path in made.items()}


def alike(
    target: Mapping[str, np.ndarray], pretraining: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, float]]:
    """Target case -> the pre-training case most like it, and how much, from ALIKE on.

    A pair's similarity is a mean over slices, so it is at most that of its two most similar
    slices: pairs that do not reach ALIKE there are passed over.
    """
    found: dict[str, tuple[str, float]] = {}
    names = sorted(name for name, pictures in pretraining.items() if len(pictures))
    for first in range(0, len(names), CHUNK):
        chunk = names[first : first + CHUNK]
        stack = np.concatenate([pretraining[name] for name in chunk]).T
        starts = np.cumsum([0, *(len(pretraining[name]) for name in chunk[:-1])])
        for case, pictures in sorted(target.items()):
            if not len(pictures):
                continue
            most = np.maximum.reduceat((pictures @ stack).max(axis=0), starts)
            for number in np.flatnonzero(most >= ALIKE):
                score = similarity(pictures, pretraining[chunk[number]])
                if score >= max(ALIKE, found.get(case, ("", 0.0))[1]):
                    found[case] = (chunk[number], score)
    return found


def declared(target: Mapping[str, Any], pretraining: Mapping[str, Any]) -> dict[str, str]:
    """Target case -> the pre-training case that it is by what the cards say, "" if unnamed."""
    cases = pretraining["cases"]
    if target["key"] == pretraining["key"]:
        return {case: case for case in target["cases"] if case in cases}
    card = target["inside_abdomenatlas"]
    if pretraining["inside_abdomenatlas"]["overlap"] != ITSELF:
        return {}
    if card["overlap"] == ITSELF:  # another version of it, with the same names
        return {case: case for case in target["cases"] if case in cases}
    named = card.get("cases", {})
    known = {c: named[c] for c in target["cases"] if c in named and named[c] in {"", *cases}}
    narrower = {"pattern", "files", "cases"} & card.keys()
    whole = card["overlap"] == "all" and not narrower
    pattern = re.compile(".*" if whole else card.get("pattern", "(?!)"))
    files = re.compile(card.get("files", "(?!)"))
    return {
        case: ""
        for case, entry in target["cases"].items()
        if pattern.fullmatch(case) or any(map(files.fullmatch, entry.get("inputs", ())))
    } | known


def find_overlap(
    pretraining: Mapping[str, Any], target: Mapping[str, Any],
    thumbnails_of: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
) -> dict[str, Any]:  # fmt: skip
    """What conversion.json keeps of a pair.

    Args:
        pretraining, target: Contents of their conversion.json.
        thumbnails_of: Theirs, in the same order.

    Returns:
        "cases": target case -> {"with": pre-training case or "", "by": how it was found,
        "similarity": of the thumbnails, where that was it}; "alike": pairs to look at.
    """
    owners = {tuple(e["images"]): case for case, e in sorted(pretraining["cases"].items())}
    by_card = declared(target, pretraining)
    by_picture = alike(thumbnails_of[1], thumbnails_of[0])
    found: dict[str, Any] = {}
    looks: dict[str, Any] = {}
    for case, entry in target["cases"].items():
        other, score = by_picture.get(case, ("", 0.0))
        if tuple(entry["images"]) in owners:
            found[case] = {"with": owners[tuple(entry["images"])], "by": "voxels"}
        elif score >= SAME:
            found[case] = {"with": other, "by": "thumbnail", "similarity": round(score, 3)}
        elif case in by_card:
            found[case] = {"with": by_card[case], "by": "card"}
        elif score:
            looks[case] = {"with": other, "similarity": round(score, 3)}
    return {"cases": found, "alike": looks, "declared": target["inside_abdomenatlas"]["overlap"]}
