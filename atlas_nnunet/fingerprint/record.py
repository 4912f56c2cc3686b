"""What is kept of one case: enough to answer for a data set of any size, without the images.

nnU-Net draws 1e8 foreground intensities over a data set, so the number n that one case gives
depends on how many cases there are. Its draw is a fixed sequence of positions
(`RandomState(1234)`), of which channel c takes the entries c*n to (c+1)*n. So whoever keeps all of
the foreground, or each channel at the sequence's first channels*n positions, can give every draw up
to n (docs/decisions/0013-fingerprint-records.md).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_nnunet.artefacts import whole_file

FORMAT = 3  # of the record; raise it when its content changes
SEED = 1234  # fingerprint_extractor.py:44, nnunetv2 2.8.1
SPARE = 2  # kept beyond what is asked: half of the cases can leave before any is read again
NO_RECORD = (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Origin:
    """What a record was made from.

    Attributes:
        key: Hash of the files' bytes, the reader and the versions.
        stamp: Hash of the files' sizes and times, the reader and the versions: where it has not
            changed, no byte is read to know the key.
    """

    key: str
    stamp: str


@dataclass(frozen=True)
class Head:
    """What is known of a record before its values are read.

    Attributes:
        origin: What it was made from.
        n_foreground: Voxels of the foreground.
        channels, kept: Shape of its values.
    """

    origin: Origin
    n_foreground: int
    channels: int
    kept: int

    @property
    def is_whole(self) -> bool:
        """All of the foreground, by position; not drawn from it."""
        return self.kept == self.n_foreground

    def gives(self, n: int) -> bool:
        """Whether it holds a draw of n."""
        return self.is_whole or self.kept >= self.channels * n

    @classmethod
    def read(cls, path: Path) -> Head | None:
        """None where there is no record, or none that can be used."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                origin = Origin(str(stored["key"]), str(stored["stamp"]))
                return cls(origin, *stored["sizes"].tolist())
        except NO_RECORD:
            return None


@dataclass(frozen=True)
class Record:
    """One case's share of the fingerprint (fingerprint_extractor.py, nnunetv2 2.8.1).

    Attributes:
        origin: What it was made from.
        shape_after_crop_vox: (z, y, x), after cropping to the non-zero region.
        spacing_mm: (z, y, x).
        relative_size: Voxels after cropping / before.
        n_foreground: Voxels of the foreground.
        values: (channel, n_foreground) all of the foreground's intensities in the order of their
            position; or, where that is less, (channel, k) at the first k positions drawn.
    """

    origin: Origin
    shape_after_crop_vox: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    relative_size: float
    n_foreground: int
    values: np.ndarray

    @property
    def head(self) -> Head:
        return Head(self.origin, self.n_foreground, *self.values.shape)

    def drawn(self, n: int) -> np.ndarray:
        """(channel, n) float32, stock's draw; (channel, 0) in a case without foreground.

        Raises:
            ValueError: too few are kept: see `Head.gives`.
        """
        head = self.head
        if not self.n_foreground:
            return np.empty((head.channels, 0), np.float32)
        if not head.gives(n):
            raise ValueError(f"{head} does not give {n}")
        turns = [slice(c * n, (c + 1) * n) for c in range(head.channels)]
        if head.is_whole:
            at = positions(self.n_foreground, head.channels * n)
            drawn = [v[at[turn]] for v, turn in zip(self.values, turns, strict=True)]
        else:
            drawn = [v[turn] for v, turn in zip(self.values, turns, strict=True)]
        return np.stack(drawn).astype(np.float32, copy=False)

    def write(self, path: Path) -> None:
        """As int16 where nothing is lost (CT): half the bytes. Not compressed: it would not pay."""
        with np.errstate(invalid="ignore"):
            short = self.values.astype(np.int16)
        lossless = np.array_equal(short, self.values)
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez(
                stream,
                key=np.array(self.origin.key),
                stamp=np.array(self.origin.stamp),
                shape=np.array(self.shape_after_crop_vox),
                spacing=np.array(self.spacing_mm),
                relative_size=np.array(self.relative_size),
                sizes=np.array([self.n_foreground, *self.values.shape]),
                values=short if lossless else self.values,
            )

    @classmethod
    def read(cls, path: Path) -> Record:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                origin=Origin(str(stored["key"]), str(stored["stamp"])),
                shape_after_crop_vox=tuple(stored["shape"].tolist()),
                spacing_mm=tuple(stored["spacing"].tolist()),
                relative_size=float(stored["relative_size"]),
                n_foreground=int(stored["sizes"][0]),
                values=stored["values"],
            )


def positions(n_foreground: int, count: int) -> np.ndarray:
    """The first entries of the sequence that `RandomState.choice` picks by; int64.

    `choice(a, n)` is `a[randint(0, len(a), n)]`, and calls one after another continue the sequence.
    """
    return np.random.RandomState(SEED).randint(0, n_foreground, count)


def keep(images: np.ndarray, is_foreground: np.ndarray, n: int) -> np.ndarray:
    """A record's values, for draws of up to SPARE * n.

    Args:
        images: (channel, z, y, x) float32.
        is_foreground: (z, y, x) bool.
        n: Intensities that are asked for now.

    Returns:
        (channel, k) float32: all of the foreground in C order, or what would be drawn of it.
    """
    count, wanted = int(np.count_nonzero(is_foreground)), len(images) * SPARE * n
    at = positions(count, wanted) if count > wanted else slice(None)
    if len(images) == 1:  # without a second copy
        return images[0][is_foreground][at][None]
    values = np.empty((len(images), min(count, wanted)), np.float32)
    for kept, channel in zip(values, images, strict=True):
        kept[:] = channel[is_foreground][at]
    return values
