"""Label status for batches: which weight each structure of each sample has in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas_nnunet.host import has_regions, head_names
from atlas_nnunet.labelstatus import SECTION, case_weights, counts, read_conversion


class StatusWeights:
    """(case names) -> (batch, head) weights.

    Args:
        dataset_json: nnU-Net's; the section "atlas_nnunet" says that we converted the data set.
        conversion: Its conversion.json; None for a data set that somebody else converted, where
            nnU-Net's own rule holds: everything is annotated.
    """

    def __init__(
        self, dataset_json: Mapping[str, Any], conversion: Mapping[str, Any] | None
    ) -> None:
        self.heads = head_names(dataset_json)
        self.structures = self.heads if has_regions(dataset_json) else self.heads[1:]
        self.background = len(self.heads) - len(self.structures)
        self.conversion = conversion

    @classmethod
    def of_dataset(cls, dataset_json: Mapping[str, Any], conversion: Path) -> StatusWeights:
        """Read conversion.json where dataset.json says that there is one.

        Raises:
            SourceError: it is missing or broken: training without it would treat unlabelled
                structures as background.
        """
        if SECTION not in dataset_json:
            return cls(dataset_json, None)
        hint = f"atlas-nnunet preprocess {conversion.parent.name}"
        return cls(dataset_json, read_conversion(conversion, hint))

    def __call__(self, cases: Sequence[str], device: torch.device) -> Tensor:
        """(batch, head) float32; background's column is 1."""
        rows = [
            [1.0] * self.background
            + (
                [1.0] * len(self.structures)
                if self.conversion is None
                else case_weights(self.conversion, case, self.structures)
            )
            for case in cases
        ]
        return torch.tensor(rows, dtype=torch.float32, device=device)

    def summary(self) -> str:
        """One line for the training's log."""
        if self.conversion is None:
            return "label status: data set not converted by us, every structure annotated"
        found = sorted(counts(self.conversion).items())
        counted = ", ".join(f"{n} {status}" for status, n in found) or "none"
        return f"label status other than annotated, over all cases and structures: {counted}"
