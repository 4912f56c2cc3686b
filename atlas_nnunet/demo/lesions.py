"""Tumours: grown inside an organ, uneven, a few in each patient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from atlas_nnunet.demo.anatomy import LESIONS


def grow_lesions(
    rng: np.random.Generator,
    hosts: Mapping[str, np.ndarray],
    spacing_mm: np.ndarray,
    probability: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """Tumour type -> mask; types do not share voxels, and each lies inside one of its hosts.

    Args:
        rng: Where all chance comes from.
        hosts: Organ -> boolean (x, y, z).
        spacing_mm: (x, y, z).
        probability: Overrides of a type's probability.
    """
    taken = np.zeros(next(iter(hosts.values())).shape, bool)
    grown = {}
    for name, kind in LESIONS.items():
        mask = np.zeros_like(taken)
        present = rng.random() < probability.get(name, kind.probability)
        for _ in range(int(rng.integers(1, kind.most + 1)) if present else 0):
            host = hosts[str(rng.choice(kind.hosts))]
            radius_mm = float(rng.uniform(*kind.radius_mm))
            _grow(rng, mask, host & ~taken, spacing_mm, radius_mm)
        taken |= mask
        grown[name] = mask
    return grown


def _grow(
    rng: np.random.Generator, mask: np.ndarray, host: np.ndarray, spacing_mm: np.ndarray,
    radius_mm: float,
) -> None:  # fmt: skip
    """Add one uneven ball around a random voxel of the host, cut off at its surface."""
    inside = np.flatnonzero(host)
    if not inside.size:
        return
    center = np.array(np.unravel_index(inside[rng.integers(inside.size)], host.shape))
    reach = np.ceil(1.5 * radius_mm / spacing_mm).astype(int)
    box = tuple(
        slice(max(0, c - r), min(n, c + r + 1))
        for c, r, n in zip(center, reach, host.shape, strict=True)
    )
    offsets = np.meshgrid(
        *((np.arange(s.start, s.stop) - c) * step
          for s, c, step in zip(box, center, spacing_mm, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    distance_mm = np.sqrt(sum(o.astype(np.float32) ** 2 for o in offsets))
    bumps = rng.standard_normal(distance_mm.shape, np.float32)
    bumps = ndimage.gaussian_filter(bumps, 3.0 / spacing_mm)
    bumps /= max(float(bumps.std()), 1e-6)
    mask[box] |= (distance_mm < radius_mm * (1 + 0.12 * bumps)) & host[box]
