"""The receipt of a transfer: one row a parameter, totals, heads, and what differs unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import resolve_configuration
from atlas_nnunet.transfer.align import GROUPS
from atlas_nnunet.transfer.checkpoints import Source
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.rules import Decision
from atlas_nnunet.transfer.shares import Shares

SCHEMA = 1


def refuse_below(floor: float, decisions: Sequence[Decision], where: str) -> None:
    """ "0 % loaded" must not look like success.

    Raises:
        TransferError: less of encoder and decoder comes from the source than `floor`.
    """
    got = Shares.of(decisions).body_from_source
    if got >= floor:
        return
    first = [d.parameter for d in decisions if d.kept and d.group != "head"][:3]
    raise TransferError(
        f"only {got:.1%} of encoder and decoder come from the source, below the floor of "
        f"{floor:.0%}; among those that do not: {first}",
        where=where,
        do="plan the target with -pl AtlasTransferPlanner --from CHECKPOINT, so that shapes agree",
    )


def normalisation(source: Source, plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """How source and target scale intensities: declared, not corrected."""
    key = "foreground_intensity_properties_per_channel"
    sides = {
        name: {
            "schemes": resolve_configuration(own, config)["normalization_schemes"],
            "intensities": own.get(key),
        }
        for name, own, config in (
            ("source", source.plans, source.configuration),
            ("target", plans, configuration),
        )
    }
    return {**sides, "identical": sides["source"] == sides["target"]}


def receipt(
    source: Source, decisions: Sequence[Decision], heads: Heads, plans: Mapping[str, Any],
    configuration: str, key: str,
) -> dict[str, Any]:  # fmt: skip
    """Content of transfer_report.json; fractions are of the target's parameters."""
    shares = Shares.of(decisions)
    return {
        "schema": SCHEMA,
        "key": key,
        "source": {
            "sha256": source.sha256,
            "dataset": source.plans.get("dataset_name"),
            "plans": source.plans.get("plans_name"),
            "configuration": source.configuration,
            "trainer": source.trainer,
            "class": source.spec.class_name,
        },
        "target": {
            "dataset": plans["dataset_name"],
            "plans": plans["plans_name"],
            "configuration": configuration,
        },
        "shares": shares.fractions(),
        "groups": {group: shares.fractions(group) for group in GROUPS},
        "counts": shares.counts,
        "heads": {
            name: heads.source[heads.shared[row]] if row in heads.shared else None
            for row, name in enumerate(heads.target)
        },
        "normalisation": normalisation(source, plans, configuration),
        "rows": [asdict(decision) for decision in decisions],
    }
