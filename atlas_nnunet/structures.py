"""The vocabulary of anatomy: canonical names, synonyms, sides, and what lies inside what.

Canonical names are AbdomenAtlas' own for its 25 organs and 7 tumour types, and TotalSegmentator's
(v2, in lower case) for all else, so that a structure has one name whatever a data set calls it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

# combined_labels.nii.gz of AbdomenAtlas 1.1: value i + 1 is the i-th name (SuPreM README).
ABDOMENATLAS_ORGANS = (
    "aorta", "gall_bladder", "kidney_left", "kidney_right", "liver", "pancreas", "postcava",
    "spleen", "stomach", "adrenal_gland_left", "adrenal_gland_right", "bladder", "celiac_trunk",
    "colon", "duodenum", "esophagus", "femur_left", "femur_right", "hepatic_vessel", "intestine",
    "lung_left", "lung_right", "portal_vein_and_splenic_vein", "prostate", "rectum",
)  # fmt: skip

# ORGAN_NAME_LOW[25:32] of SuPreM's direct_inference/utils/utils.py:74.
ABDOMENATLAS_TUMORS = (
    "kidney_tumor", "liver_tumor", "pancreas_tumor", "hepatic_vessel_tumor", "lung_tumor",
    "colon_tumor", "kidney_cyst",
)  # fmt: skip

# Another name -> the canonical one. Normalised as `canonical` does. `_lesion` is not listed: a
# lesion may be a cyst, so `kidney_lesion` is a structure of its own until a card says otherwise.
# Nor is the spinal canal: it is wider than the cord in it.
SYNONYMS = {
    "gallbladder": "gall_bladder",
    "inferior_vena_cava": "postcava",
    "ivc": "postcava",
    "urinary_bladder": "bladder",
    "small_bowel": "intestine",
    "small_intestine": "intestine",
    "celiac_truck": "celiac_trunk",  # AbdomenAtlas 1.0, a misspelling of its own
    "celiac_artery": "celiac_trunk",  # PanTS
    "celiac_axis": "celiac_trunk",
    "oesophagus": "esophagus",
    "hip_bone_left": "hip_left",
    "hip_bone_right": "hip_right",
    "portal_and_splenic_vein": "portal_vein_and_splenic_vein",
    "portal_vein_and_splenic": "portal_vein_and_splenic_vein",
    "hepatic_vessels": "hepatic_vessel",
    "liver_cancer": "liver_tumor",
    "liver_tumour": "liver_tumor",
    "kidney_tumour": "kidney_tumor",
    "kidney_cancer": "kidney_tumor",
    "pancreas_cancer": "pancreas_tumor",
    "pancreatic_cancer": "pancreas_tumor",
    "pancreatic_tumor": "pancreas_tumor",
    "pancreatic_lesion": "pancreas_lesion",
    "pancreatic_cyst": "pancreas_cyst",
    "pancreatic_pdac": "pancreas_pdac",
    "pancreatic_pnet": "pancreas_pnet",
    "pancreas_tumour": "pancreas_tumor",
    "hepatic_tumor": "liver_tumor",
    "hepatic_tumour": "liver_tumor",
    "hepatic_lesion": "liver_lesion",
    "hepatic_cyst": "liver_cyst",
    "renal_tumor": "kidney_tumor",
    "renal_tumour": "kidney_tumor",
    "renal_lesion": "kidney_lesion",
    "renal_cyst": "kidney_cyst",
    "pancreatic_tumour": "pancreas_tumor",
    "colon_tumour": "colon_tumor",
    "lung_tumour": "lung_tumor",
    "colon_cancer": "colon_tumor",
    "colon_cancer_primaries": "colon_tumor",
    "lung_cancer": "lung_tumor",
    "prostate_uterus": "prostate",  # AbdomenAtlas' "prostate" is either (RadGPT, combine_labels)
    "brain_stem": "brainstem",
}

LIVER = tuple(f"liver_segment_{i}" for i in range(1, 9))
PANCREAS = ("pancreas_head", "pancreas_body", "pancreas_tail")
KIDNEYS = ("kidney_left", "kidney_right", "kidney")
LOBES_LEFT = ("lung_upper_lobe_left", "lung_lower_lobe_left")
LOBES_RIGHT = ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")
LUNGS = ("lung_left", "lung_right", "lung", *LOBES_LEFT, *LOBES_RIGHT)

# Structure -> what it may lie inside of. A tumour is part of its organ; voxels may be both.
PARENTS = {
    "hepatic_vessel": ("liver",),
    "hepatic_vessel_lesion": ("hepatic_vessel", "liver"),
    "hepatic_vessel_tumor": ("hepatic_vessel", "liver", "hepatic_vessel_lesion"),
    **dict.fromkeys(LIVER, ("liver",)),
    "liver_lesion": ("liver", *LIVER),
    "liver_tumor": ("liver", *LIVER, "liver_lesion"),
    "liver_cyst": ("liver", *LIVER, "liver_lesion"),
    "kidney_lesion": KIDNEYS,
    "kidney_tumor": (*KIDNEYS, "kidney_lesion"),
    "kidney_cyst": (*KIDNEYS, "kidney_lesion"),
    "kidney_cyst_left": ("kidney_left", "kidney"),
    "kidney_cyst_right": ("kidney_right", "kidney"),
    "pancreas_head": ("pancreas",),
    "pancreas_body": ("pancreas",),
    "pancreas_tail": ("pancreas",),
    "pancreas_lesion": ("pancreas", *PANCREAS),
    "pancreas_tumor": ("pancreas", *PANCREAS, "pancreas_lesion"),
    "pancreas_cyst": ("pancreas", *PANCREAS, "pancreas_lesion"),
    "pancreas_pdac": ("pancreas", *PANCREAS, "pancreas_lesion", "pancreas_tumor"),
    "pancreas_pnet": ("pancreas", *PANCREAS, "pancreas_lesion", "pancreas_tumor"),
    "lung_lesion": LUNGS,
    "lung_tumor": (*LUNGS, "lung_lesion"),
    # Not the intestine, here the small bowel, nor the rectum: the labels are of colon primaries
    # (MSD task 10). A tumour that runs on into the rectum keeps its voxels, and they are counted.
    "colon_lesion": ("colon",),
    "colon_tumor": ("colon", "colon_lesion"),
    "esophagus_tumor": ("esophagus",),
}  # fmt: skip

# Whole -> its parts, which share no voxel and together fill it. Besides these, any `x` is the union
# of `x_left` and `x_right`.
UNIONS = {
    "liver": LIVER,
    "pancreas": PANCREAS,
    "lung_left": LOBES_LEFT,
    "lung_right": LOBES_RIGHT,
}

_LESION = re.compile(r"_(lesion|tumor|cyst|pdac|pnet)$")
_SIDED = re.compile(r"(?:^|_)(left|right)(?:_|$)")


def canonical(name: str) -> str:
    """The canonical name of a structure; the normalised name itself where no synonym is known.

    Case, spaces and hyphens do not matter. A side in front moves behind (`right_kidney` ->
    `kidney_right`, `left_rib_1` -> `rib_left_1`) and is never changed.
    """
    plain = re.sub(r"[\s\-]+", "_", name.strip().lower())
    if plain in SYNONYMS:
        return SYNONYMS[plain]
    fronted = re.fullmatch(r"(left|right)_(.+?)(_\d+)?", plain)
    if fronted:
        side, rest, number = fronted.groups()
        plain = f"{canonical(rest)}_{side}{number or ''}"
    return SYNONYMS.get(plain, plain)


def side_of(name: str) -> str | None:
    """ "left", "right", or None for a structure that is not one of a pair."""
    found = _SIDED.search(name)
    return found.group(1) if found else None


def overlaps(structures: Sequence[str], extra: Iterable[Sequence[str]] = ()) -> set[frozenset[str]]:
    """Pairs of structures that may share voxels.

    Args:
        structures: Canonical names.
        extra: Further pairs, as a card declares them; "*", on either side, stands for every
            other structure.
    """
    pairs = {frozenset((child, parent)) for child, own in PARENTS.items() for parent in own}
    for pair in extra:
        one, other = sorted(pair, key="*".__eq__)  # the wildcard, if any, last
        others = structures if other == "*" else (other,)
        pairs |= {frozenset((one, name)) for name in others if name != one}
    return {frozenset(p) for p in combinations(structures, 2) if frozenset(p) in pairs}


def parts_last(structures: Iterable[str]) -> tuple[str, ...]:
    """Structures in the same order, but each after all in which it may lie."""
    left, out = list(structures), []
    while left:
        ready = next(s for s in left if not any(p in left for p in PARENTS.get(s, ())))
        left.remove(ready)
        out.append(ready)
    return tuple(out)


def inside(child: str, parent: str) -> bool:
    """Whether the vocabulary says that voxels of `child` may also be voxels of `parent`."""
    return parent in PARENTS.get(child, ())


def innermost(child: str, structures: Iterable[str]) -> str | None:
    """The structure in which `child` lies most closely: inside all others of its parents.

    None where no parent is among `structures`, or where two of them are not nested in one another
    (the left and the right kidney for a kidney tumour).
    """
    parents = [name for name in structures if inside(child, name)]
    nested = (p for p in parents if all(p == q or inside(p, q) for q in parents))
    return next(nested, None)


def parts_of(whole: str, available: Collection[str]) -> tuple[str, ...]:
    """Disjoint structures whose union is `whole`, all of them in `available`; empty if none serve.

    A part that is not available is replaced by its own parts (`lung` from two lungs, or from the
    five lobes). A structure is not a part of itself.
    """
    sides = () if side_of(whole) else (f"{whole}_left", f"{whole}_right")
    for parts in (UNIONS.get(whole, ()), sides):
        found = [(p,) if p in available else parts_of(p, available) for p in parts]
        if found and all(found):
            return tuple(name for own in found for name in own)
    return ()


def related_lesions(name: str) -> tuple[str, ...]:
    """Lesions that contain a lesion, from the inside out, then those inside it, in PARENTS' order.

    `pancreas_lesion` gives `pancreas_tumor` and the other kinds; `pancreas_tumor` gives
    `pancreas_lesion`, then its own kinds. None of them is the same structure.
    """
    if not _LESION.search(name):
        return ()
    wider = [p for p in reversed(PARENTS.get(name, ())) if _LESION.search(p)]
    narrower = [child for child in PARENTS if inside(child, name) and _LESION.search(child)]
    return (*wider, *narrower)
