"""A network's parameters in groups by part and layer, and the rate of each in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from atlas_nnunet.schedule import Phase, phase_at

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Place = Callable[[str], tuple[str, int]]


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], place: Place
) -> list[dict[str, Any]]:
    """What an optimizer is made with: one group for each part and distance.

    Args:
        named: Of the network, without wrappers.
        place: Name -> (part, distance from the network's output in layers).

    Returns:
        By distance, the head first: it trains in every phase, and nnU-Net logs and draws the first
        group's rate. Each has "part" and "distance".
    """
    groups: dict[tuple[str, int], list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault(place(name), []).append(parameter)
    return [
        {"part": part, "distance": distance, "params": groups[part, distance]}
        for part, distance in sorted(groups, key=lambda place: place[::-1])
    ]


class PhaseScheduler:
    """nnU-Net's scheduler interface, `step(epoch)`, for phases.

    Args:
        optimizer: With groups of `parameter_groups`.
        phases: In order.
    """

    def __init__(self, optimizer: Optimizer, phases: Sequence[Phase]) -> None:
        self.optimizer, self.phases = optimizer, tuple(phases)

    def step(self, epoch: int) -> None:
        """Set every group's rate for an epoch; a group that does not train has the rate 0."""
        phase, within = phase_at(self.phases, epoch)
        for group in self.optimizer.param_groups:
            group["trains"] = group["part"] in phase.trains
            group["lr"] = phase.rate(within, group["part"], group["distance"])

    def drop_frozen_gradients(self) -> None:
        """Call between backward and the optimizer's step: what has no gradient is not touched.

        Not `requires_grad`, which would save a tenth of the epochs half their time: a network
        under DistributedDataParallel must not change it, and waits for ever if one does.
        """
        for group in self.optimizer.param_groups:
            if not group["trains"]:
                for parameter in group["params"]:
                    parameter.grad = None
