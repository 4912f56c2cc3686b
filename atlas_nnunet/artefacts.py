"""Where each artefact lies and how it is written: a path is a function of nnU-Net's own names."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import AtlasError

ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def root(variable: str) -> Path:
    """One of nnU-Net's three folders, absolute: a cluster's workers stand elsewhere.

    Raises:
        AtlasError: the environment variable is not set.
    """
    if not os.environ.get(variable):
        raise AtlasError(
            f"environment variable {variable} is not set",
            do=f'export {variable}=/a/folder, or: eval "$(atlas-nnunet env --root /a/folder)"',
        )
    return Path(os.environ[variable]).absolute()


@dataclass(frozen=True)
class Dataset:
    """The files of one data set, by nnU-Net's name for it (Dataset701_AbdomenAtlas11Mini)."""

    name: str

    @property
    def raw(self) -> Path:
        return root("nnUNet_raw") / self.name

    @property
    def preprocessed(self) -> Path:
        return root("nnUNet_preprocessed") / self.name

    @property
    def results(self) -> Path:
        return root("nnUNet_results") / self.name

    @property
    def conversion(self) -> Path:
        """Provenance and label status of every case; `preprocess` takes a copy along."""
        return self.raw / "conversion.json"

    @property
    def conversion_for_training(self) -> Path:
        return self.preprocessed / "conversion.json"

    @property
    def splits(self) -> Path:
        """The split of the set's authors, where `convert --split` took it; as nnU-Net has it."""
        return self.raw / "splits_final.json"

    def case_records(self, identifier: str) -> Path:
        """Folder that says what each preprocessed case of a data identifier was made of."""
        return self.preprocessed / "atlas_nnunet" / identifier

    @property
    def splits_for_training(self) -> Path:
        """The split that nnU-Net trains by."""
        return self.preprocessed / "splits_final.json"

    @property
    def fingerprint(self) -> Path:
        return self.preprocessed / "dataset_fingerprint.json"

    @property
    def fingerprint_records(self) -> Path:
        """One record a case, so that adding a case reads that case only."""
        return self.preprocessed / "atlas_nnunet" / "fingerprint"

    def plans(self, plans_name: str) -> Path:
        return self.preprocessed / f"{plans_name}.json"

    def transferred(self, plans_name: str, configuration: str) -> Path:
        folder = self.preprocessed / "atlas_nnunet"
        return folder / f"{plans_name}__{configuration}.transferred.pth"

    def transfer_report(self, plans_name: str, configuration: str) -> Path:
        folder = self.preprocessed / "atlas_nnunet"
        return folder / f"{plans_name}__{configuration}.transfer_report.json"

    def run(self, trainer: str, plans_name: str, configuration: str, fold: str) -> Path:
        """nnU-Net's folder for one training (nnUNetTrainer.py:132-135, nnunetv2 2.8.1)."""
        return self.results / f"{trainer}__{plans_name}__{configuration}" / f"fold_{fold}"


def partial_path(path: Path) -> Path:
    """A temporary name beside `path`.

    It keeps the file ending (writers look at it) and names machine and process, so that two runs
    at once do not write into one file, and `sweep` knows whose leftovers may go.
    """
    return path.with_name(f".partial~{os.uname().nodename}~{os.getpid()}~{path.name}")


def sweep(*folders: Path, other_machines_after_s: float | None = None) -> None:
    """Remove what killed processes left half-written.

    nnU-Net lists a folder by file ending and would take such a file for a case.

    Args:
        folders: Where to look; one that does not exist is skipped.
        other_machines_after_s: Seconds since the last write after which a file of another machine
            is removed as well, whose processes cannot be looked up here. None: never.
    """
    for folder in folders:
        for path in folder.glob(".partial~*"):
            _, machine, process, _ = path.name.split("~", 3)
            if machine == os.uname().nodename:
                is_left = not Path(f"/proc/{process}").exists()
            else:
                is_left = other_machines_after_s is not None and (
                    _idle_s(path) > other_machines_after_s
                )
            if is_left:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _idle_s(path: Path) -> float:
    """Seconds since the last write; 0 for a file that its process has just renamed."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, folder: Path | None = None, *, synced: bool = False) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` only if nothing went wrong.

    Args:
        path: What is to be written.
        folder: For the temporary file, on the same disk; beside `path` if None. Where nnU-Net
            lists a folder by file ending, a killed process must leave nothing there.
        synced: Wait for the disk before and after the rename, so that even a power failure leaves
            the old file or the new one. For what cannot be made again: checkpoints.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / partial.name
    try:
        yield partial
        if synced:
            _sync(partial)
        os.replace(partial, path)
        if synced:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link where the file system has them."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, content: Any, *, sort_keys: bool = True) -> None:
    """Write JSON whole or not at all. `sort_keys=False` where order means something to nnU-Net."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=sort_keys) + "\n")


def without_nan(value: Any) -> Any:
    """nan -> null, through dictionaries and lists: JSON has no nan."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_times(path: Path) -> list[int]:
    """Size, and times of the last changes in ns: where they are as before, so are the bytes.

    The time of the last change of a file or its entry (ctime) is the system's own: no tool sets it
    back.
    """
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def content_hash(content: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
