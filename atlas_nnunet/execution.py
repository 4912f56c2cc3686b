"""Map a function over cases: one bad case, or one dead worker, never stops the others."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar
from uuid import uuid4

from tqdm import tqdm

from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.nifti import NO_IMAGE, ErrorKinds

Job = TypeVar("Job")
Result = TypeVar("Result")

# What a broken input raises in the libraries that read it. Anything else is a bug of ours, or a
# full disk, and keeps its traceback.
BROKEN_INPUT: ErrorKinds = (EOFError, zlib.error, FileNotFoundError, *NO_IMAGE)


def map_cases(
    work: Callable[[Job], Result], jobs: Mapping[str, Job], *, processes: int, describe: str,
    cluster: str | None = None,
) -> tuple[dict[str, Result], dict[str, AtlasError]]:  # fmt: skip
    """Do every case's work, with a progress bar.

    Args:
        work: A function that worker processes can import.
        jobs: Case -> what `work` is called with.
        processes: 1 or less works in this process.
        describe: Title of the progress bar.
        cluster: Address of a dask.distributed scheduler; its workers do the work, and see the
            same folders under the same paths.

    Returns:
        Results and refusals by case, sorted by case: nothing depends on who finished first.
    """
    results: dict[str, Result] = {}
    refused: dict[str, AtlasError] = {}
    with tqdm(total=len(jobs), desc=describe, unit="case") as bar:
        if cluster:
            outcomes = _on_cluster(work, jobs, cluster)
        else:
            outcomes = _serial(work, jobs) if processes <= 1 else _parallel(work, jobs, processes)
        for case, outcome in outcomes:
            if isinstance(outcome, AtlasError):
                refused[case] = outcome
            else:
                results[case] = outcome
            bar.update()
    return dict(sorted(results.items())), dict(sorted(refused.items()))


def print_refused(refused: Mapping[str, AtlasError]) -> None:
    """A table of refused cases, where there are any."""
    if refused:
        print(f"{len(refused)} case(s) refused:")
    for case, error in refused.items():
        print(f"  {case}: {error}")


def attempt(work: Callable[[Job], Result], case: str, job: Job) -> Result | AtlasError:
    """Do one case's work; what the input is to blame for comes back as a value."""
    try:
        return work(job)
    except AtlasError as error:
        return error
    except BROKEN_INPUT as error:
        return _unreadable(error, case)
    except OSError as error:
        if error.errno is not None:  # the system's own: a full disk is no broken input
            raise
        return _unreadable(error, case)


def _unreadable(error: Exception, case: str) -> SourceError:
    return SourceError(
        f"cannot be read: {type(error).__name__}: {error}", where=case,
        do="fetch the file again; the other cases go on",
    )  # fmt: skip


def _serial(
    work: Callable[[Job], Result], jobs: Mapping[str, Job]
) -> Iterator[tuple[str, Result | AtlasError]]:
    for case, job in jobs.items():
        yield case, attempt(work, case, job)


def _parallel(
    work: Callable[[Job], Result], jobs: Mapping[str, Job], processes: int
) -> Iterator[tuple[str, Result | AtlasError]]:
    """Spawned workers. When one dies, who was in its hands is not known: the cases that are not
    done run once more, each in a pool of its own, so that a second death has a name."""
    context = multiprocessing.get_context("spawn")
    left = dict(jobs)
    try:
        with ProcessPoolExecutor(min(processes, len(jobs)), context) as pool:
            futures: dict[Future, str] = {
                pool.submit(attempt, work, case, job): case for case, job in jobs.items()
            }
            for future in as_completed(futures):
                outcome = future.result()
                case = futures[future]
                del left[case]
                yield case, outcome
    except BrokenProcessPool:
        for case, job in left.items():
            yield case, _alone(work, case, job, context)


def _alone(
    work: Callable[[Job], Result],
    case: str,
    job: Job,
    context: multiprocessing.context.SpawnContext,
) -> Result | AtlasError:
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(attempt, work, case, job).result()
    except BrokenProcessPool:
        return SourceError(
            "its worker died twice (out of memory, or killed)", where=case,
            do="run again with more memory or with -np 1; the other cases are done",
        )  # fmt: skip


def _on_cluster(
    work: Callable[[Job], Result], jobs: Mapping[str, Job], address: str
) -> Iterator[tuple[str, Result | AtlasError]]:
    """Workers of a dask cluster. What a lost worker had in hand, dask gives to another; cases that
    were on `distributed.scheduler.allowed-failures` lost workers are tried once more, alone.

    Raises:
        AtlasError: dask.distributed is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise AtlasError("dask.distributed is not installed", where="--cluster",
                         do="python -m pip install 'atlas-nnunet[cluster]'") from error  # fmt: skip
    try:
        client = Client(address)
    except (OSError, TimeoutError, ValueError) as error:
        raise AtlasError(
            f"no scheduler answers: {error}", where=f"--cluster {address}",
            do="start one: dask scheduler --port 8786; and workers: dask worker ADDRESS",
        ) from error  # fmt: skip
    with client:
        futures = {
            client.submit(attempt, work, case, job, key=f"{work.__name__}-{case}-{uuid4()}"): case
            for case, job in jobs.items()
        }
        suspects = []
        for future in as_completed(futures, raise_errors=False):
            try:
                yield futures[future], future.result()
            except KilledWorker:
                suspects.append(futures[future])
        for case in suspects:  # one after another: what only stood beside a death goes through
            try:
                yield case, client.submit(attempt, work, case, jobs[case], pure=False).result()
            except KilledWorker as error:
                yield case, SourceError(
                    f"workers died with it: {error}", where=case,
                    do="run again on workers with more memory; the other cases are done",
                )  # fmt: skip
