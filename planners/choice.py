"""One pre-training plan for several targets: candidates, what each would serve, and the best.

All by shapes: networks are built without memory, nothing is trained and nothing is written.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import network_spec
from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.plan.modes import DEFAULT, MODES
from atlas_nnunet.planners.pretrain import AtlasPretrainPlanner
from atlas_nnunet.planners.sources import PlannedSource
from atlas_nnunet.planners.transfer import AtlasTransferPlanner
from atlas_nnunet.structures import canonical
from atlas_nnunet.transfer.shares import Shares, forecast

CONFIGURATION = "3d_fullres"
COLUMNS = (*GROUPS, "all")
Table = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Candidate:
    """A pre-training plan, and what it would serve. Adapted counts as served.

    Attributes:
        names: Whose spacing it has: the pre-training set's own first, else targets.
        spacing_mm: Spacing in the reader's order of axes (z, y, x); None for the set's own.
        source: The network it would give.
        shares: (target, mode) -> column -> "served" and, of that, "loaded" unchanged; 0 to 1.
    """

    names: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None
    source: PlannedSource
    shares: Table

    @property
    def merit(self) -> tuple[float, float]:
        """Mean and least share of the targets that is served in the default mode.

        Rounded as it is printed: what looks equal is equal, and then the set's own spacing stays.
        """
        served = [own["all"]["served"] for (_, mode), own in self.shares.items() if mode == DEFAULT]
        return round(sum(served) / len(served), 3), round(min(served), 3)

    @property
    def told(self) -> str:
        spacing = " x ".join(f"{mm:.3g}" for mm in self.source.geometry["spacing"])
        return f"at the spacing of {', '.join(self.names)} ({spacing} mm)"


@dataclass(frozen=True)
class Choice:
    """All candidates, in the order they were made: own first, then the targets'."""

    targets: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The first of those with the greatest merit."""
        return max(self.candidates, key=lambda c: c.merit)  # max keeps the first of equals

    @property
    def sentence(self) -> str:
        """Why this one."""
        mean, least = self.best.merit
        equals = sum(c.merit == self.best.merit for c in self.candidates)
        why = "more than any other does"
        if len(self.candidates) == 1:
            why = "there was no other to compare: the candidates coincide"
        elif equals > 1:
            why = f"{equals} of {len(self.candidates)} candidates equal it, the first is taken"
        return (
            f"chosen: the plan {self.best.told}; in mode {DEFAULT} it serves {mean:.1%} of a "
            f"target's parameters on average and {least:.1%} at least: {why}"
        )

    def table(self) -> str:
        """Plain text: the chosen plan by target and mode, then all candidates."""
        width = max(map(len, self.targets))
        head = f"{'target':{width}} {'mode':8}" + "".join(f"{c:>9}" for c in COLUMNS)
        rows = ["share of the target's parameters that the plan will serve", f"{head} unchanged"]
        for (target, mode), columns in self.best.shares.items():
            cells = "".join(f"{columns[c]['served']:>9.1%}" for c in COLUMNS)
            rows.append(f"{target:{width}} {mode:8}{cells}{columns['all']['loaded']:>10.1%}")
        rows.append(f"candidates (mean and least share served in mode {DEFAULT}):")
        rows += [
            f"  {' '.join(f'{m:.1%}' for m in c.merit)}  {c.told}"
            f"{'  <- chosen' if c is self.best else ''}"
            for c in self.candidates
        ]
        return "\n".join([*rows, self.sentence])

    def as_json(self) -> dict[str, Any]:
        shares = {
            target: {
                mode: {name: round(columns[name]["served"], 4) for name in COLUMNS}
                for (own, mode), columns in self.best.shares.items()
                if own == target
            }
            for target in self.targets
        }
        return {
            "targets": list(self.targets), "spacing_of": list(self.best.names),
            "why": self.sentence, "served": shares,
        }  # fmt: skip


def check_inputs(targets: Sequence[str]) -> None:
    """A target needs its dataset.json and its fingerprint, no image.

    Raises:
        PlanError: some have none; all of them are named.
    """
    raw = [name for name in targets if not (Dataset(name).raw / "dataset.json").is_file()]
    if raw:
        raise PlanError(
            "no dataset.json", where=", ".join(str(Dataset(name).raw) for name in raw),
            do="atlas-nnunet convert, or put nnU-Net's raw data set there",
        )  # fmt: skip
    missing = [name for name in targets if not Dataset(name).fingerprint.is_file()]
    if missing:
        raise PlanError(
            "no fingerprint", where=", ".join(str(Dataset(n).fingerprint) for n in missing),
            do=f"atlas-nnunet fingerprint {' '.join(missing)}",
        )  # fmt: skip


def by_reader_axis(plans: Mapping[str, Any]) -> tuple[float, ...]:
    """Spacing of 3d_fullres in the reader's order of axes: transposition undone."""
    spacing = plans["configurations"][CONFIGURATION]["spacing"]
    return tuple(float(spacing[axis]) for axis in plans["transpose_backward"])


def fractions(shares: Shares) -> dict[str, dict[str, float]]:
    """Column -> served, and loaded unchanged."""
    found = {}
    for column in COLUMNS:
        part = shares.fractions(*(() if column == "all" else (column,)))
        found[column] = {"served": 1 - part["kept"], "loaded": part["copied"]}
    return found


def serve(
    source: PlannedSource, target: AtlasTransferPlanner, native: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mode -> column -> shares, for one target.

    Args:
        source: A candidate.
        target: The target's planner.
        native: Its own plan, which no candidate changes.
    """
    found = {}
    for mode in MODES.values():
        plans = native
        if mode.network:
            held = copy.copy(target)  # making one lists all images
            held.take(source, mode.name)
            plans = held.plan_fullres()
        spec = network_spec(plans, CONFIGURATION, target.dataset_json)
        names = {name: canonical(name) for name in (*source.spec.heads, *spec.heads)}
        found[mode.name] = fractions(forecast(source.spec, spec, names))
    return found


def choose(planner: AtlasPretrainPlanner, targets: Sequence[str]) -> Choice:
    """Compare plans of a pre-training set: at its own spacing, and at each target's.

    Each is nnU-Net's method at one spacing and the planner's memory target; depth, strides and
    kernels follow from it. Where a spacing was given, it is the only one.

    Raises:
        PlanError: a target has no fingerprint, or flat images.
    """
    check_inputs(targets)
    plans = planner.plan_fullres()
    source = PlannedSource.of(plans, CONFIGURATION, planner.dataset_json)
    own = {
        name: AtlasTransferPlanner(
            name, source=source, mode="native", preset=planner.preset_name,
            memory_target_gb=planner.UNet_vram_target_GB,
        )
        for name in targets
    }  # fmt: skip
    native = {name: target.plan_fullres() for name, target in own.items()}
    wishes: dict[tuple[float, ...], list[str]] = {}
    wishes[by_reader_axis(plans)] = [planner.dataset_name]
    for name in targets if planner.overwrite_target_spacing is None else ():
        wishes.setdefault(by_reader_axis(native[name]), []).append(name)
    candidates = []
    for number, (spacing, names) in enumerate(wishes.items()):
        if number:
            other = copy.copy(planner)
            other.overwrite_target_spacing = list(spacing)
            plans = other.plan_fullres()
            source = PlannedSource.of(plans, CONFIGURATION, planner.dataset_json)
        shares = {
            (name, mode): columns
            for name, target in own.items()
            for mode, columns in serve(source, target, native[name]).items()
        }
        candidates.append(Candidate(tuple(names), spacing if number else None, source, shares))
    return Choice(tuple(targets), tuple(candidates))
