"""A CT's thumbnail: the same for a copy that was resampled, clipped, or cut above and below.

A stack of small axial pictures, one each 6 mm of the patient, centred on the body in them. Each is
an average of Hounsfield units, so resampling and noise hardly change it; its coarse shape is
taken off, which all patients share; two stacks are laid over one another at the offset that fits
best, so that a piece of a CT is found in the whole. Choices and measurements:
docs/decisions/0010-leakage.md.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from atlas_nnunet.geometry import Grid

SLICE_MM = 6.0
PIXEL_MM = 16.0
PIXELS = 20  # a side: 320 mm
WINDOW_HU = (-160.0, 240.0)  # within what AbdomenAtlas and SuPreM clip to
BODY_HU = -150.0
LEAST_BODY_MM2 = 2000.0
COARSE_PIXELS = 1.5  # standard deviation of what is taken off
LEAST_SLICES = 8  # of an overlap that says anything: 48 mm


def thumbnail(ct_hu: np.ndarray, grid: Grid) -> np.ndarray:
    """The pictures of a CT, from the feet to the head.

    Args:
        ct_hu: (i, j, k) in file order, Hounsfield units.
        grid: Where it lies; its directions are used, its origin is not.

    Returns:
        (slices, PIXELS * PIXELS) float32, each of mean 0 and length 1; zeros where a slice holds
        no body.
    """
    low, high = WINDOW_HU
    volume, spacing_mm = _upright(ct_hu, grid)
    n_slices = max(1, round(volume.shape[2] * spacing_mm[2] / SLICE_MM))
    middle = (volume.shape[2] - 1) / 2 * spacing_mm[2]
    centers = middle + (np.arange(n_slices) - (n_slices - 1) / 2) * SLICE_MM
    pictures = np.zeros((n_slices, PIXELS * PIXELS), np.float32)
    for number, share in enumerate(_shares(volume.shape[2], spacing_mm[2], centers, SLICE_MM)):
        planes = np.flatnonzero(share)
        stack = np.clip(volume[:, :, planes], low, high).astype(np.float32)
        plane = stack @ (share[planes] / share[planes].sum()).astype(np.float32)
        body = plane > BODY_HU
        if body.sum() * spacing_mm[0] * spacing_mm[1] < LEAST_BODY_MM2:
            continue
        middles_mm = [_median(body.sum(1 - a)) * spacing_mm[a] for a in (0, 1)]
        sides = [
            _shares(plane.shape[a], spacing_mm[a], middles_mm[a] + _pixel_centers(), PIXEL_MM)
            / PIXEL_MM
            for a in (0, 1)
        ]
        picture = sides[0] @ (plane - low) @ sides[1].T
        picture -= gaussian_filter(picture, COARSE_PIXELS, mode="constant")
        picture -= picture.mean()
        pictures[number] = (picture / max(float(np.linalg.norm(picture)), 1e-6)).ravel()
    return pictures


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Mean correlation of two thumbnails' pictures at the offset where they fit best.

    Returns:
        0 to 1; about 1 for two copies of one CT, or of pieces of it that share 48 mm and half of
        the shorter one.
    """
    a, b = _trimmed(one), _trimmed(other)
    shorter = min(len(a), len(b))
    least = max(min(LEAST_SLICES, shorter), shorter // 2)
    if not least:
        return 0.0
    products = a @ b.T
    counted = np.outer(a.any(axis=1), b.any(axis=1))
    best = 0.0
    for offset in range(1 - len(a), len(b)):
        n = np.count_nonzero(np.diagonal(counted, offset))
        if n >= least:
            best = max(best, float(np.diagonal(products, offset).sum()) / n)
    return best


def _upright(ct_hu: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Axes to the right, to the front and up, as nearly as they go; a view."""
    along = [int(np.argmax(np.abs(grid.directions[world]))) for world in range(3)]
    if sorted(along) != [0, 1, 2]:  # far from any axis: any order is as good
        along = [0, 1, 2]
    turned = ct_hu.transpose(along)
    flips = tuple(slice(None, None, -1 if grid.directions[w, a] < 0 else 1)
                  for w, a in enumerate(along))  # fmt: skip
    return turned[flips], grid.spacing_mm[along]


def _shares(n: int, spacing_mm: float, centers_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """(cells, n): the mm of each voxel within each cell, along one axis."""
    edges = (np.arange(n + 1) - 0.5) * spacing_mm
    low, high = centers_mm[:, None] - width_mm / 2, centers_mm[:, None] + width_mm / 2
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)


def _pixel_centers() -> np.ndarray:
    return (np.arange(PIXELS) - (PIXELS - 1) / 2) * PIXEL_MM


def _median(counts: np.ndarray) -> float:
    """Index that halves the counts; metal and a table's edge move it less than a mean."""
    below = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(below[-1] / 2, below, np.arange(len(below))) - 0.5)


def _trimmed(pictures: np.ndarray) -> np.ndarray:
    """Without empty slices at both ends."""
    there = np.flatnonzero(pictures.any(axis=1))
    return pictures[there[0] : there[-1] + 1] if len(there) else pictures[:0]
