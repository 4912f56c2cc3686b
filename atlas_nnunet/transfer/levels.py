"""Which level of the source serves which of the target: from the top, or by feature maps in mm.

From the top, level l serves level l: the same number of poolings, whatever a voxel measures. By
spacing, the source is shifted by whole levels so that feature maps measure about the same in mm: a
target planned at twice the source's spacing looks at level 0 at what the source sees on level 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import resolve_configuration

# A shift costs the levels at one end and, mostly, widths: it must bring feature maps closer by this
# many octaves on average. Half a pooling is what rounding to whole levels may cost anyway.
WORTH_OCTAVES = 0.5

Spacings = Sequence[Sequence[float]]  # of each level's feature maps in mm, finest first


@dataclass(frozen=True)
class Levels:
    """How levels are matched.

    Attributes:
        shift: Target level l is served by source level l + shift; 0 is "from the top".
        why: In words, with the numbers.
    """

    shift: int
    why: str


def feature_spacings_mm(plans: Mapping[str, Any], configuration: str) -> list[list[float]]:
    """Spacing of the feature maps of each level, in mm, axes as in the plan.

    2-D configurations have two axes, in spacing as in strides (default_experiment_planner.py,
    nnunetv2 2.8.1).

    Raises:
        PlanError: the configuration has no spacing.
    """
    config = resolve_configuration(plans, configuration)
    if "spacing" not in config:
        raise PlanError(
            f"configuration {configuration!r} has no spacing to match levels by",
            where=str(plans.get("plans_name", "plans")), do="match them from the top: --levels top",
        )  # fmt: skip
    strides = network_of_plans(plans, configuration)["strides"]
    spacing = [float(v) for v in config["spacing"]]
    out = []
    for stride in strides:
        spacing = [mm * factor for mm, factor in zip(spacing, stride, strict=True)]
        out.append(spacing)
    return out


def network_of_plans(plans: Mapping[str, Any], configuration: str) -> Mapping[str, Any]:
    """`arch_kwargs` of a configuration."""
    return resolve_configuration(plans, configuration)["architecture"]["arch_kwargs"]


def octaves_apart(source_mm: Spacings, target_mm: Spacings, shift: int) -> float:
    """Mean |log2| of the ratios of spacings, over axes and levels that both have.

    Volumes against slices: over the axes that both have, which are the last ones.
    """
    pairs = [
        abs(math.log2(source_mm[level + shift][axis] / target_mm[level][axis]))
        for level in range(len(target_mm))
        if 0 <= level + shift < len(source_mm)
        for axis in range(-min(len(source_mm[0]), len(target_mm[0])), 0)
    ]
    return sum(pairs) / len(pairs) if pairs else math.inf


def fitting_levels(
    source_mm: Spacings, target_mm: Spacings, worth_octaves: float = WORTH_OCTAVES
) -> Levels:
    """Which of the two fits better, and why.

    Args:
        source_mm: Of `feature_spacings_mm`.
        target_mm: The same of the target.
        worth_octaves: By how much a shift must bring feature maps closer.
    """
    top = octaves_apart(source_mm, target_mm, 0)
    # Half of the target's levels at least must be served.
    need = math.ceil(len(target_mm) / 2)
    shifts = [
        s for s in range(-len(target_mm), len(source_mm))
        if min(len(source_mm) - s, len(target_mm)) - max(0, -s) >= need
    ]  # fmt: skip
    best = min(shifts, key=lambda s: (octaves_apart(source_mm, target_mm, s), abs(s)), default=0)
    there = octaves_apart(source_mm, target_mm, best)
    if best == 0 or top - there <= worth_octaves:
        return Levels(0, (
            f"levels from the top: feature maps lie {top:.2f} octaves apart on average, and no "
            f"shift brings them more than {worth_octaves:g} closer"
        ))  # fmt: skip
    return Levels(best, (
        f"levels by spacing: with source level {max(best, 0)} for target level {max(-best, 0)} "
        f"feature maps lie {there:.2f} octaves apart on average, from the top {top:.2f}"
    ))  # fmt: skip


def choose_levels(
    mode: str, source: tuple[Mapping[str, Any], str], target: tuple[Mapping[str, Any], str]
) -> Levels:
    """By the user's word: "top", "spacing", or "auto" for the one that fits better.

    Networks that are not made of nnU-Net's stages match by name, whatever the word.

    Args:
        mode: That word. "spacing" shifts wherever it brings feature maps closer at all.
        source: Plans and configuration.
        target: The same.
    """
    if "n_stages" not in network_of_plans(*target):
        return Levels(0, "networks of one class: parameters by name")
    if mode == "top":
        return Levels(0, "levels from the top")
    least = WORTH_OCTAVES if mode == "auto" else 0.0
    return fitting_levels(feature_spacings_mm(*source), feature_spacings_mm(*target), least)


def advice(source: tuple[Mapping[str, Any], str], target: tuple[Mapping[str, Any], str]) -> str:
    """Which match fits, as the planner says it before there are weights, and what to type."""
    try:
        found = choose_levels("auto", source, target)
    except (PlanError, KeyError):  # a source from elsewhere whose file tells no spacing
        return "levels from the top: the source does not say its spacing"
    return found.why + (": give transfer --levels spacing" if found.shift else "")
