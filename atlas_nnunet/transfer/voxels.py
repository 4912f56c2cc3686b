"""Do source and target decide alike? For each structure, the voxels that each of them gives to it.

A head row may correlate perfectly with the source's and still lose every voxel to a neighbour, so
the comparison is of decisions: the largest logit for classes, a positive logit for regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_nnunet.structures import innermost, inside
from atlas_nnunet.transfer.heads import BACKGROUND, KEPT, Heads

# A larger share of voxels that are lost or added becomes a note. A choice of ours: rounding and the
# border of a structure stay below it.
TOLERATED = 0.05


@dataclass(frozen=True)
class VoxelAgreement:
    """One structure on one patch.

    Attributes:
        structure: Canonical name.
        n_source: Voxels that the source gives to it, as the target means it.
        n_both: Those of them that the target gives to it as well.
        n_target: All voxels that the target gives to it.
        agreement: n_both / n_source; None where the source gives it no voxel.
        lost_to: Class of the target that takes most of the lost voxels; None for regions, or if no
            voxel is lost.
    """

    structure: str
    n_source: int
    n_both: int
    n_target: int
    agreement: float | None
    lost_to: str | None = None

    @property
    def n_added(self) -> int:
        return self.n_target - self.n_both

    @property
    def differs(self) -> bool:
        """Whether more than TOLERATED of its voxels are lost or added."""
        lost = self.n_source - self.n_both
        return lost > TOLERATED * self.n_source or self.n_added > TOLERATED * self.n_target


def voxel_agreement(source: Tensor, target: Tensor, heads: Heads) -> list[VoxelAgreement]:
    """One entry for each structure whose row does not keep its initialisation.

    Args:
        source: (source rows, *vox), logits.
        target: (target rows, *vox), logits on the same grid.
        heads: Names of both.
    """
    largest = target.argmax(0)
    out = []
    for index, row in enumerate(heads.rows):
        if row.how == KEPT or row.name == BACKGROUND:
            continue
        called, unclear = source_calls(source, heads, row.name)
        given = largest == index if heads.target_is_softmax else target[index] > 0
        given = given & ~unclear
        lost_to = None
        if heads.target_is_softmax and (called & ~given).any():
            lost_to = heads.target[int(largest[called & ~given].mode().values)]
        n_source, n_both = int(called.sum()), int((called & given).sum())
        share = round(n_both / n_source, 4) if n_source else None
        out.append(VoxelAgreement(row.name, n_source, n_both, int(given.sum()), share, lost_to))
    return out


def source_calls(logits: Tensor, heads: Heads, name: str) -> tuple[Tensor, Tensor]:
    """Where the source says that a structure of the target is, and where it cannot say.

    A class of the target does not contain the classes inside it; a region does. A source of classes
    cannot say in which of several structures a class inside them lies (a tumour in either kidney).

    Args:
        logits: (source rows, *vox).
        heads: Names of both.
        name: A structure of the target that was joined.

    Returns:
        Two masks of shape (*vox).
    """
    origin, at = heads.origins[name], heads.source.index
    if heads.source_is_softmax:
        certain, unclear = _classes_of(heads, name)
        winner = logits.argmax(0)
        return _among(winner, [at(n) for n in certain]), _among(winner, [at(n) for n in unclear])
    called = (logits[[at(n) for n in origin.names]] > 0).any(0)
    for child, other in heads.origins.items():
        if heads.target_is_softmax and other.names and inside(child, name):
            called = called & ~(logits[[at(n) for n in other.names]] > 0).any(0)
    return called, torch.zeros_like(called)


def note_on(found: Sequence[VoxelAgreement], patch: str) -> list[str]:
    """One sentence on all structures whose voxels differ; none if there is no such structure."""
    differing = [_words(own) for own in found if own.differs]
    if not differing:
        return []
    return [
        f"decisions differ by more than {TOLERATED:.0%} on {patch}, for {len(differing)} of "
        f"{len(found)} joined structures: {'; '.join(differing)}"
    ]


def voxel_table(found: Sequence[VoxelAgreement]) -> list[tuple[str, ...]]:
    """(structure, voxels in the source, of these in the target, share, voxels only the target
    gives to it, class that takes the lost ones)."""
    return [
        (
            own.structure,
            f"{own.n_source:,}",
            f"{own.n_both:,}",
            "-" if own.agreement is None else f"{own.agreement:.1%}",
            f"{own.n_added:,}",
            own.lost_to or "",
        )
        for own in found
    ]


VOXEL_COLUMNS = (
    "structure",
    "voxels in the source",
    "of these in the target",
    "agreement",
    "target only",
    "lost to",
)


def _classes_of(heads: Heads, name: str) -> tuple[list[str], list[str]]:
    """Classes of the source that belong to a structure of the target, and those that may."""
    own = heads.origins[name].names
    elsewhere = {n for origin in heads.origins.values() for n in origin.names}
    certain, unclear = list(own), list[str]()
    for other in heads.source:
        if other in own or not any(inside(other, n) for n in (name, *own)):
            continue
        if heads.target_is_softmax and other in elsewhere:
            continue
        parents = {n for n in heads.source if inside(other, n)}
        sure = parents <= set(own) or innermost(other, heads.source) is not None
        (certain if sure else unclear).append(other)
    return certain, unclear


def _among(winner: Tensor, rows: Sequence[int]) -> Tensor:
    return torch.isin(winner, torch.tensor(list(rows), dtype=winner.dtype, device=winner.device))


def _words(own: VoxelAgreement) -> str:
    text = f"{own.structure} ({own.n_both:,} of the source's {own.n_source:,} voxels"
    text += f", most of the others go to {own.lost_to}" if own.lost_to else ""
    return text + f", {own.n_added:,} that are only the target's)"
