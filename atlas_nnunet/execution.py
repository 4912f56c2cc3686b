"""Map a function over cases: one bad case, or one dead worker, never stops the others."""

from __future__ import annotations

import gzip
import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.images import NO_IMAGE

Job = TypeVar("Job")
Result = TypeVar("Result")

# What a broken input raises in the libraries that read it. Anything else is a bug of ours, or a
# full disk, and keeps its traceback.
BROKEN_INPUT = (EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError, *NO_IMAGE)


def map_cases(
    work: Callable[[Job], Result], jobs: Mapping[str, Job], *, processes: int, describe: str
) -> tuple[dict[str, Result], dict[str, AtlasError]]:
    """Do every case's work, with a progress bar.

    Args:
        work: A function that worker processes can import.
        jobs: Case -> what `work` is called with.
        processes: 1 or less works in this process.
        describe: Title of the progress bar.

    Returns:
        Results and refusals by case, sorted by case: nothing depends on who finished first.
    """
    results: dict[str, Result] = {}
    refused: dict[str, AtlasError] = {}
    with tqdm(total=len(jobs), desc=describe, unit="case") as bar:
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
