"""Every key of a file is a parameter, dropped for a reason, or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.sources.stored import KEY_TABLE_HINT

FIRST = 5  # how many of many are named in a message


@dataclass(frozen=True)
class Named:
    """Tensors under the network's own names, and keys that were left out on purpose.

    Attributes:
        tensors: Parameter name -> tensor.
        keys: Parameter name -> its key in the file.
        dropped: Key in the file -> why.
    """

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str]
    dropped: Mapping[str, str]


def renamed(
    weights: Mapping[str, Tensor], rename: Mapping[str, str], drop: Mapping[str, str], where: str
) -> Named:
    """Sort keys by a format's patterns.

    Args:
        weights: The file's state dict, prefixes gone.
        rename: Pattern -> replacement (re.sub), each applied in order.
        drop: Pattern (re.search) -> reason; asked before any renaming.
        where: The file.

    Raises:
        TransferError: two keys become one parameter.
    """
    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, tensor in weights.items():
        reason = next((why for pattern, why in drop.items() if re.search(pattern, key)), None)
        if reason is not None:
            dropped[key] = reason
            continue
        name = key
        for pattern, replacement in rename.items():
            name = re.sub(pattern, replacement, name)
        if name in tensors:
            raise TransferError(
                f"two keys are one parameter: {keys[name]} and {key} -> {name}", where=where,
                do=KEY_TABLE_HINT,
            )  # fmt: skip
        tensors[name], keys[name] = tensor, key
    return Named(tensors, keys, dropped)


def account(
    named: Named, shapes: Mapping[str, tuple[int, ...]], absent: Mapping[str, str], where: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters in the network's order, and those that such a file does not have.

    Args:
        named: The file's tensors.
        shapes: Of all parameters of the network.
        absent: Pattern -> why a file need not have these parameters: all of them or none.
        where: The file.

    Returns:
        Parameters by name; parameter that is not in the file -> why.

    Raises:
        TransferError: a key that nothing explains, a parameter that is missing, another shape.
    """
    unknown = [key for name, key in named.keys.items() if name not in shapes]
    if unknown:
        raise TransferError(
            f"{len(unknown)} unknown key(s), first: {unknown[:FIRST]}", where=where,
            do=f"it may be another network than it seems, or have a part more; {KEY_TABLE_HINT}",
        )  # fmt: skip
    without: dict[str, str] = {}
    for pattern, reason in absent.items():
        group = [name for name in shapes if re.search(pattern, name)]
        if group and not any(name in named.tensors for name in group):
            without |= dict.fromkeys(group, reason)
    missing = [name for name in shapes if name not in named.tensors and name not in without]
    if missing:
        raise TransferError(
            f"{len(missing)} parameters are missing, first: {missing[:FIRST]}", where=where,
            do="the file is incomplete, or the plan inside is not the one it was trained by; "
            "where a part is left out on purpose, say so in a key table (absent)",
        )  # fmt: skip
    wrong = [
        f"{named.keys[name]} {tuple(tensor.shape)}, not {shapes[name]}"
        for name, tensor in named.tensors.items() if tuple(tensor.shape) != shapes[name]
    ]  # fmt: skip
    if wrong:
        raise TransferError(
            f"{len(wrong)} parameters have another shape, first: {wrong[:FIRST]}", where=where,
            do="the plan inside is not the one it was trained by, or widths differ within the file",
        )  # fmt: skip
    return {name: named.tensors[name] for name in shapes if name in named.tensors}, without
