"""Probabilities of cases and structures in training, and the shares of patches they lead to.

Pure arithmetic: nothing here reads a file or draws a random number. `weighted_loading.py` draws.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import has_regions, head_names
from atlas_nnunet.settings import SECTION, Sampling
from atlas_nnunet.structures import canonical

# A word of a canonical name that makes the structure a lesion. PDAC and PNET are kinds of
# pancreatic tumour (PanTS), GTV is the gross tumour volume of radiotherapy.
_LESION = re.compile(
    r"(?:^|_)(?:tumou?rs?|lesions?|cysts?|cancers?|metastas[ie]s|pdac|pnet|gtv)(?:_|$)"
)
HINT = "plan again (atlas-nnunet plan --help: --structure-weight, --case-weight), or correct it"


def is_lesion(structure: str) -> bool:
    """Whether a structure is a tumour, a cyst or another lesion, by its canonical name."""
    return bool(_LESION.search(canonical(structure)))


def foreground_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Structures of a data set in the order of the network's heads; background is none."""
    return head_names(dataset_json)[0 if has_regions(dataset_json) else 1 :]


@dataclass(frozen=True)
class CaseFacts:
    """What the weights of one case depend on.

    Attributes:
        source: Data source of the case; the same text for all cases where nothing else is known.
        structures: Structures that have at least one voxel in the preprocessed case.
    """

    source: str
    structures: frozenset[str]

    @property
    def has_tumor(self) -> bool:
        """Whether a lesion is labelled in the case."""
        return any(is_lesion(name) for name in self.structures)


def check_structures(sampling: Sampling, structures: Iterable[str], where: str) -> None:
    """Refuse weights of structures that the data set does not have.

    Raises:
        PlanError: a structure is unknown, or every structure has weight 0.
    """
    known = list(structures)
    unknown = sorted(sampling.structures.keys() - set(known))
    if unknown:
        raise PlanError(
            f"structure weights name {unknown}, which the data set does not have; "
            f"it has {sorted(known)}",
            where=where, do=HINT,
        )  # fmt: skip
    if known and not any(sampling.structures.get(name, 1.0) for name in known):
        raise PlanError("every structure has weight 0", where=where, do=HINT)


def check_cases(sampling: Sampling, cases: Iterable[str], where: str) -> None:
    """Refuse weights of cases that are not among the preprocessed ones.

    Raises:
        PlanError: a case does not exist.
    """
    unknown = sorted(sampling.cases.keys() - set(cases))
    if unknown:
        raise PlanError(
            f"case weights name {unknown}, which are not among the preprocessed cases",
            where=f"{where}, section {SECTION}.training.sampling", do=HINT,
        )  # fmt: skip


def case_probabilities(sampling: Sampling, facts: Mapping[str, CaseFacts]) -> np.ndarray:
    """Probability that a sample of a batch is drawn from each training case.

    Args:
        sampling: The plan's.
        facts: Training case -> its facts. The size of a source is its number of cases here.

    Returns:
        (case,) float64 in the order of `facts`; the sum is 1.

    Raises:
        PlanError: every training case has weight 0.
    """
    size = Counter(one.source for one in facts.values())
    weights = np.array(
        [
            size[one.source] ** -sampling.source_balance
            * (sampling.tumor_cases if one.has_tumor else 1.0)
            * sampling.cases.get(case, 1.0)
            for case, one in facts.items()
        ]
    )
    if not weights.sum() > 0:
        raise PlanError("every training case of this fold has weight 0",
                        where=f"plan, section {SECTION}.training.sampling", do=HINT)  # fmt: skip
    return weights / weights.sum()


def structure_probabilities(sampling: Sampling, present: Sequence[str]) -> np.ndarray:
    """Probability that a foreground patch of a case is centred on each of its structures.

    Args:
        sampling: The plan's.
        present: Structures of the case.

    Returns:
        (structure,) float64 in the order of `present`. The sum is 1, or 0 where every structure of
        the case has weight 0: such a patch lies anywhere.
    """
    weights = np.array([sampling.structures.get(name, 1.0) for name in present], dtype=float)
    if not weights.sum() > 0:
        return np.zeros(len(present))
    weights = weights / weights.sum()
    if sampling.tumor_share is None:
        return weights
    lesion = np.array([is_lesion(name) for name in present])
    tumors, others = weights[lesion].sum(), weights[~lesion].sum()
    if not tumors or not others:
        return weights
    wanted = np.where(lesion, sampling.tumor_share / tumors, (1 - sampling.tumor_share) / others)
    return weights * wanted


def centred_shares(
    sampling: Sampling,
    facts: Mapping[str, CaseFacts],
    structures: Sequence[str],
    foreground_share: float,
) -> dict[str, float]:
    """Expected share of all training patches that are centred on each structure on purpose.

    Exact: sum over cases of P(case) x `foreground_share` x P(structure | case).

    Args:
        sampling: The plan's.
        facts: Training case -> its facts.
        structures: All structures of the data set.
        foreground_share: Share of patches with forced foreground, over all ranks.
    """
    shares = dict.fromkeys(structures, 0.0)
    probability = case_probabilities(sampling, facts)
    for p_case, one in zip(probability, facts.values(), strict=True):
        present = [name for name in structures if name in one.structures]
        for name, p in zip(present, structure_probabilities(sampling, present), strict=True):
            shares[name] += float(p_case * foreground_share * p)
    return shares


def group_shares(
    sampling: Sampling, facts: Mapping[str, CaseFacts]
) -> tuple[float, dict[str, float]]:
    """Share of samples from tumour-bearing cases, and from each data source."""
    probability = case_probabilities(sampling, facts)
    sources = dict.fromkeys(sorted({one.source for one in facts.values()}), 0.0)
    tumors = 0.0
    for p, one in zip(probability, facts.values(), strict=True):
        sources[one.source] += float(p)
        tumors += float(p) if one.has_tumor else 0.0
    return tumors, sources


def table(expected: Mapping[str, Any]) -> str:
    """The expected shares as text, for the log; the content of sampling.json is described there."""
    lines = [
        f"expected sampling: {expected['foreground_share']:.1%} of patches with forced foreground, "
        f"{expected['tumor_case_share']:.1%} of samples from cases with a tumour "
        f"({expected['n_tumor_cases']} of {expected['n_cases']} cases)"
    ]
    sources = expected["source_shares"]
    if len(sources) > 1:
        lines += [f"  source {name}: {share:.1%} of samples" for name, share in sources.items()]
    lines.append(f"  {'structure':<32} {'cases':>6} {'centred':>9} {'contained (estimate)':>22}")
    for name, row in [*expected["structures"].items(), ("any tumour", expected["any_tumor"])]:
        lines.append(
            f"  {name:<32} {row['n_cases']:>6} {row['centred']:>9.2%} {row['contained']:>13.2%} "
            f"+- {row['standard_error']:.2%}"
        )
    return "\n".join(lines)
