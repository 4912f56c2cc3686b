"""Networks that a plan can name: atlas_nnunet.networks.UNet3D, .SegResNet, .SwinUNETR, .STUNet.

The second and third need MONAI, which is imported when one of them is asked for and not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from atlas_nnunet.errors import PlanError

MODULES = {
    "UNet3D": "unet", "SegResNet": "segresnet", "SwinUNETR": "swinunetr", "STUNet": "stunet",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A network class; `pydoc.locate`, by which nnU-Net finds what a plan names, ends here.

    Raises:
        PlanError: MONAI is not installed.
    """
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "monai":
            raise
        raise PlanError(
            f"{name} is MONAI's, which is not installed", where=f"{__name__}.{name}",
            do="python -m pip install 'atlas-nnunet[suprem]'",
        ) from None  # fmt: skip
