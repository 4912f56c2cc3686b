"""nnU-Net's preprocessing with kernels of ours for its slowest parts: the same arrays, bit for bit.

Only where a plan names the stock class and the stock function with the stock arguments, which is
what the kernels are held equal to; any other plan runs as it is.
"""

from __future__ import annotations

from typing import Any

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from atlas_nnunet.kernels.locations import class_locations
from atlas_nnunet.kernels.resample_labels import resample_labels

STOCK_LABELS = (
    "resample_data_or_seg_to_shape",
    {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
)


class Preprocessor(DefaultPreprocessor):
    """Stock's, but for the sampling of foreground voxels."""

    @staticmethod
    def _sample_foreground_locations(
        seg: Any, classes_or_regions: Any, seed: int = 1234, verbose: bool = False
    ) -> Any:
        """With stock's own default seed, the only one that its preprocessing uses."""
        del seed, verbose
        return class_locations(seg, classes_or_regions)


class Configuration(ConfigurationManager):
    """Stock's, but for the function that resamples labels."""

    @property
    def resampling_fn_seg(self) -> Any:
        named = self.configuration["resampling_fn_seg"]
        if (named, self.configuration["resampling_fn_seg_kwargs"]) == STOCK_LABELS:
            return resample_labels
        return super().resampling_fn_seg


def with_kernels(
    configuration: ConfigurationManager,
) -> tuple[DefaultPreprocessor, ConfigurationManager]:
    """The plan's preprocessor and configuration, with our kernels where they are stock's equals."""
    if configuration.preprocessor_class is not DefaultPreprocessor:
        return configuration.preprocessor_class(verbose=False), configuration
    return Preprocessor(verbose=False), Configuration(configuration.configuration)
