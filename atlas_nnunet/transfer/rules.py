"""How each parameter of a target network starts: the rule table.

Read RULES from the top; the first rule that applies decides, and the last always applies. A rule
that adapts mends one thing (kernel, width, ...), and the table is read again with what it made,
until a rule copies or keeps. So every target parameter gets exactly one decision, which names all
rules on its way, and the report (one row a parameter) can be checked by eye.
docs/decisions/0016-rules.md has each rule's law.

Names are those of `network.named_parameters()`. Never use state-dict keys here: an nnU-Net
ResidualEncoderUNet lists 956 keys for 264 tensors (every encoder weight appears up to four times),
and a strict load keeps only the last alias written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atlas_nnunet.networks.parts import group_of
from atlas_nnunet.transfer import kernels, widths
from atlas_nnunet.transfer.heads import COPIED, JOINED, join_rows
from atlas_nnunet.transfer.intensities import fold_bias, fold_weight
from atlas_nnunet.transfer.pair import Pair, source_of


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        name: For the report.
        kind: "copied" (bit by bit), "adapted" (the table is read again), or "kept" (the target's
            own start).
        applies: Whether the rule takes a pair.
        start: The weight it makes.
        because: Why, and how exact it is.
        claim: Whether it keeps anything of the source's function; the floor counts only those.
    """

    name: str
    kind: str
    applies: Callable[[Pair], bool]
    start: Callable[[Pair], Tensor]
    because: str
    claim: bool = True


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
    claim: bool = True


def rows_fit(p: Pair) -> bool:
    """A head with the same input features as its namesake (kernels of heads are 1)."""
    return p.source is not None and p.is_head and p.source.shape[1:] == p.target.shape[1:]


def axes_differ(p: Pair) -> bool:
    return p.is_known and min(source_of(p).ndim, p.target.ndim) > 2 and (
        abs(source_of(p).ndim - p.target.ndim) == 1
    )  # fmt: skip


def kernel_differs(p: Pair) -> bool:
    """The same number of axes, and another size along one; strides follow the kernel's in an
    up-convolution."""
    s = p.source
    return p.is_known and s is not None and s.ndim == p.target.ndim > 2 and (
        s.shape[2:] != p.target.shape[2:]
    )  # fmt: skip


def refit_kernel(p: Pair) -> Tensor:
    """Axis by axis: kernels.refit_conv, or kernels.refit_upconv."""
    weight = source_of(p)
    refit = kernels.refit_upconv if p.is_upsampling else kernels.refit_conv
    for axis in range(2, weight.ndim):
        if weight.shape[axis] != p.target.shape[axis]:
            weight = refit(weight, axis, p.target.shape[axis])
    return weight


def images_differ(p: Pair) -> bool:
    s = p.source
    return s is not None and p.is_first and s.ndim > 2 and s.shape[1] != p.target.shape[1]


def folds_left(p: Pair) -> bool:
    return p.source is not None and bool(p.folds) and p.is_first


def fold(p: Pair) -> Tensor:
    if p.companion is not None:
        return fold_bias(source_of(p), p.companion, p.folds)
    return fold_weight(source_of(p), p.folds)


def grows(p: Pair) -> bool:
    return p.is_known and any(have < want for _, _, have, want in p.channels())


def shrinks(p: Pair) -> bool:
    return p.is_known and any(have > want for _, _, have, want in p.channels())


def resize(p: Pair, *, growing: bool) -> Tensor:
    """All channel axes that grow, or all that shrink (widths.py)."""
    weight, parts = source_of(p), p.n_concatenated
    for side, axis, have, want in p.channels():
        if have == want or (have < want) != growing:
            continue
        if side == "in":
            weight = widths.resize_inputs(weight, axis, want, parts)
        else:
            weight = widths.resize_outputs(weight, axis, want)
    return weight


def same(p: Pair) -> bool:
    return p.source is not None and p.source.shape == p.target.shape


def own(p: Pair) -> Tensor:
    return p.target


def zeros(p: Pair) -> Tensor:
    return torch.zeros_like(p.target)


# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("head_rows", "copied", rows_fit, lambda p: join_rows(source_of(p), p.target, p.heads),
         "rows are joined by the names of structures, each with its own claim (head_rows in the "
         "report); must precede same_shape, for two 33-class heads need not mean the same classes"),
    Rule("unasked", "kept", lambda p: p.missing == "unasked", own,
         "--parts leaves it out"),
    Rule("new_block", "kept", lambda p: p.missing == "block_end", zeros,
         "a block the source lacks starts as the identity, but for one more LeakyReLU"),
    Rule("new_block_inside", "kept", lambda p: p.missing == "block", own,
         "inside a block the source lacks, which its last norm holds at the identity"),
    Rule("silent_skip", "kept", lambda p: p.missing == "skip" and ".norm." in p.name, zeros,
         "the source is plain: with its skip path at zero the block computes what that stage did"),
    Rule("new_conv", "kept", lambda p: p.missing == "conv", own,
         "a stage of the source has fewer convolutions, and one more cannot start as the identity: "
         "norm and LeakyReLU follow it"),
    Rule("new_part", "kept", lambda p: p.missing == "part", own,
         "the source has no encoder, no decoder or no head"),
    Rule("new_level", "kept", lambda p: p.missing == "level", own,
         "the source has no such level"),
    Rule("plain_to_residual", "adapted", lambda p: p.across and ".blocks." in p.name, source_of,
         "a stage's first two convolutions become its first block: the same function, where that "
         "block has a convolution on its skip path to silence"),
    Rule("residual_to_plain", "adapted", lambda p: p.across, source_of,
         "the first block's two convolutions without its skip path", claim=False),
    Rule("other_axes", "adapted", axes_differ,
         lambda p: kernels.refit_axes(source_of(p), p.target.ndim, upsampling=p.is_upsampling),
         "to 3-D: each slice alone, exact; to 2-D: exact where all slices are alike"),
    Rule("refit_kernel", "adapted", kernel_differs, refit_kernel,
         "grown: exact; shrunk: exact where the input is constant along the axis; up-convolutions "
         "keep the mean of what comes from a voxel"),
    Rule("refit_inputs", "adapted", images_differ,
         lambda p: kernels.refit_images(source_of(p), p.target.shape[1]),
         "exact where the image channels are equal"),
    Rule("fold_normalisation", "adapted", folds_left, fold,
         "exact inside both clip windows and off the zero padding"),
    Rule("wider", "adapted", grows, lambda p: resize(p, growing=True),
         "copies of channels, read in parts that add up: exact"),
    Rule("narrower", "adapted", shrinks, lambda p: resize(p, growing=False),
         "the first channels of each level", claim=False),
    Rule("same_shape", "copied", same, source_of,
         "nothing to adapt"),
    Rule("keep_init", "kept", lambda p: True, own,
         "no namesake, or no shape we know how to adapt"),
)
# fmt: on


def rule_for(pair: Pair) -> Rule:
    return next(rule for rule in RULES if rule.applies(pair))


def follow(pair: Pair) -> tuple[Tensor, tuple[Rule, ...]]:
    """The starting weight, and the rules that led to it; the last of them copies or keeps."""
    path: list[Rule] = []
    while True:
        rule = rule_for(pair)
        if rule in path:
            raise RuntimeError(f"rule {rule.name} did not mend {pair.name}")
        weight = rule.start(pair)
        if rule.kind == "kept":
            return weight, (rule,)
        path.append(rule)
        if rule.kind == "copied":
            return weight, tuple(path)
        pair = replace(pair, source=weight, across=False)
        if rule.name == "fold_normalisation":
            pair = replace(pair, folds=())


def decide(pair: Pair) -> Decision:
    """Which rules take a parameter, and how many of its elements come from the source."""
    return _decision(pair, follow(pair)[1])


def _decision(pair: Pair, path: Sequence[Rule]) -> Decision:
    *before, last = path
    total = pair.target.numel()
    if last.name == "head_rows":
        size = total // max(1, len(pair.heads.target))
        how = Counter(row.how for row in pair.heads.rows)
        count = {"copied": size * how[COPIED], "adapted": size * how[JOINED]}
    else:
        count = {"copied": total if last.kind == "copied" else 0, "adapted": 0}
    if before:  # nothing that was adapted on the way is copied bit by bit
        count = {"copied": 0, "adapted": sum(count.values())}
    started = sum(count.values())
    count["kept"] = total - started
    # That what was adapted is copied in the end goes without saying, unless rows were joined.
    said = before if before and last.name == "same_shape" else path
    return Decision(
        pair.name, pair.source_name if last.kind != "kept" else None,
        " + ".join(rule.name for rule in said), group_of(pair.name), **count,
        because="; ".join(rule.because + ("" if rule.claim else ": no claim") for rule in said),
        claim=all(rule.claim for rule in said),
    )  # fmt: skip


def transfer(pairs: Iterable[Pair]) -> tuple[dict[str, Tensor], list[Decision]]:
    """Starting weights for a target network, and why each is what it is."""
    weights: dict[str, Tensor] = {}
    decisions: list[Decision] = []
    with torch.no_grad():
        for pair in pairs:
            weight, path = follow(pair)
            weights[pair.name] = weight.detach().clone()
            decisions.append(_decision(pair, path))
    return weights, decisions
