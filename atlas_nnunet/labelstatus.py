"""Label status: what is known about a structure in a case, and how a loss should weigh it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What a zero or a one in a structure's mask is worth."""

    ANNOTATED = "annotated"  # drawn or reviewed by a person
    PSEUDO = "pseudo"  # predicted by a model: counts by its confidence weight
    UNLABELLED = "unlabelled"  # nothing is known: 0 is not background
    ABSENT = "absent"  # known not to be there (a removed gall bladder): 0 is true


WEIGHT = {Status.ANNOTATED: 1.0, Status.UNLABELLED: 0.0, Status.ABSENT: 1.0}  # PSEUDO: the card's


def weight_of(status: str, pseudo_weight: float) -> float:
    """How much a structure of this status counts in a loss, in [0, 1]."""
    return WEIGHT.get(Status(status), pseudo_weight)


def case_weights(
    conversion: Mapping[str, Any], case: str, structures: Sequence[str]
) -> list[float]:
    """The weight of each structure in one case, in the order of `structures`.

    Args:
        conversion: Content of conversion.json; `cases[case].status` holds what differs from
            "annotated", `pseudo_weight` what a pseudo-label is worth.
        case: nnU-Net's case identifier.

    Raises:
        KeyError: conversion.json does not know the case.
    """
    status = conversion["cases"][case]["status"]
    pseudo = float(conversion["pseudo_weight"])
    return [weight_of(status.get(name, Status.ANNOTATED.value), pseudo) for name in structures]
