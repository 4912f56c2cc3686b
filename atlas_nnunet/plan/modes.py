"""What a target's plan takes from the source: a table of modes."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_nnunet.settings import twin_name


@dataclass(frozen=True)
class Mode:
    """One way to plan a target for transfer.

    Attributes:
        name: As `--mode` takes it.
        network: Whether widths, blocks and network class are the source's, in configurations with
            as many axes as the source.
        geometry: Whether spacing, patch, strides, kernels and order of axes are the source's too.
        plans_name: Name of the plans file where none is given, so that modes lie side by side.
        purpose: For `--help`.
    """

    name: str
    network: bool
    geometry: bool
    plans_name: str
    purpose: str

    def name_of(self, transfers: bool) -> str:
        """A twin from scratch lies beside its transfer: AtlasScratchPlans."""
        return self.plans_name if transfers else twin_name(self.plans_name)

    def data_identifier(self, plans_name: str, configuration: str) -> str:
        """Folder of the preprocessed cases.

        Plans of two modes under one name must not share it: their spacings differ.
        """
        middle = "" if self.name == DEFAULT else f"_{self.name}"
        return f"{plans_name}{middle}_{configuration}"


DEFAULT = "aligned"

# fmt: off
MODES = {mode.name: mode for mode in (
    Mode("aligned", True,  False, "AtlasTransferPlans",
         "the target's spacing, patch, strides and batch, on the source's widths and blocks"),
    Mode("native",  False, False, "AtlasTransferNativePlans",
         "nnU-Net's own plan for the target; weights are adapted to it"),
    Mode("inherit", True,  True,  "AtlasTransferInheritPlans",
         "the source's spacing, patch and strides as well; the batch is the target's"),
)}
# fmt: on
