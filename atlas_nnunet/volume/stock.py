"""What of a plan our steps and kernels are equal to; what else it may name runs as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREPROCESSOR = "DefaultPreprocessor"
FUNCTION = "resample_data_or_seg_to_shape"
ARGUMENTS: dict[str, dict[str, Any]] = {  # of the planners of nnunetv2 2.8.1
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def is_stock_preprocessor(configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration of a plan names the class whose steps `prepare` takes."""
    return configuration.get("preprocessor_name", PREPROCESSOR) == PREPROCESSOR


def is_stock_resampling(configuration: Mapping[str, Any], kind: str) -> bool:
    """Whether it resamples "data", "seg" or "probabilities" as a kernel of ours does."""
    named = configuration.get(f"resampling_fn_{kind}", FUNCTION)
    arguments = configuration.get(f"resampling_fn_{kind}_kwargs", ARGUMENTS[kind])
    return (named, arguments) == (FUNCTION, ARGUMENTS[kind])


def foreign(configuration: Mapping[str, Any], *kinds: str) -> list[str]:
    """One sentence for each part that runs as the plan names it, without our kernels."""
    told = []
    if not is_stock_preprocessor(configuration):
        told.append(f"the plan's {configuration['preprocessor_name']} preprocesses as it is")
    told += [
        f"{kind}: the plan's {configuration[f'resampling_fn_{kind}']} with "
        f"{configuration[f'resampling_fn_{kind}_kwargs']} resamples as it is"
        for kind in kinds
        if not is_stock_resampling(configuration, kind)
    ]
    return [f"note: {sentence}, at stock's speed and memory" for sentence in told]
