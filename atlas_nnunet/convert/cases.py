"""Which cases a source folder holds, and which of them were asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas_nnunet.errors import SourceError
from atlas_nnunet.registry import DatasetCard

REST = "rest"


@dataclass(frozen=True)
class Selection:
    """Which cases go where, of all in the order of their identifiers.

    Attributes:
        cases: Only these; empty means all.
        skip: Leave out so many at the start.
        train: Take so many for training; None takes all.
        hold_out: Take so many after them for prediction and scoring only; None takes the rest.
    """

    cases: tuple[str, ...] = ()
    skip: int = 0
    train: int | None = None
    hold_out: int | None = 0

    def of(self, found: Sequence[str]) -> tuple[list[str], list[str]]:
        """(training cases, held-out cases).

        Raises:
            SourceError: a case asked for is not there, or there are too few.
        """
        unknown = sorted(set(self.cases) - set(found))
        if unknown:
            raise SourceError(f"no such cases: {unknown}", do="check --cases")
        kept = [case for case in sorted(found) if not self.cases or case in self.cases]
        kept = kept[self.skip :]
        train = len(kept) if self.train is None else self.train
        held_out = max(0, len(kept) - train) if self.hold_out is None else self.hold_out
        if train + held_out > len(kept) or not train:
            raise SourceError(
                f"{train} training and {held_out} held-out cases were asked for, "
                f"there are {len(kept)}",
                do="ask for fewer with --train and --hold-out",
            )
        return kept[:train], kept[train : train + held_out]


def cases_of(template: str, folder: Path) -> list[str]:
    """Values of `{case}` for which a path exists, sorted; macOS' `._` twins are no cases."""
    first, *others = map(re.escape, template.split("{case}"))
    pattern = re.compile(first + "(?P<case>[^/]+)" + "(?P=case)".join(others))
    found = set()
    for path in folder.glob(template.replace("{case}", "*")):
        match = pattern.fullmatch(path.relative_to(folder).as_posix())
        if match and not path.name.startswith("._"):
            found.add(match.group("case"))
    return sorted(found)


def find_cases(card: DatasetCard, folder: Path, held_out: bool) -> list[str]:
    """Every case with an image or a mask: what lacks one is to be refused by name, not missed.

    Raises:
        SourceError: the folder holds no case.
    """
    layout = card.layout
    images = layout.held_out_images if held_out else layout.images
    masks = layout.held_out_masks if held_out else layout.masks
    templates = [t for t in (*images, masks) if t]
    # A structure's name is not part of a case's: its folder tells that the case is there.
    templates = [t if "{structure}" not in t else t.rpartition("/")[0] for t in templates]
    found = sorted({case for t in templates if "{case}" in t for case in cases_of(t, folder)})
    if not found and not held_out:
        raise SourceError(
            f"no case of {card.key}: nothing matches {', '.join(templates)}", where=str(folder),
            do=card.obtain,
        )  # fmt: skip
    return found
