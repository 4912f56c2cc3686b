"""nnU-Net's loader with the plan's weights for cases and structures.

The class lives here and not in trainers/, since worker processes must be able to import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from atlas_nnunet.artefacts import Dataset, file_times, write_json
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import has_regions, read_json
from atlas_nnunet.settings import Sampling
from atlas_nnunet.training.distributed import of_all_ranks
from atlas_nnunet.training.sampling import (
    CaseFacts,
    case_probabilities,
    check_cases,
    check_structures,
    foreground_names,
    structure_probabilities,
)

Key = int | tuple[int, ...]  # of class_locations: a label, or the labels of a region
ONE_SOURCE = "this data set"


def structure_keys(dataset_json: Mapping[str, Any]) -> dict[str, Key]:
    """Structure -> its key in the `class_locations` of a preprocessed case.

    One key for each region, or for each label where there are no regions
    (default_preprocessor.py, `run_case_npy`, nnunetv2 2.8.1); background has none.
    """
    found: dict[str, Key] = {}
    for name in foreground_names(dataset_json):
        value = dataset_json["labels"][name]
        if not isinstance(value, list | tuple):
            found[name] = int(value)
        elif has_regions(dataset_json):
            found[name] = tuple(int(label) for label in value)
        else:  # a list of one label, in a data set where no list is longer
            found[name] = int(value[0])
    return found


def read_facts(
    folder: Path,
    cases: Sequence[str],
    keys: Mapping[str, Key],
    cache: Path,
    conversion: Mapping[str, Any] | None,
) -> dict[str, CaseFacts]:
    """Which structures each preprocessed case shows, and its data source.

    A case's properties take up to 10 MB, so what was found is kept in `cache` together with the
    times of the file: only new and changed cases are read again.

    Args:
        folder: Preprocessed cases of one data identifier.
        cases: Case identifiers.
        keys: `structure_keys`.
        cache: JSON file; may be missing.
        conversion: Content of conversion.json. A case's source is the text under `source` of its
            entry, or the data set's key; None: all cases are of one source.

    Raises:
        PlanError: a case's properties are missing, or were made for other labels.
    """
    known = read_json(cache, "") if cache.is_file() else {}
    asked = {name: list(k) if isinstance(k, tuple) else k for name, k in keys.items()}
    before = known.get("cases", {}) if known.get("keys") == asked else {}
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        path = folder / f"{case}.pkl"
        if not path.is_file():
            raise PlanError("properties of a preprocessed case are missing", where=str(path),
                            do="atlas-nnunet preprocess DATASET")  # fmt: skip
        times = file_times(path)
        row = before.get(case)
        if row is None or row["times"] != times:
            row = {"times": times, "structures": _present(path, keys)}
        rows[case] = row
    if {**before, **rows} != before or known.get("keys") != asked:
        write_json(cache, {"keys": asked, "cases": {**before, **rows}})
    own = conversion or {}
    sources = {c: str(e["source"]) for c, e in own.get("cases", {}).items() if "source" in e}
    rest = str(own.get("key", ONE_SOURCE))
    return {case: CaseFacts(sources.get(case, rest), frozenset(row["structures"]))
            for case, row in rows.items()}  # fmt: skip


def _present(path: Path, keys: Mapping[str, Key]) -> list[str]:
    from batchgenerators.utilities.file_and_folder_operations import load_pickle

    locations = load_pickle(str(path))["class_locations"]
    missing = [name for name, key in keys.items() if key not in locations]
    if missing:
        raise PlanError(f"no locations of {missing}: preprocessed for other labels",
                        where=str(path), do="atlas-nnunet preprocess DATASET")  # fmt: skip
    return [name for name, key in keys.items() if len(locations[key])]


@dataclass(frozen=True)
class Drawing:
    """How one training draws: the plan's weights, and the facts they apply to.

    Attributes:
        sampling: The plan's.
        keys: `structure_keys`.
        facts: Training case -> its facts, in the order of the loader's cases.
    """

    sampling: Sampling
    keys: Mapping[str, Key]
    facts: Mapping[str, CaseFacts]

    @classmethod
    def of_training(
        cls,
        sampling: Sampling,
        dataset: Dataset,
        folder: Path,
        cases: Sequence[str],
        held_out: Sequence[str],
        dataset_json: Mapping[str, Any],
    ) -> Drawing:
        """Check the plan's weights and read the facts.

        Args:
            sampling: The plan's.
            dataset: Where conversion.json and the cache are.
            folder: Preprocessed cases of the configuration.
            cases: Training cases of the fold.
            held_out: Its validation cases.
            dataset_json: nnU-Net's.

        Raises:
            PlanError: a structure or a case with a weight does not exist, all weights are 0, or a
                preprocessed case cannot be read.
        """
        keys = structure_keys(dataset_json)
        check_structures(sampling, keys, dataset.name)
        check_cases(sampling, {*cases, *held_out}, dataset.name)
        path = dataset.conversion_for_training
        conversion = read_json(path, "") if path.is_file() else None
        cache = dataset.preprocessed / "atlas_nnunet" / f"{folder.name}.structures.json"
        return cls(sampling, keys, read_facts(folder, cases, keys, cache, conversion))

    def probabilities(self) -> np.ndarray | None:
        """(case,) for `sampling_probabilities`; None where all are alike, as in nnU-Net."""
        found = case_probabilities(self.sampling, self.facts)
        return None if np.allclose(found, found[0], rtol=1e-12, atol=0) else found


class WeightedLoader(nnUNetDataLoader):
    """nnU-Net's loader, with weights for cases and for what foreground patches are centred on.

    Where weights are uniform, nothing is drawn here and every batch is nnU-Net's to the bit.

    Args:
        *args: nnU-Net's.
        drawing: The weights; None for nnU-Net's own drawing (validation).
        **options: nnU-Net's.
    """

    def __init__(self, *args: Any, drawing: Drawing | None = None, **options: Any) -> None:
        if drawing is not None:
            options["sampling_probabilities"] = drawing.probabilities()
        super().__init__(*args, **options)
        self.drawing = drawing

    def get_bbox(
        self,
        data_shape: np.ndarray,
        force_fg: bool,
        class_locations: dict | None,
        overwrite_class: Key | None = None,
        verbose: bool = False,
    ) -> tuple[list[int], list[int]]:
        """As nnU-Net's; the structure of a foreground patch is drawn by the plan's weights."""
        if force_fg and overwrite_class is None and self.drawing is not None and class_locations:
            keys = self.drawing.keys
            present = [name for name, key in keys.items() if len(class_locations[key])]
            p = structure_probabilities(self.drawing.sampling, present)
            if len(present) and not p.any():
                force_fg = False  # every structure here has weight 0: a patch anywhere
            elif len(present) and not np.allclose(p, p[0], rtol=1e-12, atol=0):
                overwrite_class = keys[present[np.random.choice(len(present), p=p)]]
        return super().get_bbox(data_shape, force_fg, class_locations, overwrite_class, verbose)

    @property
    def foreground_share(self) -> float:
        """Share of forced foreground among the patches of all ranks."""
        if self.get_do_oversample == self._probabilistic_oversampling:
            return float(self.oversample_foreground_percent)
        forced = sum(bool(self.get_do_oversample(i)) for i in range(self.batch_size))
        own = (forced, self.batch_size)
        ranks = of_all_ranks(own)
        return sum(n for n, _ in ranks) / sum(n for _, n in ranks)
