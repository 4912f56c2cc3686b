"""Head rows, joined by what structures are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from atlas_nnunet.errors import TransferError
from atlas_nnunet.structures import canonical, side_of

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
    def crossed(self) -> bool:
        """Softmax on one side, sigmoid on the other."""
        return self.source_is_softmax != self.target_is_softmax

    @property
    def shared(self) -> dict[int, int]:
        """Target row -> source row; background only where both have it."""
        rows = {name: row for row, name in enumerate(self.source)}
        return {row: rows[name] for row, name in enumerate(self.target) if name in rows}

    @property
    def n_started(self) -> int:
        """Rows of the target that do not keep their initialisation."""
        settled = self.crossed and self.target_is_softmax and bool(self.shared)
        return len(self.shared) + settled


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
                where="names of heads", do="mend the name in dataset.json, or the synonym",
            )  # fmt: skip
    heads = Heads(tuple(names.get(n, n) for n in source), tuple(names.get(n, n) for n in target))
    twice = sorted({n for n in heads.source if heads.source.count(n) > 1} & set(heads.target))
    if twice:
        own = [n for n, known in zip(source, heads.source, strict=True) if known in twice]
        raise TransferError(
            f"the source's heads {own} have one canonical name each for several rows: {twice}",
            where="names of heads", do="rename those that do not mean it in its dataset.json",
        )  # fmt: skip
    return heads


def join_rows(source: Tensor, target: Tensor, heads: Heads) -> Tensor:
    """Rows of shared structures from the source; the others keep their initialisation.

    Between softmax and sigmoid the decision is kept, not the probability: a structure's logit is
    its evidence against background. Softmax -> sigmoid subtracts the background row. Sigmoid ->
    softmax gives background the row zero; the largest logit then wins exactly where it is
    positive, that is where sigmoid said above one half.
    """
    out = target.clone()
    against: Tensor | float = 0.0
    if heads.source_is_softmax and not heads.target_is_softmax:
        against = source[heads.source.index(BACKGROUND)]
    for target_row, source_row in heads.shared.items():
        out[target_row] = source[source_row] - against
    if heads.target_is_softmax and not heads.source_is_softmax and heads.shared:
        out[heads.target.index(BACKGROUND)] = 0.0
    return out
