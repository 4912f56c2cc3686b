"""What nnU-Net wants to know of one case, kept on disk under a hash of what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, whole_file
from atlas_nnunet.host import versions


@dataclass(frozen=True)
class Job:
    """One case to look at.

    Attributes:
        case: Identifier.
        images: One file a channel.
        label: The mask.
        reader: Name of nnU-Net's reader class.
        n_samples: Foreground intensities to draw; nnU-Net draws 1e8 over the whole data set.
        record: Where the case's record lies.
    """

    case: str
    images: tuple[Path, ...]
    label: Path
    reader: str
    n_samples: int
    record: Path

    def key(self) -> str:
        """Hash of everything the record depends on."""
        files = [file_hash(path) for path in (*self.images, self.label)]
        return content_hash([files, self.reader, self.n_samples, versions()])


@dataclass(frozen=True)
class Record:
    """One case's share of the fingerprint (fingerprint_extractor.py, nnunetv2 2.8.1).

    Attributes:
        key: Hash of what the record was made from.
        shape_after_crop_vox: (z, y, x), after cropping to the non-zero region.
        spacing_mm: (z, y, x).
        relative_size: Voxels after cropping / before.
        intensities: (channel, n_samples) foreground intensities, drawn with replacement; or
            (channel, 0) in a case without foreground.
    """

    key: str
    shape_after_crop_vox: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    relative_size: float
    intensities: np.ndarray

    def write(self, path: Path) -> None:
        """As int16 where nothing is lost (CT): half the bytes. Not compressed: it would not pay."""
        short = self.intensities.astype(np.int16)
        lossless = np.array_equal(short, self.intensities)
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez(
                stream,
                key=np.array(self.key),
                shape=np.array(self.shape_after_crop_vox),
                spacing=np.array(self.spacing_mm),
                relative_size=np.array(self.relative_size),
                intensities=short if lossless else self.intensities,
            )

    @classmethod
    def read(cls, path: Path) -> Record:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                key=str(stored["key"]),
                shape_after_crop_vox=tuple(stored["shape"].tolist()),
                spacing_mm=tuple(stored["spacing"].tolist()),
                relative_size=float(stored["relative_size"]),
                intensities=stored["intensities"].astype(np.float32),
            )


def analyse(job: Job) -> bool:
    """Make a case's record if it is not there already; True if there was work to do."""
    key = job.key()
    if job.record.is_file() and Record.read(job.record).key == key:
        return False
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    shape, spacing, intensities, _, relative = DatasetFingerprintExtractor.analyze_case(
        [str(p) for p in job.images],
        str(job.label),
        recursive_find_reader_writer_by_name(job.reader),
        job.n_samples,
    )
    drawn = np.stack([np.asarray(channel, np.float32) for channel in intensities])
    spacing_mm = tuple(float(s) for s in spacing)
    Record(key, tuple(map(int, shape)), spacing_mm, float(relative), drawn).write(job.record)
    return True


def merge(records: Sequence[Record]) -> dict:
    """The content of dataset_fingerprint.json, number for number as stock computes it.

    Args:
        records: In order of case identifiers, as stock concatenates them.
    """
    drawn = np.concatenate([r.intensities for r in records], axis=1)
    properties = {}
    for channel, values in enumerate(drawn):
        low, median, high = np.percentile(values, np.array((0.5, 50.0, 99.5)))
        properties[channel] = {
            "mean": float(np.mean(values)),
            "median": float(median),
            "std": float(np.std(values)),
            "min": float(np.min(values)),
            "max": float(np.max(values)),
            "percentile_99_5": float(high),
            "percentile_00_5": float(low),
        }
    return {
        "spacings": [list(r.spacing_mm) for r in records],
        "shapes_after_crop": [list(r.shape_after_crop_vox) for r in records],
        "foreground_intensity_properties_per_channel": properties,
        "median_relative_size_after_cropping": float(
            np.median([r.relative_size for r in records], 0)
        ),
    }
