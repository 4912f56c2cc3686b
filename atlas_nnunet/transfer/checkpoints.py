"""Read a pre-trained checkpoint without running a line of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # where pickles of numpy 2 say that its scalars are made
from torch import Tensor

from atlas_nnunet.artefacts import file_hash
from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec, network_spec

# What a genuine nnU-Net checkpoint holds beside tensors and plain values: numbers of its log.
SAFE: list[Any] = [
    multiarray.scalar, np.ndarray, np.dtype, multiarray._reconstruct,
    *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int64, np.bool_)),
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A pre-trained network.

    Attributes:
        parameters: By the names of `named_parameters()`, aliases dropped.
        spec: The network they belong to.
        plans: The plan it was trained by.
        dataset_json: Of its data set.
        configuration: Its configuration.
        trainer: Name of its trainer class.
        sha256: Of the file.
    """

    parameters: Mapping[str, Tensor]
    spec: NetworkSpec
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    configuration: str
    trainer: str
    sha256: str


def load_safely(path: Path) -> dict[str, Any]:
    """Unpickle tensors, plain values and numpy numbers; refuse everything else.

    Raises:
        TransferError: missing, damaged, or holding an object that could run code.
    """
    if not path.is_file():
        raise TransferError("no such checkpoint", where=str(path),
                            do="give the checkpoint_final.pth of a fold")  # fmt: skip
    try:
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        raise TransferError(
            f"not a checkpoint that can be read safely: {str(error).splitlines()[0]}",
            where=str(path),
            do="fetch the file again; an object in it that is no tensor is not loaded on purpose",
        ) from None


def read_checkpoint(path: Path) -> Source:
    """A checkpoint in nnU-Net v2's format.

    Raises:
        TransferError: unsafe or damaged (see `load_safely`), in another format, or its weights
            do not belong to the network that its plan describes.
    """
    stored = load_safely(path)
    absent = {"network_weights", "init_args"} - set(stored) if isinstance(stored, dict) else {"all"}
    if absent:
        raise TransferError(
            f"no nnU-Net v2 checkpoint: {sorted(absent)} not in it", where=str(path),
            do="give the checkpoint_final.pth of a fold",
        )  # fmt: skip
    init = stored["init_args"]
    spec = network_spec(init["plans"], init["configuration"], init["dataset_json"])
    weights = stored["network_weights"]
    wanted = dict(spec.build_empty().named_parameters())
    bad = [n for n, p in wanted.items() if n not in weights or weights[n].shape != p.shape]
    if bad:
        raise TransferError(
            f"{len(bad)} parameters of the planned network are missing or differ, first: {bad[0]}",
            where=str(path), do="the plan inside is not the one it was trained by: train again",
        )  # fmt: skip
    return Source(
        {name: weights[name] for name in wanted}, spec, init["plans"], init["dataset_json"],
        init["configuration"], str(stored.get("trainer_name")), file_hash(path),
    )  # fmt: skip
