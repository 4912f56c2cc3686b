"""nnU-Net's sliding window, in a precision in which no network overflows.

On a GPU nnU-Net predicts in float16 (`torch.autocast`, predict_from_raw_data.py, nnunetv2 2.8.1),
while our trainers train in bfloat16 where the GPU has it. Their ranges differ: a value above 65,504
is infinite in float16 alone, and the logits that follow are infinite or nan. Within its range
float16 is the finer of the two by three bits, and closer to float32
(docs/decisions/0028-online-dice-and-prediction.md). So prediction stays in float16, which also
keeps label maps equal to nnUNetv2_predict's, and a patch whose logits are not all finite is
computed again in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from atlas_nnunet.errors import SourceError


class SteadyPredictor(nnUNetPredictor):
    """nnU-Net's predictor; what overflows in half precision is computed again in float32.

    Attributes:
        n_repeated: Patches that were computed again, over all cases so far.
    """

    n_repeated = 0

    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        logits = super()._internal_maybe_mirror_and_predict(x)
        device = x.device.type
        if not torch.is_autocast_enabled(device) or bool(torch.isfinite(logits).all()):
            return logits
        self.n_repeated += 1
        if self.n_repeated == 1:
            print(
                "note: activations of this network exceed the range of float16 (65,504); the "
                "patches concerned are predicted in float32"
            )
        with torch.autocast(device, enabled=False):
            return super()._internal_maybe_mirror_and_predict(x.float())

    def predict_sliding_window_return_logits(self, input_image: torch.Tensor) -> Any:
        """As nnU-Net's.

        Raises:
            SourceError: a sum of logits exceeds the float16 that nnU-Net adds patches up in.
        """
        try:
            return super().predict_sliding_window_return_logits(input_image)
        except RuntimeError as error:
            if "inf in predicted array" not in str(error):
                raise
            raise SourceError(
                "the network's logits exceed 65,504, the range in which nnU-Net adds patches up",
                where="the checkpoint",
                do="look at the training's curves; predict with checkpoint_best.pth: -chk",
            ) from error
