"""Where a structure of the target is found among the source's: by name, by parts, by relation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from atlas_nnunet.structures import inside, parts_of, related_lesions, side_of

SAME, UNION, LESION = "same name", "union", "related lesion"
MEAN_OF_PARTS = (
    "no exact row exists. The mean of their rows is never above the largest of them, so no voxel "
    "is added that the source gives to none of them; voxels where the other rows are more negative "
    "than one is positive are lost"
)


@dataclass(frozen=True)
class Origin:
    """Where a structure of the target is found in the source.

    Attributes:
        names: Structures of the source; empty if there is none.
        relation: SAME, UNION or LESION; empty if there is none.
        claim: What follows from the relation, or why there is none.
    """

    names: tuple[str, ...]
    relation: str
    claim: str


def origin_of(name: str, source: Sequence[str], taken: Collection[str]) -> Origin:
    """Same name, else all parts of it, else a related lesion.

    A lesion that is a class of the target itself (`taken`) does not start another class as well:
    the two would compete for its voxels.
    """
    if name in source:
        return Origin((name,), SAME, "")
    parts = parts_of(name, source)
    if parts:
        return Origin(parts, UNION, f"union of {', '.join(parts)}: {MEAN_OF_PARTS}")
    related = next((o for o in related_lesions(name) if o in source and o not in taken), None)
    if related:
        which = "contains" if inside(name, related) else "is a part of"
        claim = f"starts from {related}, which {which} {name}: related, not the same structure"
        return Origin((related,), LESION, claim)
    return Origin((), "", _why_not(name, source))


def _why_not(name: str, source: Sequence[str]) -> str:
    side = side_of(name)
    whole = name.replace(f"_{side}", "") if side else None
    if whole in source:
        return f"the source has {whole}, which does not say where {side} is"
    some = [part for part in (f"{name}_left", f"{name}_right") if part in source]
    if some:
        return f"the source has only {some[0]}, a part of it"
    return "no structure of this name in the source"
