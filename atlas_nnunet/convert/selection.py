"""Which of a source's cases were asked for: for training, or held out to be scored."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_nnunet.convert.tree import SourceFile
from atlas_nnunet.errors import SourceError
from atlas_nnunet.registry import DatasetCard

REST = "rest"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Selection:
    """Which cases go where, of all in the order they are given in.

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
        kept = [case for case in found if not self.cases or case in self.cases][self.skip :]
        train = len(kept) if self.train is None else self.train
        held_out = max(0, len(kept) - train) if self.hold_out is None else self.hold_out
        if train + held_out > len(kept) or not train:
            raise SourceError(
                f"{train} training and {held_out} held-out cases were asked for, "
                f"there are {len(kept)}",
                do="ask for fewer with --train and --hold-out",
            )
        return kept[:train], kept[train : train + held_out]


def parts_of(
    card: DatasetCard, name: str, cases: Sequence[str], files: Sequence[SourceFile],
    lists: Path | None,
) -> dict[str, list[str]]:  # fmt: skip
    """A split by the set's authors: "train", "val" and "test" -> those of `cases` in it.

    Args:
        card: Says where the split stands.
        name: Of the split, as the card has it.
        cases: All that were found; the order is kept.
        files: Of the source, one of which may be the split's table.
        lists: Folder with the split's lists, one case a line, where it is made of such.

    Raises:
        SourceError: there is no such split, its table or list, or a case in two parts of it.
    """
    if name not in card.splits:
        raise SourceError(f"{card.key} has no split {name!r}", where="--split",
                          do=f"choose among {sorted(card.splits)}")  # fmt: skip
    split = card.splits[name]
    if "table" in split:
        members = _of_table(split, files, card)
    elif "lists" in split:
        members = _of_lists(split["lists"], lists, split["what"])
    else:
        members = {
            part: {c for c in cases if re.fullmatch(pattern, c)}
            for part, pattern in split["patterns"].items()
        }
    found = {part: [c for c in cases if c in members.get(part, ())] for part in PARTS}
    twice = [c for c in cases if sum(c in own for own in found.values()) > 1]
    if twice:
        raise SourceError(f"in two parts of the split: {twice[:5]}", where=f"{card.key} {name}",
                          do="mend the split")  # fmt: skip
    return found


def _of_table(
    split: Mapping[str, Any], files: Sequence[SourceFile], card: DatasetCard
) -> dict[str, set[str]]:  # fmt: skip
    table = next((f for f in files if f.base == split["table"]), None)
    if table is None:
        raise SourceError(f"no {split['table']}, which tells the split", where=card.key,
                          do=card.obtain)  # fmt: skip
    with table.open() as stream:
        text = stream.read().decode("utf-8-sig", errors="replace")
    members: dict[str, set[str]] = {}
    for row in csv.DictReader(io.StringIO(text), delimiter=split["separator"]):
        case, part = row.get(split["case_column"]), row.get(split["part_column"])
        if case and part:
            members.setdefault(part, set()).add(case)
    if not members:
        raise SourceError(f"no columns {split['case_column']} and {split['part_column']}",
                          where=str(table), do="fetch the table again")  # fmt: skip
    return members


def _of_lists(names: Mapping[str, str], folder: Path | None, what: str) -> dict[str, set[str]]:
    if folder is None:
        raise SourceError(f"the split is made of lists ({what})", where="--split",
                          do="fetch them, and give their folder with --lists")  # fmt: skip
    members = {}
    for part, name in names.items():
        path = folder / name
        if not path.is_file():
            raise SourceError("no such list", where=str(path), do=f"fetch it: {what}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        members[part] = {line.split()[0] for line in lines if line.strip()}
    return members
