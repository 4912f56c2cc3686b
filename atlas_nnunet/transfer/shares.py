"""How much of a target network comes from a source, before and after it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.transfer.align import matches
from atlas_nnunet.transfer.heads import canonical_heads
from atlas_nnunet.transfer.pair import pairs_of
from atlas_nnunet.transfer.rules import Decision, decide

KINDS = ("copied", "adapted", "kept")


@dataclass(frozen=True)
class Shares:
    """Elements of the target's parameters.

    Attributes:
        counts: By group and kind: counts[group][kind].
        unclaimed: By group, those from the source by a rule that keeps nothing of its function.
    """

    counts: Mapping[str, Mapping[str, int]]
    unclaimed: Mapping[str, int]

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Shares:
        counts = {group: dict.fromkeys(KINDS, 0) for group in GROUPS}
        unclaimed = dict.fromkeys(GROUPS, 0)
        for decision in decisions:
            for kind in KINDS:
                counts[decision.group][kind] += getattr(decision, kind)
            if not decision.claim:
                unclaimed[decision.group] += decision.copied + decision.adapted
        return cls(counts, unclaimed)

    def fractions(self, *groups: str) -> dict[str, float]:
        """Share of each kind in some groups, or in the whole network; sums to 1."""
        chosen = groups or GROUPS
        total = sum(self.counts[g][k] for g in chosen for k in KINDS)
        return {k: sum(self.counts[g][k] for g in chosen) / max(total, 1) for k in KINDS}

    @property
    def body_from_source(self) -> float:
        """Share of encoder and decoder that is copied, or adapted by a rule with a claim."""
        body = ("encoder", "decoder")
        total = sum(self.counts[group][kind] for group in body for kind in KINDS)
        without = sum(self.unclaimed[group] for group in body) / max(total, 1)
        return 1 - self.fractions(*body)["kept"] - without

    def table(self) -> str:
        """Plain text, one row a group."""
        rows = [f"{'':8}{'parameters':>12}{'loaded':>9}{'adapted':>9}{'at start':>10}"]
        for name, own in (*((g, (g,)) for g in GROUPS), ("all", ())):
            total = sum(self.counts[g][k] for g in (own or GROUPS) for k in KINDS)
            part = self.fractions(*own)
            rows.append(f"{name:8}{total:>12,}" + "".join(
                f"{part[k]:>{w}.1%}" for k, w in zip(KINDS, (9, 9, 10), strict=True)))  # fmt: skip
        if any(self.unclaimed.values()):
            rows.append(
                f"of these adapted without a claim, and not counted for the floor: "
                f"{sum(self.unclaimed.values()):,}"
            )
        return "\n".join(rows)


def forecast(
    source: NetworkSpec, target: NetworkSpec, names: Mapping[str, str], shift: int = 0
) -> Shares:
    """What a transfer will carry over, from shapes alone: no weights, no memory.

    Args:
        source: The pre-trained network.
        target: The planned one.
        names: Head name -> canonical structure.
        shift: Of levels (levels.py).
    """
    old, new = (dict(spec.build_empty().named_parameters()) for spec in (source, target))
    old = {name: tensor for name, tensor in old.items() if name not in source.absent}
    found = matches(list(old), source.n_stages, list(new), target.n_stages, shift)
    heads = canonical_heads(source.heads, target.heads, names)
    return Shares.of([decide(pair) for pair in pairs_of(old, new, found, heads)])
