"""Unpickle a stranger's checkpoint without running a line of it."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # where pickles of numpy 2 say that its scalars are made

from atlas_nnunet.errors import TransferError

KINDS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)


class Inert:
    """In place of a class whose objects lie beside the weights: takes attributes, does nothing."""


def called(function: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The function under another dotted path, by which torch looks it up."""

    def same(*args: Any) -> Any:
        return function(*args)

    same.__module__, _, same.__qualname__ = path.rpartition(".")
    return same


def stand_in(path: str) -> type:
    """An Inert under the dotted path of a class that is never imported."""
    module, _, name = path.rpartition(".")
    return type(name, (Inert,), {"__module__": module, "__qualname__": name})


# What is loaded beside tensors and plain values. Each row either cannot run code or is ours.
SAFE: list[Any] = [
    # Numbers of nnU-Net's log. numpy 1 called the same functions by another path, and nearly
    # every released nnU-Net v2 checkpoint was written under numpy 1.
    multiarray.scalar, np.ndarray, np.dtype, multiarray._reconstruct,
    called(multiarray.scalar, "numpy.core.multiarray.scalar"),
    called(multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in KINDS),
    # Options of a training script (MONAI's and VoCo's scripts keep them): a bag of attributes.
    argparse.Namespace,
    # nnssl keeps its plan as an object in init_args; the plan we read is the one in JSON form.
    # Nothing of nnssl is imported: the name leads to the stand-in.
    stand_in("nnssl.experiment_planning.experiment_planners.plan.Plan"),
    stand_in("nnssl.experiment_planning.experiment_planners.plan.ConfigurationPlan"),
]  # fmt: skip
# Left out on purpose: collections.defaultdict (it calls what the file gives it), pathlib's paths
# and whole modules (MONAI bundles): no format of ours needs them.

# Sentences of torch 2.6 and later that name what was refused.
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


def load_safely(path: Path) -> Any:
    """Tensors, plain values and the rows of SAFE; everything else is refused.

    Raises:
        TransferError: missing, damaged, or holding an object that could run code.
    """
    if not path.is_file():
        raise TransferError("no such checkpoint", where=str(path),
                            do="give the checkpoint_final.pth of a fold")  # fmt: skip
    try:
        _refuse_compressed(path)
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except TransferError:
        raise
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        refused = _REFUSED.search(str(error))
        told = (
            f"it holds an object of {refused.group(1)}, which is no tensor" if refused
            else str(error).splitlines()[0] if str(error) else type(error).__name__
        )  # fmt: skip
        raise TransferError(
            f"not a checkpoint that can be read safely: {told}",
            where=str(path),
            do="fetch the file again; an object in it that is no tensor is not loaded on purpose: "
            "where you trust the file, save its state dict alone with the program that made it",
        ) from None


def _refuse_compressed(path: Path) -> None:
    """torch stores its archives uncompressed; a compressed one can be a thousand times larger
    in memory than on disk.

    Raises:
        TransferError: a member is compressed, or says that it is larger than the file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed or sum(m.file_size for m in members) > path.stat().st_size:
        raise TransferError(
            "not a checkpoint that can be read safely: an archive that unpacks to more than it is, "
            f"first: {(packed or [members[0].filename])[0]}",
            where=str(path), do="torch.save writes none such: fetch the file again",
        )  # fmt: skip
