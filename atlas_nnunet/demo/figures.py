"""Pictures for the demo's report, as PNG bytes: curves, case by case, and one case to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlas_nnunet.drawing import figure
from atlas_nnunet.labelmap import Coding

Colour = tuple[float, float, float]

WINDOW_HU = (-160.0, 240.0)
AIR_HU = -400.0
COLOURS = {"pretrain": "#6b7280", "scratch": "#d97706", "transfer": "#0f766e"}


def curves_picture(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Loss and online Dice by epoch, for every training."""
    with figure(2, 10, 3.4) as (_, (loss, dice), png):
        for run, own in curves.items():
            epochs = range(1, len(own["train_loss"]) + 1)
            loss.plot(epochs, own["train_loss"], color=COLOURS[run], label=run)
            loss.plot(epochs, own["val_loss"], color=COLOURS[run], linestyle=":")
            dice.plot(epochs, own["dice"], color=COLOURS[run], label=run)
        loss.set(xlabel="epoch", ylabel="loss (dotted: validation batches)")
        dice.set(xlabel="epoch", ylabel="online Dice of validation batches", ylim=(0, 1))
        dice.legend(frameon=False)
    return png.getvalue()


def cases_picture(pairs: Sequence[tuple[float, float]]) -> bytes:
    """Mean Dice of every held-out case, (scratch, transfer), joined by a line."""
    with figure(1, 4.6, 3.4) as (_, (axis,), png):
        for pair in pairs:
            winner = "transfer" if pair[1] >= pair[0] else "scratch"
            axis.plot([0, 1], pair, "-o", color=COLOURS[winner], alpha=0.7)
        axis.set(xticks=[0, 1], xticklabels=["scratch", "transfer"], ylabel="mean Dice of a case",
                 xlim=(-0.3, 1.3), ylim=(0, 1))  # fmt: skip
    return png.getvalue()


def overlay_picture(ct: Path, masks: Mapping[str, Path], dataset_json: Mapping[str, Any]) -> bytes:
    """One axial slice of one case, seen from the feet, with each mask's structures in colour.

    Args:
        ct: The case's CT.
        masks: Title -> mask of codes; the first decides the slice: where most structures are.
        dataset_json: What the codes mean.
    """
    coding = Coding.of_dataset_json(dataset_json)
    image = _canonical(ct)
    volumes = {title: _canonical(path) for title, path in masks.items()}
    reference = next(iter(volumes.values()))
    present = [len(np.unique(reference[:, :, k])) for k in range(reference.shape[2])]
    k = int(np.argmax(present))
    around = _body(image[:, :, k])
    grey = (image[:, :, k][around] - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0])
    grey = np.repeat(np.clip(grey, 0, 1)[..., None], 3, 2)
    colours = _colours(coding.structures)
    seen = set()
    width = 4.2  # inches; what is above and below the slices takes one inch
    height = 1.0 + width * grey.shape[1] / grey.shape[0]
    with figure(len(volumes), width * len(volumes), height) as (drawn, axes, png):
        for axis, (title, codes) in zip(axes, volumes.items(), strict=True):
            shown = grey.copy()
            for name, colour in colours.items():
                inside = coding.mask_of(codes[:, :, k][around], name)
                shown[inside] = 0.45 * shown[inside] + 0.55 * np.array(colour)
                seen |= {name} if inside.any() else set()
            # Radiologists' view: the patient's right is on the left, front is up.
            axis.imshow(shown.transpose(1, 0, 2)[::-1, ::-1], interpolation="nearest")
            axis.set_title(title)
            axis.axis("off")
        _legend(drawn, {name: c for name, c in colours.items() if name in seen})
    return png.getvalue()


def _colours(names: Sequence[str]) -> dict[str, Colour]:
    """Distinct colours, neighbours in the list far apart; the same whatever is in a slice."""
    from matplotlib import colormaps

    places = np.random.default_rng(3).permutation(np.linspace(0, 1, len(names)))
    pairs = zip(names, places, strict=True)
    return {name: colormaps["turbo"](place)[:3] for name, place in pairs}


def _legend(drawn: Any, colours: Mapping[str, Colour]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if handles:
        drawn.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)


def _body(slice_hu: np.ndarray) -> tuple[slice, slice]:
    """The patient's bounding box in a slice; the whole slice where there is only air."""
    inside = slice_hu > AIR_HU
    spans = []
    for axis in (0, 1):
        found = np.flatnonzero(inside.any(1 - axis))
        spans.append(slice(found[0], found[-1] + 1) if found.size else slice(None))
    return spans[0], spans[1]


def _canonical(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
