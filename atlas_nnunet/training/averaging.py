"""Average of the weights over the last iterations, and the pull towards the starting weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

EMA = "ema"


class Average:
    """Exponential moving average of weights (Polyak and Juditsky 1992; with the ramp of
    TensorFlow's ExponentialMovingAverage, so that the start does not linger).

    It lives in the optimizer's state, and so in nnU-Net's own checkpoints: a resumed training goes
    on averaging. A parameter that has never had a gradient has no average: it is its own.

    Args:
        optimizer: Of the training.
        decay: Share of the old average that stays, below 1.

    Attributes:
        n_updates: So far; a resumed training sets it.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self.optimizer, self.decay = optimizer, decay
        self.n_updates = 0

    def update(self) -> None:
        """Call after the optimizer's step."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        with torch.no_grad():
            for parameter, state in self._states():
                if EMA in state:
                    state[EMA].lerp_(parameter, 1 - decay)
                else:
                    state[EMA] = parameter.detach().clone()

    def skip(self) -> None:
        """Count an iteration without a step: a resumed training counts iterations, not steps."""
        self.n_updates += 1

    def put_in(self) -> None:
        """The average in the place of the weights, for good."""
        with torch.no_grad():
            for parameter, state in self._states():
                if EMA in state:
                    parameter.copy_(state[EMA])

    def _states(self) -> Iterable[tuple[nn.Parameter, dict]]:
        # AdamW fills an empty state only: what has not been stepped must stay empty.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if self.optimizer.state.get(parameter):
                    yield parameter, self.optimizer.state[parameter]


class Anchor:
    """L2-SP: weights are pulled to where the transfer put them (Li, Grandvalet and Davoine 2018,
    Explicit Inductive Bias for Transfer Learning, section 3); the optimizer's weight decay, which
    is theirs for the new layers, stays for all.

    Args:
        parameters: By name, those that came from the source.
        start: Their starting weights.
        strength: alpha, the factor of the squared distance over 2.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor], strength: float
    ) -> None:
        self.strength = strength
        self.pairs = [(p, start[name].to(p.device, p.dtype)) for name, p in parameters.items()]

    def add_gradients(self) -> None:
        """Call before the optimizer's step, after clipping. SGD's weight decay is added at the same
        place; AdamW scales this pull as it scales gradients, and its decay not."""
        with torch.no_grad():
            for parameter, start in self.pairs:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self.strength)
