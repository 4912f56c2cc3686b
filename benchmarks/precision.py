"""Logits and decisions of a trained network in float16 and bfloat16 against float32.

    python benchmarks/precision.py TRAINER__PLANS__CONFIGURATION FOLDER_OF_PREPROCESSED_CASES

On a CPU, by autocast: what differs between the formats is the rounding, not the device.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import blosc2
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from atlas_nnunet.hosttraining import use_our_trainers

FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def center(image: np.ndarray, patch: list[int]) -> np.ndarray:
    """(channel, *patch) from the middle of (channel, *vox), padded where the image is smaller."""
    for axis, size in enumerate(patch, 1):
        lacking = max(0, size - image.shape[axis])
        image = np.pad(image, [(0, lacking if a == axis else 0) for a in range(image.ndim)])
        start = (image.shape[axis] - size) // 2
        image = image.take(range(start, start + size), axis)
    return image


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("-f", dest="fold", default="all")
    args = parser.parse_args()
    use_our_trainers()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(args.model), (args.fold,))
    network = predictor.network.eval()
    patch = predictor.configuration_manager.patch_size
    regions = predictor.label_manager.has_regions
    files = sorted(p for p in args.cases.glob("*.b2nd") if not p.stem.endswith("_seg"))[:3]
    error: dict[str, list[float]] = {name: [] for name in FORMATS}
    changed = dict.fromkeys(FORMATS, 0)
    voxels, largest = 0, 0.0
    for file in files:
        x = torch.from_numpy(center(blosc2.open(str(file))[:], patch))[None]
        with torch.no_grad():
            exact = network(x)
            largest = max(largest, float(exact.abs().max()))
            voxels += exact[0].numel() if regions else exact[0, 0].numel()
            for name, dtype in FORMATS.items():
                with torch.autocast("cpu", dtype):
                    found = network(x).float()
                error[name].append(float((found - exact).abs().mean()))
                one, other = ((y > 0) if regions else y.argmax(1) for y in (exact, found))
                changed[name] += int((one != other).sum())
    print(f"{len(files)} patches, {voxels} decisions, largest logit {largest:.1f}")
    for name in FORMATS:
        share = changed[name] / voxels
        print(f"{name}: mean error of a logit {np.mean(error[name]):.2e}, "
              f"{changed[name]} decisions differ ({share:.2e})")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
