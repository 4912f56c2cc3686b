"""Label maps: sets of structures <-> the integers of a mask.

A voxel may belong to several structures at once (a liver and the tumour in it), a mask holds
one integer a voxel. So an integer, a *code*, stands for a **set** of structures. A `Coding`
names every set that may occur; nnU-Net sees it as regions (`"liver": [5, 26]`).

Integers appear at two places only: where a source mask is read (`ValueMap`), and where an
nnU-Net mask is written or read back (`Coding`). In between, structures have names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from atlas_nnunet.errors import LabelMapError

BACKGROUND, IGNORE = "background", "ignore"  # nnU-Net's names
MAX_CODES = 255  # nnU-Net exports masks of up to 254 foreground labels as uint8


@dataclass(frozen=True)
class Coding:
    """Which set of structures each integer of an nnU-Net mask stands for.

    Attributes:
        structures: Names in order of priority: where two that may not overlap meet, the later
            one keeps the voxel. Also the order of nnU-Net's labels and of the network's heads.
        codes: Code -> set of structures; `codes[0]` is the empty set, background. Codes
            1..len(structures) stand for one structure each, in that order. A foreign
            dataset.json may leave out sets, and order them in another way.
        ignore: nnU-Net's ignore label, a code of no structure; None where there is none.
    """

    structures: tuple[str, ...]
    codes: tuple[frozenset[str], ...]
    ignore: int | None = None

    @classmethod
    def of(cls, structures: Sequence[str], overlaps: Iterable[frozenset[str]]) -> Coding:
        """Every set of structures in which each pair may overlap gets a code.

        Args:
            structures: In order of priority, lowest first.
            overlaps: Pairs that may share voxels; pairs with a name not in `structures` are
                passed over, so that a table of all anatomy can be given.

        Raises:
            LabelMapError: a structure is named twice, or more than 254 sets would be needed.
        """
        twice = sorted(name for name, n in Counter(structures).items() if n > 1)
        if twice:
            raise LabelMapError(f"structures named twice: {twice}", do="name each structure once")
        allowed = {pair for pair in overlaps if pair <= set(structures)}
        codes: list[frozenset[str]] = [frozenset(), *(frozenset([s]) for s in structures)]
        grown: list[tuple[str, ...]] = [(s,) for s in structures]
        order = {s: i for i, s in enumerate(structures)}
        while grown:
            grown = [
                (*members, s)
                for members in grown
                for s in structures[order[members[-1]] + 1 :]
                if all(frozenset([m, s]) in allowed for m in members)
            ]
            codes += [frozenset(members) for members in grown]
            if len(codes) > MAX_CODES:
                raise LabelMapError(
                    f"more than {MAX_CODES - 1} sets of structures may overlap",
                    do="declare fewer overlaps in the card, or convert fewer structures",
                )
        return cls(tuple(structures), tuple(codes))

    @classmethod
    def of_dataset_json(cls, dataset_json: Mapping[str, Any]) -> Coding:
        """The coding that a dataset.json declares, ours or anybody's, regions or plain labels.

        Raises:
            LabelMapError: a region has no label.
        """
        regions = {
            name: set(values) if isinstance(values, list | tuple) else {values}
            for name, values in dataset_json["labels"].items()
            if name not in (BACKGROUND, IGNORE)
        }
        without = [name for name, values in regions.items() if not values]
        if without:
            raise LabelMapError(f"regions without a label: {without}", where="dataset.json",
                                do="list the labels of each region")  # fmt: skip
        ignore = dataset_json["labels"].get(IGNORE)
        top = max((max(values) for values in regions.values()), default=0)
        top = max(top, ignore or 0)
        codes = tuple(
            frozenset(name for name, values in regions.items() if code in values)
            for code in range(top + 1)
        )
        return cls(tuple(regions), codes, ignore)

    @property
    def has_overlap(self) -> bool:
        """Whether some code stands for more than one structure (nnU-Net: region training)."""
        return any(len(members) > 1 for members in self.codes)

    def codes_of(self, structure: str) -> list[int]:
        """All codes whose voxels belong to a structure, ascending."""
        return [code for code, members in enumerate(self.codes) if structure in members]

    def as_dataset_json(self) -> dict[str, Any]:
        """`labels`, and `regions_class_order` where structures overlap, for dataset.json."""
        labels: dict[str, int | list[int]] = {BACKGROUND: 0}
        for structure in self.structures:
            codes = self.codes_of(structure)
            labels[structure] = codes if len(codes) > 1 else codes[0]
        if not self.has_overlap:
            return {"labels": labels}
        order = list(range(1, len(self.structures) + 1))
        return {"labels": labels, "regions_class_order": order}

    @cached_property
    def join(self) -> np.ndarray:
        """(code, structure index) uint8: the code after a structure is laid over a voxel.

        What cannot share a voxel with the new structure gives way to it; all else stays. A foreign
        dataset.json need not name the set that results (a tumour outside its organ): then the
        nearest set that holds the new structure is taken.
        """
        number = {members: code for code, members in reversed([*enumerate(self.codes)])}
        together = {frozenset(p) for members in self.codes for p in combinations(members, 2)}
        table = np.zeros((len(self.codes), len(self.structures)), np.uint8)
        for code, members in enumerate(self.codes):
            for column, new in enumerate(self.structures):
                kept = {m for m in members if m == new or frozenset([m, new]) in together}
                wanted = frozenset(kept | {new})
                holding = (m for m in number if new in m)
                nearest = min(holding, key=lambda m: (len(m ^ wanted), number[m]))
                table[code, column] = number[nearest]
        return table

    def encode(
        self, masks: Iterable[tuple[str, np.ndarray]], shape_vox: tuple[int, ...]
    ) -> tuple[np.ndarray, Counter[tuple[str, str]]]:
        """One mask of codes from one mask a structure.

        Args:
            masks: (structure, boolean array of `shape_vox`), **in order of priority**, lowest
                first; read one at a time, so that they need not all be in memory.
            shape_vox: Shape of the volume, any axis order.

        Returns:
            The codes, uint8, and how many voxels each (loser, winner) pair was in conflict over.

        Raises:
            LabelMapError: an unknown structure, one given twice, or masks out of order.
        """
        layers = Layers(self, shape_vox)
        for name, mask in masks:
            layers.begin(name)
            layers.lay(mask.ravel(order="F"))
        return layers.codes, layers.conflicts

    def mask_of(self, codes: np.ndarray, structure: str) -> np.ndarray:
        """The voxels of a structure, boolean, in the shape of `codes`.

        Raises:
            LabelMapError: the structure is unknown, or the mask holds a code without a name.
        """
        if structure not in self.structures:
            raise LabelMapError(f"no structure is called {structure!r}",
                                do=f"choose among {list(self.structures)}")  # fmt: skip
        top = int(codes.max(initial=0))
        if top >= len(self.codes) or codes.min(initial=0) < 0:
            raise LabelMapError(
                f"the mask holds {top}, the coding ends at {len(self.codes) - 1}",
                do="compare the mask with the labels of its dataset.json",
            )
        member = np.array([structure in members for members in self.codes])
        return member[codes]


class Layers:
    """Masks laid over one another, in order of priority and in pieces of any size.

    Args:
        coding: What the codes stand for.
        shape_vox: Of the volume, any axis order.

    Attributes:
        codes: uint8 of that shape, first axis fastest in memory, as NIfTI files have it.
    """

    def __init__(self, coding: Coding, shape_vox: tuple[int, ...]) -> None:
        self._coding = coding
        self.codes = np.zeros(shape_vox, np.uint8, order="F")
        self._flat = self.codes.reshape(-1, order="F")  # a view: the order is the same
        self._met = np.zeros((len(coding.codes), len(coding.structures)), np.int64)
        self._column = -1

    def begin(self, structure: str) -> None:
        """Say whose voxels come next.

        Raises:
            LabelMapError: the structure is unknown, has been already, or is out of order.
        """
        known = self._coding.structures
        column = known.index(structure) if structure in known else -1
        if column <= self._column:
            raise LabelMapError(
                f"structure {structure!r} is unknown to the coding, given twice or out of order",
                do=f"give masks in this order: {list(known)}",
            )
        self._column = column

    def lay(self, mask: np.ndarray, start: int = 0) -> None:
        """Lay a piece of the structure's mask.

        Args:
            mask: 1-D boolean, in the order of the volume's file (first axis fastest).
            start: The piece's first voxel in that order.
        """
        voxels = np.flatnonzero(mask)
        if not len(voxels):
            return
        voxels += start
        before = self._flat[voxels]
        self._flat[voxels] = self._coding.join[:, self._column][before]
        self._met[:, self._column] += np.bincount(before, minlength=len(self._met))

    @property
    def conflicts(self) -> Counter[tuple[str, str]]:
        """How many voxels each (loser, winner) pair was in conflict over."""
        coding, found = self._coding, Counter[tuple[str, str]]()
        for code, column in np.argwhere(self._met):
            lost = coding.codes[code] - coding.codes[coding.join[code, column]]
            for loser in lost:
                found[loser, coding.structures[column]] += int(self._met[code, column])
        return found


@dataclass(frozen=True)
class ValueMap:
    """What the integers in one source's label maps stand for.

    Attributes:
        dataset: Registry key, for messages.
        sets: Value -> the structures it stands for; an empty set means known and dropped on
            purpose. A value that is absent is an error when met, never background: silence is
            how a tumour gets lost.
    """

    dataset: str
    sets: Mapping[int, frozenset[str]]

    @property
    def structures(self) -> frozenset[str]:
        return frozenset().union(*self.sets.values())

    @property
    def is_lossless(self) -> bool:
        """Whether the source mask can be rebuilt: nothing dropped, no two values alike."""
        return all(self.sets.values()) and len(set(self.sets.values())) == len(self.sets)

    def check(self, values: Iterable[int], where: str) -> None:
        """Raise LabelMapError if a value has no meaning."""
        unnamed = sorted(set(values) - self.sets.keys() - {0})
        if unnamed:
            raise LabelMapError(
                f"the mask holds values {unnamed} that its card does not name",
                where=where,
                do=f'name them under "values" of "{self.dataset}" in datasets.json; '
                "map to [] to drop them on purpose",
            )

    def mask_of(self, mask: np.ndarray, structure: str) -> np.ndarray:
        """The voxels of a structure, boolean. Call `check` first: other values are passed over.

        Raises:
            LabelMapError: no value stands for the structure.
        """
        if structure not in self.structures:
            raise LabelMapError(f"no value stands for {structure!r}", where=self.dataset,
                                do=f"choose among {sorted(self.structures)}")  # fmt: skip
        return np.isin(mask, [v for v, members in self.sets.items() if structure in members])
