"""The receipt of a transfer: one row a parameter, totals, heads, and what differs unasked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.transfer.align import is_residual
from atlas_nnunet.transfer.checkpoints import Source
from atlas_nnunet.transfer.forward import ForwardCheck
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.intensities import Affine, compare, scheme
from atlas_nnunet.transfer.levels import Levels
from atlas_nnunet.transfer.rules import Decision
from atlas_nnunet.transfer.shares import Shares
from atlas_nnunet.transfer.voxels import TOLERATED, note_on

SCHEMA = 3
NAMED = 3  # examples of a rule in a refusal

PLAN = "plan the target with -pl AtlasTransferPlanner --from CHECKPOINT --mode"
ALIGNED = f"{PLAN} aligned, which takes the source's widths, blocks and network class"
# What left most parameters without the source -> what to do; any other rule: ALIGNED.
WHAT_SERVES = {
    "new_part": "no plan gives what the source does not have",
    "new_level": f"{PLAN} inherit, which takes the source's spacing, patch and strides, and so its "
    "levels",
}


def refuse_below(
    floor: float, decisions: Sequence[Decision], where: str, parts: Collection[str] = GROUPS
) -> None:
    """ "0 % loaded" must not look like success.

    Args:
        floor: Share.
        decisions: One for each parameter of the target.
        where: The source's file.
        parts: Those that were asked for.

    Raises:
        TransferError: less of encoder and decoder comes from the source than `floor`, or neither
            of them was asked for.
    """
    if not set(parts) & {"encoder", "decoder"}:
        raise TransferError(
            "a head alone is no transfer", where="--parts",
            do="name encoder or decoder as well",
        )  # fmt: skip
    decisions = [d for d in decisions if d.group in parts]
    got = Shares.of(decisions).body_from_source
    if got >= floor:
        return
    kept: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    for d in decisions:
        lost = d.kept if d.claim else d.kept + d.copied + d.adapted
        if lost and d.group != "head":
            kept[d.rule] += lost
            names.setdefault(d.rule, []).append(d.parameter)
    failed = "; ".join(
        f"{rule}: {len(names[rule])} parameters of {size:,} elements, {names[rule][:NAMED]}"
        for rule, size in kept.most_common()
    )
    most = kept.most_common(1)[0][0] if kept else ""
    raise TransferError(
        f"only {got:.1%} of encoder and decoder come from the source, below the floor of "
        f"{floor:.0%}; at their start, or adapted without a claim: {failed}",
        where=where,
        do=f"{WHAT_SERVES.get(most, ALIGNED)}; or lower --floor",
    )


def normalisation(
    source: Source, plans: Mapping[str, Any], configuration: str, folds: Sequence[Affine] = ()
) -> dict[str, Any]:
    """How source and target scale intensities, and what was done about it."""
    sides = scheme(source.plans, source.configuration), scheme(plans, configuration)
    return compare(*sides, folds)


def unused(names: Iterable[str], decisions: Sequence[Decision]) -> list[str]:
    """Parameters of the source that nothing of the target started from."""
    used = {d.source for d in decisions}
    return [name for name in names if name not in used]


def notes(
    source: Source, decisions: Sequence[Decision], plans: Mapping[str, Any],
    spec: NetworkSpec | None = None,
) -> list[str]:  # fmt: skip
    """What a reader should know beyond the rows."""
    out = []
    kinds = [is_residual(list(source.parameters)), is_residual([d.parameter for d in decisions])]
    if kinds[0] != kinds[1]:
        out.append(
            "the source's encoder is {}, the target's {}: the first convolution and two "
            "convolutions of each stage below the first carry over, the decoder by level; see the "
            "forward check".format(*("residual" if kind else "plain" for kind in kinds))
        )
    if spec and spec.channels != source.spec.channels:
        out.append(
            f"input channels {list(source.spec.channels)} became {list(spec.channels)}: by "
            "number, not by name"
        )
    orders = [own.get("transpose_forward") for own in (source.plans, plans)]
    if None not in orders and orders[0] != orders[1]:
        out.append(
            f"axes are ordered {orders[0]} in the source and {orders[1]} in the target: kernels "
            "carry over by position, not by direction in the body"
        )
    without = sum(not d.claim for d in decisions)
    if without:
        out.append(f"{without} parameters were adapted by a rule that makes no claim")
    return out


def receipt(
    source: Source, decisions: Sequence[Decision], heads: Heads, plans: Mapping[str, Any],
    configuration: str, key: str, *, spec: NetworkSpec | None = None, levels: Levels | None = None,
    folds: Sequence[Affine] = (), patch: str = "", forward: ForwardCheck | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Content of transfer_report.json; fractions are of the target's parameters.

    Args:
        source: The pre-trained network.
        decisions: One for each parameter of the target.
        heads: The rows of both heads, and how each of the target's starts.
        plans: The target's.
        configuration: The target's.
        key: Of everything that decided the weights.
        spec: The target's network.
        levels: How they were matched.
        folds: What of the normalisation was folded.
        patch: What the forward check looked at.
        forward: What it found.
    """
    shares = Shares.of(decisions)
    seen = forward or ForwardCheck(())
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
            "format": source.format,
            "left_out": dict(Counter(source.dropped.values())),
            "not_in_the_file": dict(Counter(source.absent.values())),
        },
        "target": {
            "dataset": plans["dataset_name"],
            "plans": plans["plans_name"],
            "configuration": configuration,
        },
        "shares": shares.fractions(),
        "groups": {group: shares.fractions(group) for group in GROUPS},
        "counts": shares.counts,
        "heads": {row.name: heads.sources(row) for row in heads.rows},
        "head_rows": [
            {"name": row.name, "how": row.how, "from": heads.sources(row), "claim": row.claim}
            for row in heads.rows
        ],
        "levels": asdict(levels or Levels(0, "levels from the top")),
        "normalisation": normalisation(source, plans, configuration, folds),
        "forward": {"patch": patch, "tolerated": TOLERATED, **seen.as_json()},
        "notes": [*notes(source, decisions, plans, spec), *note_on(seen.voxels, patch)],
        "unused": unused(source.parameters, decisions),
        "unclaimed": shares.unclaimed,
        "rows": [asdict(decision) for decision in decisions],
    }
