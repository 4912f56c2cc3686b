"""A checkpoint taken apart: the weights, what lies beside them, and why that is left."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlas_nnunet.errors import TransferError

KEY_TABLE_HINT = "give a key table: atlas-nnunet transfer --help shows one"

# Entries under which programs keep a state dict. More than one in a file is for the user to decide.
WRAPPERS = ("network_weights", "state_dict", "model_state_dict", "net", "model", "student")
# What wraps a whole network: DistributedDataParallel, torch.compile, Lightning, and a network that
# is one part of a trainer's module. Stripped while every key has it.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.")
# Entries beside the weights that hold tensors and are known not to be weights.
BESIDE = {
    r"optim": "state of the optimizer",
    r"sched": "state of the learning rate's schedule",
    r"scaler": "state of mixed precision",
    r"^(logging|plot_stuff|best_stuff|_best_ema)$": "the training's log",
    r"^spark_weights$": "SparK's second copy of the weights, with its mask tokens",
    r"^(teacher)$": "the teacher: a running mean of the student, which is read",
}
ENTRY = "an entry beside the weights, no part of the network"


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
        weights: State dict, prefixes gone.
        entries: The rest of the file, by name.
        dropped: Entries and keys that are no weights -> why.
    """

    weights: Mapping[str, Tensor]
    entries: Mapping[str, Any]
    dropped: Mapping[str, str]

    @property
    def names(self) -> frozenset[str]:
        """Names of the entries, and `a.b` for what lies in a mapping."""
        inner = (f"{a}.{b}" for a, v in self.entries.items() if isinstance(v, Mapping) for b in v)
        return frozenset(self.entries) | frozenset(inner)


def take_apart(
    stored: Any, where: str, *, wrapper: str | None = None, prefixes: Sequence[str] = ()
) -> Stored:
    """Find the state dict of a loaded file.

    Args:
        stored: As unpickled.
        where: The file.
        wrapper: The entry that holds the weights, where the user says so.
        prefixes: Stripped before the usual ones, from the keys that have them.

    Raises:
        TransferError: there is no state dict, or there are two, or tensors lie where no row of
            BESIDE expects them.
    """
    state, entries = _state_dict(stored, where, wrapper)
    dropped = {name: _reason(name, value, where) for name, value in entries.items()}
    weights = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    dropped |= {str(k): "no tensor" for k, v in state.items() if not isinstance(v, Tensor)}
    # nnU-Net's own entry may be empty: what is missing is told later, parameter by parameter.
    if not weights:
        raise TransferError(
            f"weights are missing: none of {', '.join(WRAPPERS)} holds a tensor", where=where,
            do="give the checkpoint_final.pth of a fold, or say in a key table where they are",
        )  # fmt: skip
    for prefix in prefixes:
        weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    return Stored(stripped(weights), entries, dropped)


def stripped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes that all of them have."""
    own = dict(weights)
    while True:
        shared = [p for p in PREFIXES if all(key.startswith(p) for key in own)]
        if not shared:
            return own
        own = {key.removeprefix(shared[0]): value for key, value in own.items()}


def _state_dict(
    stored: Any, where: str, wrapper: str | None
) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    if not isinstance(stored, Mapping):
        raise TransferError(
            f"weights are missing: the file holds one {type(stored).__name__}", where=where,
            do="save the network's state dict, not one tensor or a list",
        )  # fmt: skip
    candidates = [w for w in WRAPPERS if isinstance(stored.get(w), Mapping)]
    if wrapper is not None:
        if not isinstance(stored.get(wrapper), Mapping):
            raise TransferError(
                f'no state dict under "{wrapper}"; the file has {sorted(map(str, stored))[:12]}',
                where=where, do='mend "weights" in the key table',
            )  # fmt: skip
        candidates = [wrapper]
    if len(candidates) > 1:
        raise TransferError(
            f"two state dicts in one file: {candidates}", where=where,
            do=f'say which with "weights" in a key table: {KEY_TABLE_HINT}',
        )  # fmt: skip
    if not candidates:
        return stored, {}
    own = candidates[0]
    return stored[own], {str(k): v for k, v in stored.items() if k != own}


def _reason(name: str, value: Any, where: str) -> str:
    for pattern, reason in BESIDE.items():
        if re.search(pattern, name):
            return reason
    if holds_tensor(value):
        raise TransferError(
            f'unknown tensors beside the weights, under "{name}"', where=where,
            do=f'say with "weights" in a key table which entry is the network: {KEY_TABLE_HINT}',
        )  # fmt: skip
    return ENTRY


def holds_tensor(value: Any) -> bool:
    """Whether a tensor lies anywhere in nested containers."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping):
        return any(holds_tensor(v) for v in value.values())
    return isinstance(value, list | tuple) and any(holds_tensor(v) for v in value)
