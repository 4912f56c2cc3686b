"""Templates of a card: which file of a source belongs to which case, and what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import SourceError
from atlas_nnunet.registry import MASKS, DatasetCard

FIELD = re.compile(r"\{(case|study|structure)\}|(\*)")
ENDINGS = (".nii.gz", ".nii")


@dataclass
class CaseFiles:
    """The files of one case.

    Attributes:
        images: One list a channel template; several files where a template names a folder.
        masks: A file a structure, or the files of the label map.
        combined: The label map beside masks of single structures, if any.
    """

    images: list[list[SourceFile]]
    masks: list[SourceFile] = field(default_factory=list)
    combined: list[SourceFile] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return all(self.images) and bool(self.masks or self.combined)


def pattern_of(template: str, *, any_structure: bool = False) -> str:
    """A regular expression for a template.

    `{case}` and `{study}` are parts of names, `*` is any such part, and a template that ends in
    "/" means the files of that folder. With `any_structure` the last part is left open: a folder
    of masks is read whole, so that what was not used can be told.
    """
    if any_structure:
        template = template.rpartition("/")[0] + "/"
    seen: set[str] = set()
    out, at = [], 0
    for found in FIELD.finditer(template):
        out.append(re.escape(template[at : found.start()]))
        name, star = found.groups()
        if star or name == "structure":
            out.append("[^/]*" if star else "[^/]+")
        else:
            out.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)")
            seen.add(name)
        at = found.end()
    out.append(re.escape(template[at:]))
    return "".join(out) + ("[^/]+" if template.endswith("/") else "")


def stem_pattern(masks: str) -> re.Pattern[str]:
    """The structure's part in the name of a mask file, NIfTI endings taken for one another."""
    name = masks.rpartition("/")[2]
    ending = next((e for e in ENDINGS if name.endswith(e)), "")
    before, _, after = name.removesuffix(ending).partition("{structure}")
    own = "(?:" + "|".join(map(re.escape, ENDINGS)) + ")" if ending else ""
    before, after = (re.sub(r"\\\{\w+\\\}|\\\*", "[^/]*", re.escape(t)) for t in (before, after))
    return re.compile(f"{before}(?P<structure>.+){after}{own}")


def find_cases(
    card: DatasetCard, files: Sequence[SourceFile], held_out: bool
) -> dict[str, CaseFiles]:  # fmt: skip
    """Every case with an image or a mask: what lacks one is to be refused by name, not missed.

    Raises:
        SourceError: two cases of the source would have one identifier in nnU-Net.
    """
    layout = card.layout
    images = layout.held_out_images if held_out else layout.images
    masks = layout.held_out_masks if held_out else layout.masks
    rows: list[tuple[str, int | str]] = [(pattern_of(t), i) for i, t in enumerate(images)]
    rows += [(pattern_of(masks, any_structure=layout.kind == MASKS), "masks")] if masks else []
    rows += [(pattern_of(layout.combined), "combined")] if layout.combined and not held_out else []
    cases: dict[str, CaseFiles] = {}
    owner: dict[str, tuple[str, ...]] = {}
    taken: set[SourceFile] = set()  # an image that lies among the masks is none of them
    for pattern, slot in rows:
        for parts, file in _matches(pattern, files):
            if file in taken or not re.fullmatch(layout.case_pattern, parts[0]):
                continue
            case = identifier(parts)
            if owner.setdefault(case, parts) != parts:
                raise SourceError(f"{owner[case]} and {parts} would both be {case}",
                                  where=card.key, do="rename one of them")  # fmt: skip
            own = cases.setdefault(case, CaseFiles([[] for _ in images]))
            taken.add(file)
            slot_of = {"masks": own.masks, "combined": own.combined} | dict(enumerate(own.images))
            slot_of[slot].append(file)
    for own in cases.values():
        for found in (*own.images, own.masks, own.combined):
            found[:] = _own_first(found)
    return dict(sorted(cases.items(), key=lambda item: natural_key(item[0])))


def _matches(
    pattern: str, files: Iterable[SourceFile]
) -> Iterator[tuple[tuple[str, ...], SourceFile]]:  # fmt: skip
    """Values of the fields, and the file. An archive may hold all in a folder of its own."""
    own, below = re.compile(pattern), re.compile("(?:.*/)?" + pattern)
    for file in files:
        found = (own if file.member is None else below).fullmatch(file.name)
        if found and not is_litter(file.name):
            yield tuple(found.groupdict().values()), file


def is_litter(name: str) -> bool:
    """What macOS leaves in folders and archives: `._ct.nii.gz` is no CT."""
    return name.rpartition("/")[2].startswith("._") or "__MACOSX/" in name


def _own_first(files: list[SourceFile]) -> list[SourceFile]:
    """Without members of archives of which an unpacked file lies beside the archive."""
    own = {f.base for f in files if f.member is None}
    return [f for f in files if f.member is None or f.base not in own]


def identifier(parts: Sequence[str]) -> str:
    """nnU-Net's name for a case: letters, digits, `_`, `-` and `.`; anything else becomes `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", "_".join(parts))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """So that `liver_2` stands before `liver_10`; numbers alike (`1`, `01`) by their text."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), p) if p.isdigit() else (1, 0, p) for p in parts)
