"""The files of a source: in folders, or in tar archives that nobody need unpack."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.nifti import GZIP_MAGIC, NO_IMAGE, ErrorKinds

ARCHIVES = (".tar", ".tar.gz", ".tgz")
SPACING_BYTES = 16 << 20  # between the points at which a gzip stream can be entered
BROKEN_ARCHIVE: ErrorKinds = (tarfile.TarError, EOFError, OSError, *NO_IMAGE)


@dataclass(frozen=True)
class Member:
    """Where a file lies in an archive.

    Attributes:
        offset, size: In bytes of the archive without its gzip.
        index: Points at which the gzip stream can be entered; None where there is no gzip.
    """

    offset: int
    size: int
    index: Path | None


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, to be read and never written.

    Attributes:
        name: Relative to the source, or to the archive that holds it; parts joined by "/".
        path: Of the file itself, or of the archive.
        member: Where in the archive; None for a file of its own.
    """

    name: str
    path: Path
    member: Member | None = None

    def open(self) -> BinaryIO:
        """Raises SourceError where it cannot be opened."""
        try:
            if self.member is None:
                return self.path.open("rb")
            return io.BytesIO(_member_bytes(self.path, self.member))
        except BROKEN_ARCHIVE as error:
            raise SourceError(f"cannot be opened: {error}", where=str(self),
                              do="fetch the file again") from error  # fmt: skip

    @property
    def base(self) -> str:
        """The name without folders."""
        return self.name.rpartition("/")[2]

    def sha256(self) -> str:
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    @property
    def is_gzip(self) -> bool:
        head = self  # of a member two bytes, not the whole of it
        if self.member is not None:
            head = replace(self, member=replace(self.member, size=min(2, self.member.size)))
        with head.open() as stream:
            return stream.read(2) == GZIP_MAGIC

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.name}"


def source_files(
    folder: Path, scratch: Path
) -> tuple[list[SourceFile], dict[str, AtlasError]]:  # fmt: skip
    """Every file below a folder, and every file in the tar archives there, sorted by name.

    Links are followed. A file of its own comes before an archive's member of the same name.

    Args:
        folder: Of the source.
        scratch: Takes the index of each gzipped archive; workers read it.

    Returns:
        The files, and what is wrong with an archive by its name: members before the damage are
        among the files.
    """
    found: list[SourceFile] = []
    archives: list[tuple[str, Path]] = []
    broken: dict[str, AtlasError] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.name.endswith(ARCHIVES) and not path.name.startswith("._"):
            archives.append((name, path))
        else:
            found.append(SourceFile(name, path))
    for name, path in tqdm(archives, "read archives", disable=not archives, unit="archive"):
        try:
            found += _members(path, scratch / f"{hashlib.sha256(name.encode()).hexdigest()}.gzidx")
        except SourceError as error:
            broken[name] = error
    return sorted(found, key=lambda f: (f.name, f.member is not None, str(f.path))), broken


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, through links; a folder that was entered already is not again."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in sorted(files))


def _members(path: Path, index: Path) -> Iterator[SourceFile]:
    """The regular files of an archive; links in it are not followed, for they may lead outside."""
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == GZIP_MAGIC
    try:
        opened: Any = _opened(path) if is_gzip else path.open("rb")
        with opened as plain:
            with tarfile.open(fileobj=plain, mode="r:") as archive:
                for entry in archive:
                    if entry.isreg():
                        where = Member(entry.offset_data, entry.size, index if is_gzip else None)
                        yield SourceFile(entry.name.removeprefix("./"), path, where)
            if is_gzip:
                plain.build_full_index()
                index.parent.mkdir(parents=True, exist_ok=True)
                plain.export_index(str(index))
    except BROKEN_ARCHIVE as error:
        raise SourceError(f"the archive cannot be read to its end: {error}", where=str(path),
                          do="fetch the archive again") from error  # fmt: skip


def _opened(path: Path, index: Path | None = None) -> Any:
    """A gzip stream that can be entered anywhere.

    Raises:
        AtlasError: indexed_gzip is not installed.
    """
    try:
        from indexed_gzip import IndexedGzipFile
    except ImportError as error:
        raise AtlasError("gzipped archives are read with indexed_gzip, which is not installed",
                         where=str(path), do="python -m pip install 'atlas-nnunet[archives]'"
                         ) from error  # fmt: skip
    known = {} if index is None else {"index_file": str(index)}
    return IndexedGzipFile(str(path), spacing=SPACING_BYTES, **known)


@lru_cache(maxsize=4)
def _archive(path: Path, index: Path | None) -> BinaryIO:
    """Kept open: the members of a case lie one after another."""
    return path.open("rb") if index is None else _opened(path, index)


def _member_bytes(path: Path, member: Member) -> bytes:
    archive = _archive(path, member.index)
    archive.seek(member.offset)
    data = archive.read(member.size)
    if len(data) != member.size:
        raise EOFError(f"the archive ends {member.size - len(data)} bytes too early")
    return data
