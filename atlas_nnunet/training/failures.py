"""What ends a training from outside, in words: memory, a dead worker, a damaged file, a full disk.

The traceback goes to the training's log, the message to whoever started it.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from atlas_nnunet.errors import AtlasError, TrainingError
from atlas_nnunet.training.guard import StepGuard

RESUME = "then run the same command again (nnUNetv2_train: with --c) to resume the training"


class RememberedCases:
    """A data set of nnU-Net (`nnUNetBaseDataset`) that remembers the case it opened last.

    The files are read after `load_case` has returned, when a patch is cut out of them: whoever
    catches the error then asks here.
    """

    def __init__(self, cases: Any) -> None:
        self._cases = cases
        self.last = ""

    def load_case(self, identifier: str) -> Any:
        self.last = str(identifier)
        return self._cases.load_case(identifier)

    def __getattr__(self, name: str) -> Any:
        if name == "_cases":  # asked for while unpickling, before there is one
            raise AttributeError(name)
        return getattr(self._cases, name)


@dataclass(frozen=True)
class Failed:
    """In the place of a batch that could not be prepared: torch loses the fields of an error that
    a worker process raises (ExceptionWrapper, torch/_utils.py, 2.15).

    Attributes:
        error: What to raise where the batch is asked for.
        details: The traceback, for the log.
    """

    error: AtlasError
    details: str


class ReportedBatches(Dataset):
    """Batches by number; one that cannot be prepared is a `Failed`.

    Args:
        batches: With `loader`, nnU-Net's; its data are `RememberedCases`.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __getitem__(self, iteration: int) -> dict[str, Any] | Failed:
        try:
            return self.batches[iteration]
        except AtlasError as error:
            return Failed(error, traceback.format_exc())
        except Exception as error:  # of the reading library or of an augmentation: any kind
            cases = getattr(self.batches.loader, "_data", None)
            return Failed(_unreadable(cases, error), traceback.format_exc())


def opened(batch: dict[str, Any] | Failed) -> dict[str, Any]:
    """The batch.

    Raises:
        TrainingError: it could not be prepared.
    """
    if isinstance(batch, Failed):
        batch.error.add_note(batch.details)
        raise batch.error
    return batch


def _unreadable(cases: Any, error: Exception) -> TrainingError:
    case, folder = getattr(cases, "last", "") or "unknown", getattr(cases, "source_folder", "")
    dataset = Path(folder).parent.name or "DATASET"
    return TrainingError(
        f"no batch could be made of case {case}: {type(error).__name__}: {_first_line(error)}",
        where=str(Path(folder) / f"{case}.b2nd") if folder else case,
        do=f"remove this case's files there and run 'atlas-nnunet preprocess {dataset}' again, "
        f"{RESUME}",
    )


@dataclass(frozen=True)
class Kind:
    """A kind of failure: how to recognise it, what to call it, what to do."""

    is_it: Callable[[BaseException], bool]
    what: str
    do: str


def _says(*texts: str) -> Callable[[BaseException], bool]:
    return lambda error: any(text in str(error) for text in texts)


def _is_gpu_memory(error: BaseException) -> bool:
    texts = "CUDA out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED"
    return isinstance(error, torch.OutOfMemoryError) or _says(*texts)(error)


def _is_main_memory(error: BaseException) -> bool:
    texts = "can't allocate memory", "not enough memory"  # c10/core/impl/alloc_cpu.cpp
    return isinstance(error, MemoryError) or _says(*texts)(error)


def _is_dead_worker(error: BaseException) -> bool:
    """Torch's word for it, or a batch of it that cannot be fetched from it any more."""
    return isinstance(error, ConnectionError) or _says("DataLoader worker")(error)


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


KINDS = (  # the first that applies; what no row recognises keeps its traceback: it is a bug
    Kind(
        _is_gpu_memory,
        "the GPU has no memory left",
        "end other programs on this GPU, " + RESUME + ". If the plan is too large for this GPU: "
        "plan again, under another name (-p), with a smaller --memory-gb or --preset, which "
        "reduces patch and batch",
    ),
    Kind(
        _is_main_memory,
        "the machine has no main memory left",
        "give the training fewer workers (export nnUNet_n_proc_DA=2) or more memory, " + RESUME,
    ),
    Kind(
        _is_dead_worker,
        "a worker process that prepares batches was killed, probably for want of main memory or "
        "shared memory (/dev/shm)",
        "give the training fewer workers (export nnUNet_n_proc_DA=2) or more memory, " + RESUME,
    ),
    Kind(
        _is_full_disk,
        "the disk is full",
        "make room; the checkpoints that are there are whole, " + RESUME,
    ),
    Kind(
        _says("PytorchStreamReader failed"),  # torch, inline_container.cc
        "the checkpoint is damaged",
        "remove it: the same command (nnUNetv2_train: with --c) then takes the next older one, or "
        "starts from the beginning",
    ),
    Kind(
        _says("deterministic implementation", "CUBLAS_WORKSPACE_CONFIG"),
        "the plan asks for deterministic arithmetic, and an operation of this network has none on "
        "this device",
        "plan again without --deterministic",
    ),
)


@contextmanager
def in_words(guard: StepGuard, log: Callable[[str], None]) -> Iterator[None]:
    """Failures of the table above as a TrainingError, their traceback in the training's log.

    Args:
        guard: Knows the present batch.
        log: Writes to the training's log.

    Raises:
        TrainingError: one of them, with the cases and the shape of the batch at that time.
    """
    try:
        yield
    except AtlasError as error:
        log("\n".join([str(error), *getattr(error, "__notes__", ())]))
        raise
    except Exception as error:
        kind = next((kind for kind in KINDS if kind.is_it(error)), None)
        if kind is None:
            raise
        log("".join(traceback.format_exception(error)))
        raise TrainingError(
            f"{kind.what}: {_first_line(error)}", where=_moment(guard), do=kind.do
        ) from None


def _moment(guard: StepGuard) -> str:
    if not guard.batch:
        return "before the first iteration"
    shape = " x ".join(str(n) for n in getattr(guard.batch.get("data"), "shape", ()))
    cases = ", ".join(guard.cases) or "unknown"
    return f"iteration {guard.iteration} (cases: {cases}; batch x channels x patch: {shape})"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
