"""Cases of a target set that a pre-training set holds as well: what was found, in words.

`atlas-nnunet datasets overlap` looks, and writes what it finds into the target's conversion.json
under "overlap"; whoever shows a result of the pair says it with these sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KEY = "overlap"


def shared_cases(conversion: Mapping[str, Any], cases: Iterable[str]) -> dict[str, list[str]]:
    """Pre-training set -> those of `cases` that are in it, for every set that was looked at."""
    wanted = set(cases)
    return {
        pretraining: sorted(wanted & found["cases"].keys())
        for pretraining, found in sorted(conversion.get(KEY, {}).items())
    }


def sentences(
    conversion: Mapping[str, Any], cases: Iterable[str], pretraining: str | None = None
) -> list[str]:
    """What to print beside a result.

    Args:
        conversion: Of the target set.
        cases: That the result is about.
        pretraining: Name of the set that was pre-trained on; then it is told as well that nobody
            looked. None tells of all that were looked at.
    """
    cases = list(cases)
    found = shared_cases(conversion, cases)
    if pretraining is not None:
        if pretraining not in found:
            target = conversion.get("dataset", "TARGET")
            return [f"whether cases are in {pretraining} as well is not known: "
                    f"atlas-nnunet datasets overlap {pretraining} {target}"]  # fmt: skip
        found = {pretraining: found[pretraining]}
    lines = []
    for name, shared in found.items():
        told = f": {', '.join(shared[:8])}{', ...' if len(shared) > 8 else ''}" if shared else ""
        lines.append(f"{len(shared)} of {len(cases)} cases are in {name} as well{told}")
    return lines
