"""Pictures for the demo's report, as PNG bytes: curves, case by case, and one case to look at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlas_nnunet.labelmap import Coding

WINDOW_HU = (-160.0, 240.0)
COLOURS = {"pretrain": "#6b7280", "scratch": "#d97706", "transfer": "#0f766e"}


def _figure(columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def curves_picture(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Loss and online Dice by epoch, for every training."""
    figure, (loss, dice) = _figure(2, 10, 3.4)
    for run, own in curves.items():
        epochs = range(1, len(own["train_loss"]) + 1)
        loss.plot(epochs, own["train_loss"], color=COLOURS[run], label=run)
        loss.plot(epochs, own["val_loss"], color=COLOURS[run], linestyle=":")
        dice.plot(epochs, own["dice"], color=COLOURS[run], label=run)
    loss.set(xlabel="epoch", ylabel="loss (dotted: validation batches)")
    dice.set(xlabel="epoch", ylabel="online Dice of validation batches", ylim=(0, 1))
    dice.legend(frameon=False)
    return _png(figure)


def cases_picture(scratch: Sequence[float], transfer: Sequence[float]) -> bytes:
    """Mean Dice of every held-out case in both arms, joined by a line."""
    figure, (axis,) = _figure(1, 4.6, 3.4)
    for pair in zip(scratch, transfer, strict=True):
        better = pair[1] >= pair[0]
        axis.plot([0, 1], pair, "-o", color=COLOURS["transfer" if better else "scratch"], alpha=0.7)
    axis.set(xticks=[0, 1], xticklabels=["scratch", "transfer"], ylabel="mean Dice of a case",
             xlim=(-0.3, 1.3), ylim=(0, 1))  # fmt: skip
    return _png(figure)


def overlay_picture(ct: Path, masks: Mapping[str, Path], dataset_json: Mapping[str, Any]) -> bytes:
    """One axial slice of one case, with each mask's structures in colour.

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
    palette = np.random.default_rng(3).permutation(np.linspace(0, 1, len(coding.structures)))
    figure, axes = _figure(len(volumes), 4.2 * len(volumes), 4.2)
    from matplotlib import colormaps

    for axis, (title, codes) in zip(axes, volumes.items(), strict=True):
        grey = np.clip((image[:, :, k] - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1)
        shown = np.repeat(grey[..., None], 3, 2)
        for place, name in zip(palette, coding.structures, strict=True):
            inside = coding.mask_of(codes[:, :, k], name)
            shown[inside] = 0.45 * shown[inside] + 0.55 * np.array(colormaps["turbo"](place)[:3])
        axis.imshow(shown.transpose(1, 0, 2), origin="lower")
        axis.set_title(title)
        axis.axis("off")
    return _png(figure)


def _canonical(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
