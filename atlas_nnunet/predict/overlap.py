"""Reading, network and export of different cases at the same time, in a memory that is bounded.

Threads of one process: what works long (decompression, torch) does not hold Python's lock, and no
logits travel between processes. At most `ahead` cases are read before their turn and `behind` are
being exported after it, and cases stand side by side only while their estimates fit the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
    with (
        ThreadPoolExecutor(max(1, ahead)) as readers,
        ThreadPoolExecutor(max(1, behind)) as writers,
    ):
        line = _Line(jobs, readers, writers, need_bytes, budget_bytes)
        while line.waiting or line.reading:
            line.read_on(max(1, ahead), None)
            while not line.reading:  # the budget is taken by exports
                yield _done(line.writing)
                line.read_on(max(1, ahead), None)
            case, prepared = _done(line.reading)
            if prepared is None or isinstance(prepared, AtlasError):
                yield case, prepared or False
                continue
            line.read_on(ahead, case)
            logits = attempt(partial(_network, prepared), case, jobs[case])
            if isinstance(logits, AtlasError):
                yield case, logits
                continue
            while len(line.writing) >= max(1, behind):
                yield _done(line.writing)
            line.export(case, prepared.key, prepared.properties, logits)
            del prepared, logits  # the export holds what it needs
            if not behind:
                yield _done(line.writing)
        while line.writing:
            yield _done(line.writing)


class _Line:
    """The cases: those that wait, that are being read, and that are being exported."""

    def __init__(
        self, jobs: Mapping[str, Job], readers: ThreadPoolExecutor, writers: ThreadPoolExecutor,
        need_bytes: Mapping[str, int], budget_bytes: float,
    ) -> None:  # fmt: skip
        self.waiting = deque(jobs)
        self.reading: deque[tuple[str, Future]] = deque()
        self.writing: deque[tuple[str, Future]] = deque()
        self._jobs, self._readers, self._writers = jobs, readers, writers
        self._need, self._budget = need_bytes, budget_bytes

    def read_on(self, most: int, now: str | None) -> None:
        """Begin to read what comes next, while fewer than `most` are read and memory allows it.

        Args:
            most: Cases being read, or read and waiting for their turn.
            now: The case whose turn it is.
        """
        while self.waiting and len(self.reading) < most:
            at_hand = [case for case, _ in (*self.reading, *self.writing)] + ([now] if now else [])
            together = sum(self._need.get(case, 0) for case in (*at_hand, self.waiting[0]))
            if at_hand and together > self._budget:
                return
            case = self.waiting.popleft()
            future = self._readers.submit(attempt, prepare_case, case, self._jobs[case])
            self.reading.append((case, future))

    def export(self, case: str, key: str, properties: dict[str, Any], logits: Any) -> None:
        work = partial(_export, key, properties, logits)
        self.writing.append((case, self._writers.submit(attempt, work, case, self._jobs[case])))


def _network(prepared: Prepared, job: Job) -> Any:
    return run_network(job, prepared)


def _export(key: str, properties: dict[str, Any], logits: Any, job: Job) -> bool:
    return export_case(job, key, properties, logits)


def _done(futures: deque[tuple[str, Future]]) -> tuple[str, Any]:
    case, future = futures.popleft()
    return case, future.result()
