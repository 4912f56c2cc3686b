"""Which images are to be predicted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from atlas_nnunet.errors import AtlasError, PlanError, SourceError
from atlas_nnunet.rawdata import channel_files

CHANNEL = re.compile(r"_\d{4}$")


def cases_of(given: Sequence[Path], ending: str) -> dict[str, tuple[Path, ...]]:
    """Case -> its files, one a channel.

    Args:
        given: One folder of CASE_0000.nii.gz, CASE_0001.nii.gz, ...; or the files of one case, one
            a channel in order, however they are called.
        ending: Of the data set's files.

    Raises:
        PlanError: there is nothing to predict, or a file has another ending.
    """
    if len(given) == 1 and given[0].is_dir():
        found = channel_files(given[0], ending)
        if not found:
            raise PlanError(f"no images *_0000{ending}", where=str(given[0]),
                            do="name the folder of images with -i")  # fmt: skip
        return found
    wrong = [str(p) for p in given if not (p.is_file() and p.name.endswith(ending))]
    if wrong:
        raise PlanError(
            f"neither a folder nor a file *{ending}", where=", ".join(wrong),
            do=f"name a folder of CASE_0000{ending} with -i, or one case's files",
        )  # fmt: skip
    return {CHANNEL.sub("", given[0].name.removesuffix(ending)): tuple(given)}


def complete(
    cases: Mapping[str, tuple[Path, ...]], channels: int, previous: Path | None, ending: str
) -> tuple[dict[str, tuple[Path, ...]], dict[str, AtlasError]]:
    """The cases that have all they need, and why the others are refused.

    Args:
        cases: From `cases_of`.
        channels: Of the model.
        previous: Folder of the previous stage's label maps, for a cascade; else None.
        ending: Of its files.
    """
    refused: dict[str, AtlasError] = {}
    for case, files in cases.items():
        if len(files) != channels:
            refused[case] = SourceError(
                f"{len(files)} channel(s), the model takes {channels}", where=str(files[0]),
                do=f"put {case}_0000{ending} to {case}_{channels - 1:04d}{ending} beside it",
            )  # fmt: skip
        elif previous is not None and not (previous / (case + ending)).is_file():
            refused[case] = SourceError(
                "no label map of the previous stage", where=str(previous / (case + ending)),
                do="predict the previous stage on these images first",
            )  # fmt: skip
    return {case: files for case, files in cases.items() if case not in refused}, refused
