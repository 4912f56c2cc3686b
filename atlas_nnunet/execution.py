"""Map a function over cases: one bad case, or one dead worker, never stops the others."""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from atlas_nnunet.cluster import START, on_cluster
from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.nifti import NO_IMAGE, ErrorKinds
from atlas_nnunet.pool import in_processes

Job = TypeVar("Job")
Result = TypeVar("Result")

GB = 10**9  # bytes
# What a broken input raises in the libraries that read it. Anything else is a bug of ours, or a
# full disk, and keeps its traceback.
BROKEN_INPUT: ErrorKinds = (EOFError, zlib.error, FileNotFoundError, *NO_IMAGE)


@dataclass(frozen=True)
class Workers:
    """Who works at the cases.

    Attributes:
        processes: Worker processes; 1 or less works in this process.
        cluster: Address of a dask.distributed scheduler; its workers do the work then, and see
            the same folders under the same paths.
        memory_gb: What running cases may need together by the stage's estimate, in 10^9 bytes.
            On a cluster, most that a case asks for; what a worker has, it says itself.
    """

    processes: int = 1
    cluster: str | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.memory_gb is not None and not self.memory_gb > 0:  # NaN is not, either
            raise AtlasError(f"not a size of memory: {self.memory_gb:g}", where="--memory-gb",
                             do="give a number of GB above 0")  # fmt: skip

    @classmethod
    def of(cls, args: argparse.Namespace) -> Workers:
        """As the options of `add_arguments` say."""
        return cls(args.processes, args.cluster, getattr(args, "memory_gb", None))

    def estimates(
        self, need_bytes: Callable[[Job], int], jobs: Mapping[str, Job], process_bytes: int
    ) -> dict[str, int]:
        """The function `estimates` where there is a budget to hold; else no header is opened."""
        return {} if self.memory_gb is None else estimates(need_bytes, jobs, process_bytes)


def add_arguments(
    parser: argparse.ArgumentParser, *, processes: int = 2, memory: bool = False
) -> None:
    """The options that `Workers.of` reads.

    Args:
        parser: Of a command.
        processes: Default of -np.
        memory: Offer --memory-gb: for commands that give `map_cases` estimates.
    """
    parser.add_argument(
        "-np", dest="processes", type=int, default=processes, metavar="N",
        help=f"worker processes, default {processes}; 1 works in this one",
    )  # fmt: skip
    parser.add_argument("--cluster", metavar="ADDRESS",
                        help="work on this dask.distributed cluster (tcp://HOST:8786), not here: "
                        "its workers see the same folders under the same paths")  # fmt: skip
    if memory:
        parser.add_argument("--memory-gb", dest="memory_gb", type=float, metavar="GB",
                            help="run cases side by side only while their estimated memory fits "
                            "into so many GB together; what needs more runs alone. On a cluster "
                            f"workers say what they have: {START}")  # fmt: skip


def map_cases(
    work: Callable[[Job], Result], jobs: Mapping[str, Job], *, workers: Workers, describe: str,
    need_bytes: Mapping[str, int] | None = None, shown: bool = True,
) -> tuple[dict[str, Result], dict[str, AtlasError]]:  # fmt: skip
    """Do every case's work, with a progress bar.

    Args:
        work: A function that worker processes can import.
        jobs: Case -> what `work` is called with.
        workers: Who does it.
        describe: Title of the progress bar.
        need_bytes: Case -> estimated peak memory of its work; a case that is not in it counts as
            nothing. Needed where `workers.memory_gb` is set.
        shown: Whether there is a progress bar.

    Returns:
        Results and refusals by case, sorted by case: nothing depends on who finished first.
    """
    need = _checked_need(jobs, workers, need_bytes)
    outcomes = _outcomes(partial(attempt, work), jobs, workers, describe, need)
    return collect(outcomes, jobs, describe, shown=shown)


def estimates(
    need_bytes: Callable[[Job], int], jobs: Mapping[str, Job], process_bytes: int
) -> dict[str, int]:
    """What a stage expects of the memory of each case's worker.

    Args:
        need_bytes: A case's own; where its header cannot be read it counts as nothing, for its
            work will refuse it.
        jobs: By case.
        process_bytes: What a worker takes before its first case.
    """
    found: dict[str, int] = {}
    for case, job in jobs.items():
        with suppress(AtlasError):
            found[case] = process_bytes + need_bytes(job)
    return found


def collect(
    outcomes: Generator[tuple[str, Result | AtlasError], None, None],
    jobs: Mapping[str, Job],
    describe: str,
    *,
    shown: bool = True,
) -> tuple[dict[str, Result], dict[str, AtlasError]]:
    """Results and refusals by case, sorted by case, with a progress bar; see `map_cases`."""
    results: dict[str, Result] = {}
    refused: dict[str, AtlasError] = {}
    # Closed here, and not when the garbage collector comes round: workers end with it.
    with (
        closing(outcomes),
        tqdm(total=len(jobs), desc=describe, unit="case", disable=not shown) as bar,
    ):
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
    except MemoryError as error:
        return SourceError(
            f"needs more memory than there is: {error}", where=case,
            do="run again with -np 1 or --memory-gb, or on a machine with more memory",
        )  # fmt: skip
    except OSError as error:
        if error.errno is not None:  # the system's own: a full disk is no broken input
            raise
        return _unreadable(error, case)


def _unreadable(error: Exception, case: str) -> SourceError:
    return SourceError(
        f"cannot be read: {type(error).__name__}: {error}", where=case,
        do="fetch the file again; the other cases go on",
    )  # fmt: skip


def _checked_need(
    jobs: Mapping[str, Job], workers: Workers, need_bytes: Mapping[str, int] | None
) -> dict[str, int]:
    """Estimates in bytes of all cases; which of them are above the budget is told."""
    need = {case: (need_bytes or {}).get(case, 0) for case in jobs}
    if workers.memory_gb is None:
        return need
    if need_bytes is None:
        raise AtlasError("no estimates of memory in this command", where="--memory-gb",
                         do="leave it out")  # fmt: skip
    above = [case for case in jobs if need[case] > workers.memory_gb * GB]
    if above:
        then = "ask for no more than that" if workers.cluster else "run alone"
        print(f"{len(above)} case(s) need more than --memory-gb {workers.memory_gb:g} by our "
              f"estimate and {then}: {', '.join(sorted(above))}", flush=True)  # fmt: skip
    return need


def _outcomes(
    call: Callable[[str, Job], Result | AtlasError], jobs: Mapping[str, Job], workers: Workers,
    describe: str, need_bytes: Mapping[str, int],
) -> Generator[tuple[str, Result | AtlasError], None, None]:  # fmt: skip
    budget_gb = math.inf if workers.memory_gb is None else workers.memory_gb
    if workers.cluster:
        asked = {case: min(need / GB, budget_gb) for case, need in need_bytes.items()}
        yield from on_cluster(call, jobs, workers.cluster, describe,
                              None if workers.memory_gb is None else asked)  # fmt: skip
    elif workers.processes > 1:
        yield from in_processes(call, jobs, workers.processes, need_bytes, budget_gb * GB)
    else:
        for case, job in jobs.items():
            yield case, call(case, job)
