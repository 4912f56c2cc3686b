"""What nnU-Net wants to know of one case, looked at once and kept on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from atlas_nnunet.artefacts import content_hash, file_hash, file_times
from atlas_nnunet.errors import SourceError
from atlas_nnunet.fingerprint.record import FORMAT, SPARE, Head, Origin, Record, keep
from atlas_nnunet.host import versions
from atlas_nnunet.reading import Header, peak_bytes, read_images, read_labels

# What came of a case: its record was kept, made, or made again because a smaller data set asks for
# more of each case than the record holds.
KEPT, NEW, LONGER = "kept", "new", "longer"
PROCESS_BYTES = 300_000_000  # of a process that has read nothing yet
SMALL_THINGS = 1 << 20  # bytes: headers, names, what numpy casts in between


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

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, self.label)

    def key(self) -> str:
        """Hash of everything the record depends on."""
        hashes = [file_hash(path) for path in self.files]
        return content_hash([hashes, self.reader, FORMAT, versions()])

    def stamp(self) -> str:
        """The same by the files' sizes and times."""
        times = [file_times(path) for path in self.files]
        return content_hash([times, self.reader, FORMAT, versions()])


def analyse(job: Job) -> str:
    """Make a case's record if it is not there already: KEPT, NEW or LONGER.

    Raises:
        AtlasError: a file cannot be read, or the mask is not the images' mask.
    """
    stamp = job.stamp()  # before the bytes: a file that changes meanwhile is hashed next time
    head = Head.read(job.record)
    key = head.origin.key if head and head.origin.stamp == stamp else job.key()
    if head is None or head.origin.key != key:
        outcome = NEW
    elif head.gives(job.n_samples):
        if head.origin.stamp != stamp:  # the same bytes in files of another date
            replace(Record.read(job.record), origin=Origin(key, stamp)).write(job.record)
        return KEPT
    else:
        outcome = LONGER
    look(job, Origin(key, stamp)).write(job.record)
    return outcome


def look(job: Job, origin: Origin) -> Record:
    """Read a case and say of it what `analyze_case` says (fingerprint_extractor.py).

    Its statistics of single cases are left out, nobody reads them; and so are the holes that its
    cropping fills, for a hole has no part in the bounding box.

    Raises:
        AtlasError: a file cannot be read.
        SourceError: mask and images differ in shape.
    """
    labels, _ = read_labels(job.reader, job.label)
    is_foreground = labels[0] > 0
    del labels
    images, properties = read_images(job.reader, job.images)
    if images.shape[1:] != is_foreground.shape:
        raise SourceError(
            f"the mask has {is_foreground.shape} voxels, the image {images.shape[1:]}",
            where=str(job.label), do="bring the mask onto the image's grid, or leave the case out",
        )  # fmt: skip
    box = nonzero_box(images)
    cropped, is_foreground = images[(slice(None), *box)], is_foreground[box]
    return Record(
        origin=origin,
        shape_after_crop_vox=cropped.shape[1:],
        spacing_mm=tuple(float(s) for s in properties["spacing"]),
        relative_size=float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:])),
        n_foreground=int(np.count_nonzero(is_foreground)),
        values=keep(cropped, is_foreground, job.n_samples),
    )


def nonzero_box(images: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of the voxels that are not zero in every channel; all of an empty image.

    Args:
        images: (channel, z, y, x).
    """
    box = []
    for axis in range(1, images.ndim):
        planes = np.moveaxis(images, axis, 0)
        n = len(planes)
        first = next((i for i in range(n) if planes[i].any()), 0)
        last = next((i for i in reversed(range(n)) if planes[i].any()), n - 1)
        box.append(slice(first, last + 1))
    return tuple(box)


def need_bytes(job: Job) -> int:
    """The most memory that `analyse` takes for a case, beyond PROCESS_BYTES; by headers alone.

    An upper bound, as if every voxel were foreground; about twice what a body's organs need.

    Raises:
        SourceError: a file is missing or has no header.
    """
    channels, voxels = len(job.images), int(np.prod(Header.of(job.images[0]).shape))
    mask, images = voxels, 4 * channels * voxels
    drawn = channels * SPARE * job.n_samples
    if drawn < voxels:
        picking = 4 * voxels + 8 * drawn + 4 * channels * drawn
    else:
        picking = 4 * voxels * (channels if channels == 1 else channels + 1)
    return SMALL_THINGS + max(
        2 * voxels + mask + peak_bytes(job.reader, [job.label]),
        mask + peak_bytes(job.reader, job.images),
        mask + images + picking,
    )
