"""Head rows: which rows of the source start each row of the target, and what that preserves.

A row of a head is linear in the last features, so a target row is a weighted sum of source rows.
Rows are joined by the names of structures, by the vocabulary's parents and unions, and by what the
two heads mean: regions (sigmoid; a tumour voxel is also a liver voxel) or classes (softmax; a
tumour voxel is not a liver voxel). docs/decisions/0024-head-rows.md has the laws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from atlas_nnunet.errors import TransferError
from atlas_nnunet.structures import PARENTS, canonical, innermost, inside, parts_last, side_of
from atlas_nnunet.transfer.origins import SAME, UNION, Origin, origin_of

BACKGROUND = "background"
COPIED, JOINED, KEPT = "copied", "joined", "kept"
# A class with several parents that are not nested in one another (a tumour in either kidney) has no
# exact row. Its own row times this factor wins where its logit exceeds this fraction of the
# parent's. A larger factor loses fewer voxels, and multiplies the gradient that reaches the
# features through the row: 8 is our compromise, not a published value.
SEVERAL_PARENTS = 8.0

Terms = Mapping[int, float]


@dataclass(frozen=True)
class HeadRow:
    """How one row of the target's head starts.

    Attributes:
        name: Canonical structure, or background.
        how: COPIED (bit by bit), JOINED (a weighted sum of source rows), or KEPT (initialised).
        terms: (row of the source, weight); the target's row is the sum. Empty and JOINED: zero.
        claim: What this preserves of the source's decision, or why nothing was joined.
    """

    name: str
    how: str
    terms: tuple[tuple[int, float], ...]
    claim: str


@dataclass(frozen=True)
class Heads:
    """The rows of both heads, by canonical name.

    Attributes:
        source: Names of the source's rows.
        target: Names of the target's rows.
    """

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    @property
    def source_is_softmax(self) -> bool:
        return BACKGROUND in self.source

    @property
    def target_is_softmax(self) -> bool:
        return BACKGROUND in self.target

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Structure of the target -> where it is in the source; background is not a structure."""
        names = [name for name in self.target if name != BACKGROUND]
        taken = set(names) if self.target_is_softmax else set()
        return {name: origin_of(name, self.source, taken) for name in names}

    @cached_property
    def rows(self) -> tuple[HeadRow, ...]:
        """One for each row of the target, in its order."""
        build = {
            (False, True): _regions_to_classes,
            (True, False): _classes_to_regions,
        }.get((self.source_is_softmax, self.target_is_softmax), _alike)
        found = {name: origin for name, origin in self.origins.items() if origin.names}
        rows = build(self, found)
        for name, origin in self.origins.items():
            rows.setdefault(name, HeadRow(name, KEPT, (), origin.claim))
        if self.target_is_softmax:
            unknown = HeadRow(BACKGROUND, KEPT, (), "no row of the source was joined")
            rows.setdefault(BACKGROUND, unknown)
        return tuple(rows[name] for name in self.target)

    def sources(self, row: HeadRow) -> str | None:
        """The source's part of a row in words; None where it has none."""
        signed = [
            (" - " if w < 0 else " + ") + (f"{abs(w):.3g} " if abs(w) != 1 else "") + self.source[i]
            for i, w in row.terms
        ]
        return "".join(signed).removeprefix(" + ") or None


def canonical_heads(
    source: Sequence[str], target: Sequence[str], names: Mapping[str, str]
) -> Heads:
    """Heads under canonical names; `names` maps what is known by a synonym.

    Raises:
        TransferError: a synonym would swap sides, or two rows of the source could serve one of the
            target.
    """
    for name, known in names.items():
        if {side_of(canonical(name)), side_of(known)} == {"left", "right"}:
            raise TransferError(
                f"{name!r} would be taken for {known!r}: sides are never swapped",
                where="names of heads",
                do="correct the name in dataset.json, or the synonym",
            )
    heads = Heads(tuple(names.get(n, n) for n in source), tuple(names.get(n, n) for n in target))
    used = {heads.source[i] for row in heads.rows for i, _ in row.terms}
    twice = sorted(n for n, count in Counter(heads.source).items() if count > 1 and n in used)
    if twice:
        own = [n for n, known in zip(source, heads.source, strict=True) if known in twice]
        raise TransferError(
            f"the source's heads {own} have one canonical name each for several rows: {twice}",
            where="names of heads",
            do="rename those that do not mean it in its dataset.json",
        )
    return heads


def join_rows(source: Tensor, target: Tensor, heads: Heads) -> Tensor:
    """The target's head as `heads.rows` describes it.

    Args:
        source: (source rows, ...), weight or bias of the source's head.
        target: (target rows, ...), with its initialisation, which KEPT rows retain.
        heads: Names of both.
    """
    out = target.clone()
    for index, row in enumerate(heads.rows):
        if row.how == COPIED:
            out[index] = source[row.terms[0][0]]
        elif row.how == JOINED:
            out[index] = combine(source, row)
    return out


def heads_table(heads: Heads) -> str:
    """Plain text: how each row of the target starts; copied rows on one line."""
    copied = [row.name for row in heads.rows if row.how == COPIED]
    fresh = [f"  {row.name}: initialised ({row.claim})" for row in heads.rows if row.how == KEPT]
    joined = [
        f"  {row.name}: {heads.sources(row) or '0'} ({row.claim})"
        for row in heads.rows
        if row.how == JOINED
    ]
    return "\n".join([f"head rows copied: {', '.join(copied) or 'none'}", *joined, *fresh])


def combine(source: Tensor, row: HeadRow) -> Tensor:
    """The weighted sum of a row's terms: of head rows, or of logits (source rows, ...)."""
    out = torch.zeros_like(source[0])
    for index, weight in row.terms:
        out = out + weight * source[index]
    return out


def _alike(heads: Heads, found: Mapping[str, Origin]) -> dict[str, HeadRow]:
    """Classes to classes, or regions to regions."""
    out = {name: _row(name, origin, _mean(heads, origin), "") for name, origin in found.items()}
    if heads.source_is_softmax and heads.target_is_softmax:
        same = Origin((BACKGROUND,), SAME, "")
        out[BACKGROUND] = _row(BACKGROUND, same, _mean(heads, same), "")
    return out


def _regions_to_classes(heads: Heads, found: Mapping[str, Origin]) -> dict[str, HeadRow]:
    """Background is zero. A class that lies inside another one of the target, whose region contains
    it in the source, adds the other's row: it wins there exactly where its own logit is positive.
    """
    built: dict[str, dict[int, float]] = {}
    out = {}
    for name in parts_last(found):
        origin, terms = found[name], _mean(heads, found[name])
        parents = [other for other in found if inside(name, other)]
        parent = innermost(name, found)
        if not parents:
            claim = "against a background of zero: wins where its logit is positive and the largest"
        elif parent and _nested(origin, found[parent]):
            terms = _sum(terms, built[parent])
            claim = (
                f"plus the row of {parent}: where {parent} is positive it wins over {parent} "
                "exactly where its own logit is positive; elsewhere the sum decides"
            )
        else:
            terms = {row: weight * SEVERAL_PARENTS for row, weight in terms.items()}
            claim = (
                f"inside {' or '.join(parents)}, for which no exact row exists: times "
                f"{SEVERAL_PARENTS:g}, so it wins where its logit is above 1/{SEVERAL_PARENTS:g} "
                "of theirs, and only where it is positive"
            )
        built[name] = terms
        out[name] = _row(name, origin, terms, claim, exact=False)
    if out:
        out[BACKGROUND] = HeadRow(BACKGROUND, JOINED, (), "zero: a class wins over it by its sign")
    return out


def _classes_to_regions(heads: Heads, found: Mapping[str, Origin]) -> dict[str, HeadRow]:
    """A class's row minus the mean of its rivals': background, and the classes it lies in."""
    out = {}
    for name, origin in found.items():
        around = {p for own in origin.names for p in PARENTS.get(own, ()) if p in heads.source}
        rivals = [n for n in heads.source if n == BACKGROUND or n in around]
        against = {heads.source.index(n): -1 / len(rivals) for n in rivals}
        claim = f"minus {'the mean of ' * (len(rivals) > 1)}{', '.join(rivals)}: "
        if around:
            claim += "positive wherever the source's class wins, and where it exceeds that mean"
        else:
            claim += "positive exactly where it exceeds background; no class inside it is added"
        terms = _sum(_mean(heads, origin), against)
        out[name] = _row(name, origin, terms, claim, exact=False)
    return out


def _nested(child: Origin, parent: Origin) -> bool:
    """Whether the source's own regions are nested as the target's classes are."""
    if UNION in (child.relation, parent.relation):
        return False
    own, other = child.names[0], parent.names[0]
    return own == other or inside(own, other)


def _row(name: str, origin: Origin, terms: Terms, claim: str, *, exact: bool = True) -> HeadRow:
    """Copied bit by bit only where one row of the same name keeps its meaning."""
    copied = exact and origin.relation == SAME
    words = [part for part in (origin.claim, claim) if part] or ["the row of the same name"]
    return HeadRow(name, COPIED if copied else JOINED, tuple(terms.items()), "; ".join(words))


def _mean(heads: Heads, origin: Origin) -> dict[int, float]:
    return {heads.source.index(name): 1 / len(origin.names) for name in origin.names}


def _sum(*parts: Terms) -> dict[int, float]:
    keys: Iterable[int] = dict.fromkeys(key for part in parts for key in part)
    return {key: sum(part.get(key, 0.0) for part in parts) for key in keys}
