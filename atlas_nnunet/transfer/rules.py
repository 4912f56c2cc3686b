"""How each parameter of a target network starts: the rule table.

Read RULES from the top; the first rule that applies decides, and the last always applies. So
every target parameter gets exactly one decision, and the report (one row a parameter) can be
checked by eye.

Names are those of `network.named_parameters()`. Never use state-dict keys here: an nnU-Net
ResidualEncoderUNet lists 956 keys for 264 tensors (every encoder weight appears up to four times),
and a strict load keeps only the last alias written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atlas_nnunet.transfer.align import group_of

BACKGROUND = "background"


@dataclass(frozen=True)
class Heads:
    """Which head row of the source feeds which of the target, joined by structure name.

    Attributes:
        source: Names of the source's rows, canonical.
        target: Names of the target's rows, canonical.
    """

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    @property
    def source_is_softmax(self) -> bool:
        return BACKGROUND in self.source

    @property
    def target_is_softmax(self) -> bool:
        return BACKGROUND in self.target

    @property
    def shared(self) -> dict[int, int]:
        """Target row -> source row; background only where both have it."""
        rows = {name: row for row, name in enumerate(self.source)}
        return {row: rows[name] for row, name in enumerate(self.target) if name in rows}


@dataclass(frozen=True)
class Pair:
    """A target parameter and its namesake in the source, if there is one.

    Tensors may lie on torch's meta device: rules decide by name and shape alone.
    """

    name: str
    source: Tensor | None
    target: Tensor
    heads: Heads = field(default_factory=Heads)
    source_name: str | None = None

    @property
    def is_head(self) -> bool:
        return ".seg_layers." in self.name

    @property
    def is_upsampling(self) -> bool:
        return ".transpconvs." in self.name


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        name: For the report.
        kind: "copied" (bit by bit), "adapted", or "kept" (the target's own initialisation).
        applies: Whether the rule takes a pair.
        start: The starting weight.
        because: Why, and how exact it is.
    """

    name: str
    kind: str
    applies: Callable[[Pair], bool]
    start: Callable[[Pair], Tensor]
    because: str


@dataclass(frozen=True)
class Decision:
    """What happened to one target parameter: numbers count its elements."""

    parameter: str
    source: str | None
    rule: str
    group: str
    copied: int
    adapted: int
    kept: int
    because: str


def source_of(pair: Pair) -> Tensor:
    if pair.source is None:
        raise ValueError(f"{pair.name} has no namesake: its rule must not ask for one")
    return pair.source


def rows_fit(p: Pair) -> bool:
    """A head with the same input features as its namesake (kernels of heads are 1)."""
    return p.source is not None and p.is_head and p.source.shape[1:] == p.target.shape[1:]


def head_rows(p: Pair) -> Tensor:
    """Rows of shared structures from the source; the others keep their initialisation.

    Between softmax and sigmoid the decision is kept, not the probability: a structure's logit is
    its evidence against background. Softmax -> sigmoid subtracts the background row. Sigmoid ->
    softmax gives background the row zero; the largest logit then wins exactly where it is
    positive, that is where sigmoid said above one half.
    """
    source, out = source_of(p), p.target.clone()
    against: Tensor | float = 0.0
    if p.heads.source_is_softmax and not p.heads.target_is_softmax:
        against = source[p.heads.source.index(BACKGROUND)]
    for target_row, source_row in p.heads.shared.items():
        out[target_row] = source[source_row] - against
    if p.heads.target_is_softmax and not p.heads.source_is_softmax and p.heads.shared:
        out[p.heads.target.index(BACKGROUND)] = 0.0
    return out


def kernel_refits(p: Pair) -> bool:
    """The same channels, and along each axis the same size or a size of 1 on one side."""
    if p.source is None or p.source.ndim < 3 or p.source.ndim != p.target.ndim:
        return False
    if p.source.shape[:2] != p.target.shape[:2]:
        return False
    sizes = zip(p.source.shape[2:], p.target.shape[2:], strict=True)
    return all(have == want or 1 in (have, want) for have, want in sizes)


def refit_kernel(p: Pair) -> Tensor:
    """(out, in, *kernel) -> the target's kernel, axis by axis.

    A convolution: k -> 1 adds the taps, 1 -> k puts the tap in the centre of zeros. A strided
    up-convolution, where each output voxel sees one tap: k -> 1 averages, 1 -> k repeats.
    """
    weight = source_of(p)
    for axis in range(2, weight.ndim):
        have, want = weight.shape[axis], p.target.shape[axis]
        if have == want:
            continue
        if want == 1:
            weight = weight.sum(axis, keepdim=True)
            weight = weight / have if p.is_upsampling else weight
        elif p.is_upsampling:
            weight = weight.repeat_interleave(want, axis)
        else:
            grown = weight.new_zeros([*weight.shape[:axis], want, *weight.shape[axis + 1 :]])
            grown.narrow(axis, want // 2, 1).copy_(weight)
            weight = grown
    return weight


def inputs_refit(p: Pair) -> bool:
    """The first convolution, with another number of input channels, 1 on one side."""
    if p.source is None or p.source.ndim < 3 or group_of(p.name) != "encoder":
        return False
    same = p.source.shape[0] == p.target.shape[0] and p.source.shape[2:] == p.target.shape[2:]
    return same and p.source.shape[1] != p.target.shape[1] and 1 in (
        p.source.shape[1], p.target.shape[1],
    )  # fmt: skip


def refit_inputs(p: Pair) -> Tensor:
    """1 -> n channels: an n-th for each; n -> 1: the sum. Alike where channels are equal."""
    weight, wanted = source_of(p), p.target.shape[1]
    if wanted == 1:
        return weight.sum(1, keepdim=True)
    return weight.expand(-1, wanted, *weight.shape[2:]) / wanted


# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("head_rows", "copied", rows_fit, head_rows,
         "classes are joined by name; must precede same_shape, for two 33-class heads need not "
         "mean the same 33 classes"),
    Rule("head_kept", "kept", lambda p: p.is_head, lambda p: p.target,
         "no head of the source on this level, or another number of features"),
    Rule("same_shape", "copied",
         lambda p: p.source is not None and p.source.shape == p.target.shape, source_of,
         "nothing to adapt"),
    Rule("refit_kernel", "adapted", kernel_refits, refit_kernel,
         "grown: exact; shrunk: exact where the input is constant along the axis"),
    Rule("refit_inputs", "adapted", inputs_refit, refit_inputs,
         "exact where the channels are equal"),
    Rule("keep_init", "kept", lambda p: True, lambda p: p.target,
         "no namesake, or no shape we know how to adapt"),
)
# fmt: on


def rule_for(pair: Pair) -> Rule:
    return next(rule for rule in RULES if rule.applies(pair))


def decide(pair: Pair) -> Decision:
    """Which rule takes a parameter, and how many of its elements come from the source."""
    rule, total = rule_for(pair), pair.target.numel()
    count = {"copied": 0, "adapted": 0, "kept": 0}
    if rule.name == "head_rows":
        rows = len(pair.heads.target)
        each = total // rows if rows else 0
        crossed = pair.heads.source_is_softmax != pair.heads.target_is_softmax
        count["adapted" if crossed else "copied"] = each * len(pair.heads.shared)
        if crossed and pair.heads.target_is_softmax and pair.heads.shared:
            count["adapted"] += each
        count["kept"] = total - count["copied"] - count["adapted"]
    else:
        count[rule.kind] = total
    source = pair.source_name if rule.kind != "kept" else None
    group = group_of(pair.name)
    return Decision(pair.name, source, rule.name, group, **count, because=rule.because)


def pairs_of(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    places: Mapping[str, str | None],
    heads: Heads,
) -> list[Pair]:
    """One pair for each target parameter, in the target's order."""
    return [
        Pair(name, source[own] if (own := places[name]) else None, tensor, heads, own)
        for name, tensor in target.items()
    ]


def transfer(pairs: Iterable[Pair]) -> tuple[dict[str, Tensor], list[Decision]]:
    """Starting weights for a target network, and why each is what it is."""
    weights: dict[str, Tensor] = {}
    decisions: list[Decision] = []
    with torch.no_grad():
        for pair in pairs:
            weights[pair.name] = rule_for(pair).start(pair).detach().clone()
            decisions.append(decide(pair))
    return weights, decisions


def canonical_heads(
    source: Sequence[str], target: Sequence[str], names: Mapping[str, str]
) -> Heads:
    """Heads under canonical names; `names` maps what is known by a synonym."""
    return Heads(tuple(names.get(n, n) for n in source), tuple(names.get(n, n) for n in target))
