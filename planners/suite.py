"""Patch and batch for a network of the suite: nnU-Net's search, where strides do not move."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.suite import NETWORKS, Network, of_class
from atlas_nnunet.plan.method import Method
from atlas_nnunet.plan.presets import PRESETS

AXES = 3
# Whose feature-map voxels per GB hold: memory of the suite is counted in PlainConvUNet's unit
# (networks/memory.py), whatever the preset plans natively.
COUNTED_AS = PRESETS["unet"]


@dataclass(frozen=True)
class Chosen:
    """A network of the suite that a plan is made for.

    Attributes:
        network: Its row.
        arch_kwargs: As the plan will say them.
        why: Who decided.
    """

    network: Network
    arch_kwargs: Mapping[str, Any]
    why: str

    @classmethod
    def by_name(cls, name: str) -> Chosen:
        network = NETWORKS[name]
        return cls(network, network.complete(), "--network was given; arguments as published")

    @classmethod
    def of_source(cls, class_name: str, arch_kwargs: Mapping[str, Any]) -> Chosen | None:
        """The source's own network, if it is one of the suite."""
        network = of_class(class_name)
        if network is None:
            return None
        return cls(network, network.complete(arch_kwargs), "class and arguments are the source's")

    @property
    def architecture(self) -> dict[str, Any]:
        return {
            "network_class_name": self.network.class_name,
            "arch_kwargs": dict(self.arch_kwargs),
            "_kw_requires_import": [],
        }

    def method(self, method: Method) -> Method:
        """A planner's numbers, with the budget of these networks for volumes."""
        budget = COUNTED_AS.reference_3d * method.memory_gb / COUNTED_AS.reference_gb
        allowed = budget * method.reference_batch[AXES] / 2  # nnU-Net's: at least two patches
        return replace(
            method, budget={**method.budget, AXES: budget},
            allowed={**method.allowed, AXES: allowed},
        )  # fmt: skip

    def patch(
        self, method: Method, spacing_mm: Sequence[float], shape_vox: Sequence[float],
        needs: Callable[[Sequence[int]], float],
    ) -> tuple[int, ...]:  # fmt: skip
        """nnU-Net's first patch, cut where it covers most of the image until it fits.

        Args:
            method: Of `method`.
            spacing_mm: Of the configuration.
            shape_vox: Its median image.
            needs: Patch -> feature-map voxels.

        Raises:
            PlanError: the smallest patch does not fit.
        """
        step = self.network.divisor(self.arch_kwargs)
        first = method.first_patch(spacing_mm, shape_vox)
        path = [widened([math.ceil(n / step) * step for n in first], shape_vox, step)]
        while smaller := cut(path[-1], shape_vox, step):
            path.append(smaller)
        # Less patch never needs more: so the first that fits is found by halves.
        found = bisect_left(path, True, key=lambda patch: needs(patch) <= method.allowed[AXES])
        if found == len(path):
            gb = needs(path[-1]) / method.allowed[AXES] * method.memory_gb
            raise PlanError(
                f"{self.network.name} needs about {gb:.2g} GB for its smallest patch "
                f"{' x '.join(map(str, path[-1]))}, {method.memory_gb:g} GB are to be filled",
                where="--network", do=f"give --memory-gb {gb * 1.01:.2g} or more",
            )  # fmt: skip
        return tuple(path[found])


def widened(patch: list[int], shape_vox: Sequence[float], step: int) -> list[int]:
    """At least two voxels in the coarsest feature map: norms over one refuse to train."""
    if any(n > step for n in patch):
        return patch
    longest = max(range(AXES), key=lambda axis: shape_vox[axis])
    return [n + step * (axis == longest) for axis, n in enumerate(patch)]


def cut(patch: Sequence[int], shape_vox: Sequence[float], step: int) -> list[int] | None:
    """One step less along the axis that covers most of the image; None where nothing is left."""
    candidates = [
        axis for axis in range(AXES)
        if patch[axis] > step and any(n > step for n in _less(patch, axis, step))
    ]  # fmt: skip
    if not candidates:
        return None
    return _less(patch, max(candidates, key=lambda axis: patch[axis] / shape_vox[axis]), step)


def _less(patch: Sequence[int], axis: int, step: int) -> list[int]:
    return [n - step * (own == axis) for own, n in enumerate(patch)]
