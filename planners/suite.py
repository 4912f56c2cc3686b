"""A network that is not nnU-Net's own in a plan, and its patch where strides do not move."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import (
    get_pool_and_conv_props,
)

from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.suite import NETWORKS, Network, of_class
from atlas_nnunet.plan.method import Method
from atlas_nnunet.plan.presets import PRESETS
from atlas_nnunet.planners.held import PLAIN

UNBOUNDED = 999999  # the host's: poolings along an axis
VOLUMES = 3  # axes of the configurations that these networks are for
# Whose feature-map voxels per GB hold: memory of these networks is counted in PlainConvUNet's unit
# (networks/memory.py), whatever the preset plans natively.
COUNTED_AS = PRESETS["unet"]
NUMBERS = {
    **PLAIN,
    "UNet_reference_val_corresp_GB": COUNTED_AS.reference_gb,
    "UNet_reference_val_3d": COUNTED_AS.reference_3d,
}


@dataclass(frozen=True)
class Chosen:
    """A network of the table that a plan is made for.

    Attributes:
        network: Its row.
        arguments: Its own; strides are `architecture`'s to say.
        why: Who decided.
    """

    network: Network
    arguments: Mapping[str, Any]
    why: str

    @classmethod
    def by_name(cls, name: str) -> Chosen:
        network = NETWORKS[name]
        return cls(network, network.published, "--network was given; arguments as published")

    @classmethod
    def of_source(cls, class_name: str, arch_kwargs: Mapping[str, Any]) -> Chosen | None:
        """The source's own network, if it stands in the table."""
        network = of_class(class_name)
        if network is None:
            return None
        return cls(network, arch_kwargs, "class and arguments are the source's")

    def architecture(self, planned: Sequence[Sequence[int]]) -> dict[str, Any]:
        """As a plan has it; `planned`: strides by nnU-Net's method, for whoever follows them."""
        return {
            "network_class_name": self.network.class_name,
            "arch_kwargs": self.network.complete(self.arguments, planned),
            "_kw_requires_import": [],
        }

    def followed(
        self, configurations: Mapping[str, Mapping[str, Any]], method: Method
    ) -> dict[str, list[list[int]]]:
        """Configuration -> strides of nnU-Net's own network for its patch, where this one follows
        them (end of the search in `get_plans_for_configuration`, host 2.8.1)."""
        if not self.network.follows:
            return {}
        least = method.min_edge_vox
        return {
            name: get_pool_and_conv_props(c["spacing"], c["patch_size"], least, UNBOUNDED)[1]
            for name, c in configurations.items()
        }

    def patch(
        self, method: Method, spacing_mm: Sequence[float], shape_vox: Sequence[float],
        needs: Callable[[Sequence[int]], float],
    ) -> tuple[int, ...]:  # fmt: skip
        """nnU-Net's first patch, cut where it covers most of the image until it fits.

        Args:
            method: The planner's.
            spacing_mm: Of the configuration.
            shape_vox: Its median image.
            needs: Patch -> feature-map voxels.

        Raises:
            PlanError: the smallest patch does not fit.
        """
        step = self.network.divisor(self.arguments)
        first = method.first_patch(spacing_mm, shape_vox)
        path = [widened([math.ceil(n / step) * step for n in first], shape_vox, step)]
        while smaller := cut(path[-1], shape_vox, step):
            path.append(smaller)
        # Less patch never needs more: so the first that fits is found by halves.
        found = bisect_left(path, True, key=lambda patch: needs(patch) <= method.allowed[VOLUMES])
        if found == len(path):
            gb = needs(path[-1]) / method.allowed[VOLUMES] * method.memory_gb
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
    longest = max(range(VOLUMES), key=lambda axis: shape_vox[axis])
    return [n + step * (axis == longest) for axis, n in enumerate(patch)]


def cut(patch: Sequence[int], shape_vox: Sequence[float], step: int) -> list[int] | None:
    """One step less along the axis that covers most of the image; None where nothing is left."""
    candidates = [
        axis for axis in range(VOLUMES)
        if patch[axis] > step and any(n > step for n in _less(patch, axis, step))
    ]  # fmt: skip
    if not candidates:
        return None
    return _less(patch, max(candidates, key=lambda axis: patch[axis] / shape_vox[axis]), step)


def _less(patch: Sequence[int], axis: int, step: int) -> list[int]:
    return [n - step * (own == axis) for own, n in enumerate(patch)]
