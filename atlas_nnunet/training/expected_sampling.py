"""What the training patches are expected to show, before the training begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlas_nnunet.artefacts import write_json
from atlas_nnunet.settings import SECTION
from atlas_nnunet.training.sampling import (
    case_probabilities,
    centred_shares,
    group_shares,
    is_lesion,
    table,
)
from atlas_nnunet.training.weighted_loading import Drawing, WeightedLoader

# At most this many cases, with this many patches of each kind, go into the estimate of what
# patches contain: for 33 structures about a minute on one core, and 1 GB to read.
ESTIMATE_CASES, ESTIMATE_PATCHES = 100, 8


def record_sampling(
    loader: WeightedLoader, seed: int, plans: dict[str, Any], folder: Path | None
) -> str:
    """Write what is expected, and say it.

    Args:
        loader: Of the training batches.
        seed: The plan's.
        plans: Content of the plan; its section gets `expected_sampling`. nnU-Net copies the plan to
            the results folder and into every checkpoint after this.
        folder: Of the run, for sampling.json; None on ranks that write nothing.

    Returns:
        The table for the log.
    """
    expected = expected_sampling(loader, seed)
    plans.setdefault(SECTION, {})["expected_sampling"] = expected
    if folder is not None:
        write_json(folder / "sampling.json", expected)
    return table(expected)


def expected_sampling(loader: WeightedLoader, seed: int) -> dict[str, Any]:
    """What the training patches of a loader are expected to show.

    `centred` is exact. `contained` is an estimate from patches that the loader itself would cut,
    before augmentation, with its standard error over cases: a structure counts where one of the
    voxels that preprocessing has sampled of it (all voxels of a structure up to 10,000) is inside
    the patch that the network gets. NumPy's random state is left as it was.

    Args:
        loader: With a `drawing`.
        seed: The plan's.

    Returns:
        JSON: `foreground_share`, `tumor_case_share`, `source_shares`, `n_cases`, `n_tumor_cases`,
        `structures` (name -> `n_cases`, `centred`, `contained`, `standard_error`), `any_tumor`
        (the same for all lesions together), `estimate` (cases and patches that were looked at).
    """
    drawing = loader.drawing
    if drawing is None:
        raise ValueError("this loader has no weights")
    names, facts = list(drawing.keys), drawing.facts
    share = loader.foreground_share
    centred = centred_shares(drawing.sampling, facts, names, share)
    contained, error, n_looked_at = _contained(loader, drawing, share, seed)
    count = {name: sum(name in one.structures for one in facts.values()) for name in names}
    rows = {
        name: {"n_cases": count[name], "centred": centred[name],
               "contained": float(contained[i]), "standard_error": float(error[i])}
        for i, name in enumerate(names)
    }  # fmt: skip
    n_tumors = sum(one.has_tumor for one in facts.values())
    tumor_share, sources = group_shares(drawing.sampling, facts)
    return {
        "foreground_share": share,
        "tumor_case_share": tumor_share,
        "source_shares": sources,
        "n_cases": len(facts),
        "n_tumor_cases": n_tumors,
        "structures": rows,
        "any_tumor": {
            "n_cases": n_tumors,
            "centred": sum(v for name, v in centred.items() if is_lesion(name)),
            "contained": float(contained[-1]),
            "standard_error": float(error[-1]),
        },
        "estimate": {"n_cases": n_looked_at, "n_patches_per_case": 2 * ESTIMATE_PATCHES},
    }


def _contained(
    loader: WeightedLoader, drawing: Drawing, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(structure + 1,) shares of patches with each structure, and with any lesion; their errors.

    Every case counts by its probability where there are few; of many, cases are drawn by it.
    """
    cases, p = list(drawing.facts), case_probabilities(drawing.sampling, drawing.facts)
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence([seed, len(cases)]).generate_state(1)[0])
    try:
        if len(cases) > ESTIMATE_CASES:
            chosen = np.random.choice(len(cases), ESTIMATE_CASES, p=p)
            weights = np.full(ESTIMATE_CASES, 1 / ESTIMATE_CASES)
        else:
            chosen, weights = np.flatnonzero(p), p[p > 0]
        found = [_seen(loader, drawing, cases[i]) for i in chosen]
    finally:
        np.random.set_state(before)
    patches = np.stack([(1 - share) * free + share * forced for free, forced in found])
    mean = np.tensordot(weights, patches.mean(1), 1)
    if len(cases) > ESTIMATE_CASES:
        variance = patches.mean(1).var(0, ddof=1) / ESTIMATE_CASES
    else:
        spread = [(1 - share) ** 2 * free.var(0, ddof=1) + share**2 * forced.var(0, ddof=1)
                  for free, forced in found]  # fmt: skip
        variance = np.tensordot(weights**2, np.stack(spread), 1) / ESTIMATE_PATCHES
    return mean, np.sqrt(variance), len(chosen)


def _seen(loader: WeightedLoader, drawing: Drawing, case: str) -> tuple[np.ndarray, np.ndarray]:
    """(patch, structure + 1) zeros and ones: patches anywhere, patches with forced foreground."""
    data, _, _, properties = loader._data.load_case(case)
    shape = np.array(data.shape[1:])
    locations = properties["class_locations"]
    voxels = [np.asarray(locations[key])[:, 1:] if len(locations[key]) else np.empty((0, 3))
              for key in drawing.keys.values()]  # fmt: skip
    lesion = np.array([is_lesion(name) for name in drawing.keys])
    margin = (np.array(loader.patch_size) - np.array(loader.final_patch_size)) // 2
    found = []
    for forced in (False, True):
        rows = np.zeros((ESTIMATE_PATCHES, len(voxels) + 1))
        for row in rows:
            low = np.array(loader.get_bbox(shape, forced, locations)[0]) + margin
            high = low + np.array(loader.final_patch_size)
            row[:-1] = [bool(((v >= low) & (v < high)).all(1).any()) for v in voxels]
            row[-1] = row[:-1][lesion].any()
        found.append(rows)
    return found[0], found[1]
