"""Reading, network and export of different cases at the same time, in a memory that is bounded.

Threads of one process: what works long (decompression, torch) does not hold Python's lock, and no
logits travel between processes. At most `ahead` cases are read before their turn and `behind` are
being exported after it, and cases stand side by side only while their estimates fit the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from atlas_nnunet.errors import AtlasError
from atlas_nnunet.execution import attempt
from atlas_nnunet.predict.case import Job, Prepared, export_case, prepare_case, run_network

Outcome = bool | AtlasError


def overlapped(
    jobs: Mapping[str, Job], *, ahead: int, behind: int, need_bytes: Mapping[str, int],
    budget_bytes: float,
) -> Generator[tuple[str, Outcome], None, None]:  # fmt: skip
    """Predict cases in order.

    Args:
        jobs: By case.
        ahead: Cases read before their turn; 0 reads a case when it is its turn.
        behind: Cases being exported while others are in the network; 0 waits for each.
        need_bytes: Estimate by case; a case without one counts as 0.
        budget_bytes: Of all cases at hand together; one alone may exceed it.

    Yields:
        Case, and whether there was work or why it was refused.
    """
    waiting = deque(jobs)
    reading: deque[tuple[str, Future]] = deque()
    writing: deque[tuple[str, Future]] = deque()

    def at_hand(*more: str) -> int:
        return sum(need_bytes.get(case, 0) for case in (*_cases(reading), *_cases(writing), *more))

    with ExitStack() as stack:
        readers = stack.enter_context(ThreadPoolExecutor(max(1, ahead)))
        writers = stack.enter_context(ThreadPoolExecutor(max(1, behind)))

        def read_on(now: str | None) -> None:
            beside = () if now is None else (now,)
            while waiting and len(reading) < max(ahead, not beside):
                is_alone = not (reading or writing or beside)
                if not is_alone and at_hand(waiting[0], *beside) > budget_bytes:
                    return
                case = waiting.popleft()
                reading.append((case, readers.submit(attempt, prepare_case, case, jobs[case])))

        while waiting or reading:
            read_on(None)
            while not reading:  # the budget is taken by exports
                yield _done(writing)
                read_on(None)
            case, future = reading.popleft()
            prepared = future.result()
            if prepared is None or isinstance(prepared, AtlasError):
                yield case, prepared or False
                continue
            read_on(case)
            logits = attempt(partial(_network, prepared), case, jobs[case])
            if isinstance(logits, AtlasError):
                yield case, logits
                continue
            while len(writing) >= max(1, behind):
                yield _done(writing)
            work = partial(_export, prepared, logits)
            del prepared, logits
            writing.append((case, writers.submit(attempt, work, case, jobs[case])))
            del work
            if not behind:
                yield _done(writing)
        while writing:
            yield _done(writing)


def _network(prepared: Prepared, job: Job) -> Any:
    return run_network(job, prepared)


def _export(prepared: Prepared, logits: Any, job: Job) -> bool:
    return export_case(job, prepared, logits)


def _cases(futures: deque[tuple[str, Future]]) -> list[str]:
    return [case for case, _ in futures]


def _done(futures: deque[tuple[str, Future]]) -> tuple[str, Outcome]:
    case, future = futures.popleft()
    return case, future.result()
