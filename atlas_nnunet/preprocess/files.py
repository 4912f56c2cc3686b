"""The three files of a preprocessed case, as nnU-Net reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

LEVEL, CODEC = 5, blosc2.Codec.LZ4HC  # nnUNetDatasetBlosc2.save_case, nnunetv2 2.8.1


def save_case(
    truncated: Path,
    data: np.ndarray,
    seg: np.ndarray,
    properties: dict[str, Any],
    patch: tuple[int, ...],
) -> None:
    """Write what stock's `save_case` does, with its chunks, blocks, codec and choice of filter,
    but with one thread: several put the blocks of a chunk down in the order they finish, and the
    bytes differ from run to run. The number of threads stands in the file too, for both ways.

    Args:
        truncated: Path of the files, without their endings.
        data: (c, x, y, z) float32.
        seg: (1, x, y, z) int16.
        properties: For the .pkl.
        patch: Patch size of the configuration: a patch is to lie in few chunks.
    """
    for ending, array in ((".b2nd", data), ("_seg.b2nd", seg)):
        array = np.ascontiguousarray(array)
        blocks, chunks = comp_blosc2_params(array.shape, patch, array.itemsize)
        chosen = nnUNetDatasetBlosc2._select_filter(array, blocks, chunks, CODEC, LEVEL)
        how = {"codec": CODEC, "clevel": LEVEL, "filters": [chosen], "nthreads": 1}
        blosc2.asarray(
            array, urlpath=f"{truncated}{ending}", chunks=chunks, blocks=blocks, cparams=how,
            dparams={"nthreads": 1},
        )  # fmt: skip
    write_pickle(properties, f"{truncated}.pkl")
