"""A phantom patient: an abdominal CT with 25 organs and 7 tumour types, drawn from a seed.

Nothing is measured here. It is made so that a network must learn anatomy: organs vary in place,
size and shape, densities of neighbours overlap, fields of view cut organs off, and tumours are a
little darker than what they lie in. The same seed gives the same bytes, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from atlas_nnunet.demo import anatomy
from atlas_nnunet.demo.lesions import grow_lesions
from atlas_nnunet.demo.shapes import Space, draw, upsample
from atlas_nnunet.geometry import Grid
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS

TISSUES = ("air", "fat", "muscle", "intestine", *anatomy.ORGANS)
CODE = {name: code for code, name in enumerate(TISSUES)}
EXTRA = ("vertebrae",)  # not AbdomenAtlas': for a target set whose labels the source lacks
DEFORMATION_MM = 9.0
LUMEN_DEPTH = 0.78


@dataclass(frozen=True)
class View:
    """How patients are scanned.

    Attributes:
        in_plane_mm: Range of pixel spacing.
        slice_mm: Slice distances to choose from.
        low_mm: Range of the lowest slice, z in patient space.
        height_mm: Range of the field of view along z.
        stream: Number that keeps one view's patients apart from another's.
        lesion_probability: Overrides by tumour type.
    """

    in_plane_mm: tuple[float, float]
    slice_mm: tuple[float, ...]
    low_mm: tuple[float, float]
    height_mm: tuple[float, float]
    stream: int
    lesion_probability: Mapping[str, float] = field(default_factory=dict)


WIDE = View((0.7, 1.0), (1.0, 2.5, 3.0, 3.0, 4.0, 5.0, 5.0), (-250, -60), (240, 400), 0)
UPPER_ABDOMEN = View((0.75, 0.95), (2.0, 2.5, 3.0, 4.0), (-40, 0), (180, 230), 1,
                     {"liver_tumor": 0.97})  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """One scan with its truth.

    Attributes:
        ct_hu: (i, j, k) int16, file order.
        masks: Structure -> boolean (i, j, k); all False where it is not in view.
        grid: Where the array lies; axis order and directions vary from patient to patient.
        phase: Contrast phase.
        absent: Structures the person does not have.
    """

    ct_hu: np.ndarray
    masks: Mapping[str, np.ndarray]
    grid: Grid
    phase: str
    absent: frozenset[str]

    @property
    def volume_ml(self) -> dict[str, float]:
        return {name: float(m.sum()) * self.grid.voxel_ml for name, m in self.masks.items()}


def make_patient(seed: int, index: int, view: View = WIDE) -> Patient:
    """Patient number `index` of a seed, as `view` scans it."""
    rng = np.random.default_rng([seed, view.stream, index])
    phase = anatomy.PHASES[rng.choice(3, p=[0.2, 0.25, 0.55])]
    absent = {"prostate"} if rng.random() < 0.5 else set()
    absent |= {"gall_bladder"} if rng.random() < 0.12 else set()
    space, half_mm = _space(rng, view)
    tissue, lumen = _paint(rng, space, half_mm, absent)
    liver = tissue == CODE["liver"]
    vessels = _fill(anatomy.HEPATIC_VESSELS, space) & liver
    organs = {host for kind in anatomy.LESIONS.values() for host in kind.hosts} & CODE.keys()
    hosts = {name: tissue == CODE[name] for name in sorted(organs)} | {"hepatic_vessel": vessels}
    spacing = np.array([a[1] - a[0] for a in space.axes_mm])
    lesions = grow_lesions(rng, hosts, spacing, view.lesion_probability)
    ct_hu = _scan(rng, space, tissue, lumen, vessels, lesions, phase)
    masks = {name: tissue == CODE[name] for name in (*ABDOMENATLAS_ORGANS, *EXTRA) if name in CODE}
    masks["hepatic_vessel"] = vessels
    ordered = {n: masks[n] if n in masks else lesions[n]
               for n in (*ABDOMENATLAS_ORGANS, *EXTRA, *ABDOMENATLAS_TUMORS)}  # fmt: skip
    return _on_file(rng, ct_hu, ordered, space, phase, frozenset(absent))


def _space(rng: np.random.Generator, view: View) -> tuple[Space, tuple[float, float]]:
    """Grid, and the map from it into the template: size, shift and a smooth deformation."""
    half_mm = (float(rng.uniform(138, 162)), float(rng.uniform(98, 118)))
    scale = np.array([half_mm[0] / 150, half_mm[1] / 108, rng.uniform(0.92, 1.08)])
    pixel = rng.uniform(*view.in_plane_mm)
    steps = (pixel, pixel, float(rng.choice(view.slice_mm)))
    low = rng.uniform(*view.low_mm)
    high = min(low + rng.uniform(*view.height_mm), 330.0)
    ends = [(-half_mm[0] - 8, half_mm[0] + 8), (-half_mm[1] - 8, half_mm[1] + 8), (low, high)]
    axes = [np.arange(lo, hi, step) for (lo, hi), step in zip(ends, steps, strict=True)]
    shape = tuple(len(a) for a in axes)
    coarse = tuple(max(3, round((hi - lo) / 55)) for lo, hi in ends)
    warped = np.empty((3, *shape), np.float32)
    for axis in range(3):
        push = rng.normal(0, DEFORMATION_MM / 2, coarse).clip(-DEFORMATION_MM, DEFORMATION_MM)
        along = (axes[axis] / scale[axis]).astype(np.float32)
        view_shape = [1, 1, 1]
        view_shape[axis] = -1
        warped[axis] = upsample(push, shape) + along.reshape(view_shape)
    fine = tuple(max(4, round((hi - lo) / 14)) for lo, hi in ends)
    roughness = upsample(rng.normal(0, 0.7, fine), shape)
    return Space((axes[0], axes[1], axes[2]), warped, roughness, 34.0), half_mm


def _fill(shapes: tuple[anatomy.Shape, ...], space: Space, depth: float = 1.0) -> np.ndarray:
    mask = np.zeros(space.shape_vox, bool)
    for box, reached in draw(shapes, space):
        mask[box] |= reached < depth
    return mask


def _paint(
    rng: np.random.Generator, space: Space, half_mm: tuple[float, float], absent: set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(tissue codes, where hollow organs are hollow); later organs paint over earlier ones."""
    x, y = space.axes_mm[0][:, None, None], space.axes_mm[1][None, :, None]
    radial = np.sqrt((x / half_mm[0]) ** 2 + (y / half_mm[1]) ** 2) + 0.01 * space.roughness
    tissue = np.full(space.shape_vox, CODE["air"], np.uint8)
    tissue[radial < 1.0] = CODE["fat"]
    wall = float(rng.uniform(0.84, 0.93))  # the fat under the skin
    tissue[radial < wall] = CODE["muscle"]
    tissue[radial < wall - 0.09] = CODE["fat"]
    lumen = np.zeros(space.shape_vox, bool)
    coils = _coils(rng)
    for name, shapes in (("intestine", (coils,)), *anatomy.ORGANS.items()):
        if name in absent:
            continue
        for box, depth in draw(_varied(rng, shapes), space):
            inside = (depth < 1.0) & (radial[box] < wall - 0.02)
            tissue[box][inside] = CODE[name]
            hollow = name == "intestine" or getattr(shapes[0], "hollow", False)
            lumen[box][inside] = (depth < LUMEN_DEPTH)[inside] if hollow else False
    return tissue, lumen


def _varied(
    rng: np.random.Generator, shapes: tuple[anatomy.Shape, ...]
) -> tuple[anatomy.Shape, ...]:
    """An organ's own size and place in this patient."""
    shift, size = rng.normal(0, 4.0, 3), rng.normal(1.0, 0.07)
    moved: list[anatomy.Shape] = []
    for s in shapes:
        if isinstance(s, anatomy.Blob):
            axes = _point([a * size * rng.normal(1, 0.05) for a in s.axes])
            center = _point(np.array(s.center) + shift)
            moved.append(anatomy.Blob(center, axes, s.tilt_deg + float(rng.normal(0, 6))))
        else:
            jitter = rng.normal(0, 4.0, (len(s.points), 3))
            points = tuple(_point(p) for p in np.array(s.points) + shift + jitter)
            radius = (s.radius[0] * float(size), s.radius[1] * float(size))
            moved.append(anatomy.Tube(points, radius, s.hollow))
    return tuple(moved)


def _point(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _coils(rng: np.random.Generator) -> anatomy.Tube:
    """A curve that fills the lower abdomen in loops."""
    t = np.linspace(0, 2 * np.pi, anatomy.COILS_POINTS)
    waves = [np.sin(rng.integers(low, low + 4) * t + rng.uniform(0, 6.28)) for low in (4, 6, 3)]
    curve = np.stack(waves, 1) * np.array(anatomy.COILS_AXES_MM) + anatomy.COILS_CENTER_MM
    points = tuple(_point(p) for p in curve)
    return anatomy.Tube(points, (anatomy.COILS_RADIUS_MM,) * 2, hollow=True)


def _scan(
    rng: np.random.Generator, space: Space, tissue: np.ndarray, lumen: np.ndarray,
    vessels: np.ndarray, lesions: Mapping[str, np.ndarray], phase: str,
) -> np.ndarray:  # fmt: skip
    """Densities, partial volume, texture and noise -> (x, y, z) int16 Hounsfield units."""
    column = anatomy.PHASES.index(phase)
    hu = np.array([anatomy.TISSUE_HU[t][column] for t in TISSUES], np.float32)
    hu = hu + rng.normal(0, 9, len(hu)).astype(np.float32) * (hu > -500)
    image = hu[tissue]
    texture = space.roughness
    image += np.float32(6) * texture
    contents = np.where(texture > 0.55, anatomy.LUMEN_HU["gas"], anatomy.LUMEN_HU["fluid"])
    if rng.random() < 0.4:
        contents = np.where(texture < -0.2, anatomy.LUMEN_HU["contrast"], contents)
    image[lumen] = contents[lumen]
    image[vessels] = anatomy.HEPATIC_VESSEL_HU[column] + rng.normal(0, 9)
    for name, mask in lesions.items():
        image[mask] = anatomy.LESIONS[name].hu[column] + rng.normal(0, 8)
    spacing_z = space.axes_mm[2][1] - space.axes_mm[2][0]
    # A slice averages over its thickness, a pixel over the scanner's focus: partial volume.
    image = ndimage.gaussian_filter(image, (0.7, 0.7, 0.35 if spacing_z > 2 else 0.6))
    noise = rng.standard_normal(space.shape_vox, np.float32)
    noise = ndimage.uniform_filter(noise, (2, 2, 1))
    image += np.float32(rng.uniform(18, 34)) * noise
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def _on_file(
    rng: np.random.Generator, ct_hu: np.ndarray, masks: dict[str, np.ndarray], space: Space,
    phase: str, absent: frozenset[str],
) -> Patient:  # fmt: skip
    """Axes as a scanner might store them: some run backwards, now and then they are swapped."""
    steps = [a[1] - a[0] for a in space.axes_mm]
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = [a[0] for a in space.axes_mm]
    flips = [bool(rng.random() < p) for p in (0.5, 0.5, 0.1)]
    order = (0, 1, 2) if rng.random() < 0.9 else (2, 0, 1)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = -1 if flips[old] else 1
        turn[old, 3] = ct_hu.shape[old] - 1 if flips[old] else 0
    cut = tuple(slice(None, None, -1 if f else 1) for f in flips)

    def stored(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[cut].transpose(order))

    ct_stored = stored(ct_hu)
    shape = (ct_stored.shape[0], ct_stored.shape[1], ct_stored.shape[2])
    return Patient(
        ct_stored, {n: stored(m) for n, m in masks.items()}, Grid(shape, affine @ turn),
        phase, absent,
    )  # fmt: skip
