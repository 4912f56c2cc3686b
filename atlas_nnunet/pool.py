"""Worker processes with one case in hand each: a death has a case and a signal, memory a budget."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from atlas_nnunet.errors import SourceError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

GRACE_S = 5.0  # for a worker to end by itself
LOOK_S = 1.0  # a child of a dead worker may keep its pipe open: so look at the worker now and then
LIKELY = {
    signal.SIGKILL: "out of memory, or killed from outside",
    signal.SIGSEGV: "a crash in a library",
}


@dataclass(frozen=True)
class Death:
    """How a worker ended with a case in hand; `exitcode` below 0 is minus a signal."""

    exitcode: int

    def __str__(self) -> str:
        if self.exitcode >= 0:
            return f"exited with code {self.exitcode}"
        return f"was killed by {getattr(self._signal, 'name', f'signal {-self.exitcode}')}"

    @property
    def _signal(self) -> signal.Signals | None:
        known = {int(s): s for s in signal.Signals}
        return known.get(-self.exitcode)

    def refusal(self, case: str, first: Death) -> SourceError:
        """What is told of a case whose worker died twice."""
        how = f"{self} twice" if first == self else f"{first}, then {self}"
        why = f" ({LIKELY[self._signal]})" if self._signal in LIKELY else ""
        return SourceError(
            f"its worker {how}{why}; the second time it was alone", where=case,
            do="give it more memory, or run again with -np 1 to see what it says; --memory-gb "
            "keeps large cases apart; the other cases are done",
        )  # fmt: skip


class WorkerError(Exception):
    """Where in a worker a bug was raised, as text: the cause of what the parent raises."""


def in_processes(
    call: Callable[[str, Job], Outcome], jobs: Mapping[str, Job], processes: int,
    need_bytes: Mapping[str, int], budget_bytes: float,
) -> Iterator[tuple[str, Outcome | SourceError]]:  # fmt: skip
    """Call for every case in spawned workers; in which order is not promised.

    A case whose worker dies is tried once more, alone, when all others are done: two that did
    not fit into memory together fit one after the other.

    Args:
        call: case, job -> outcome; what it raises is a bug and ends everything.
        jobs: Case -> job.
        processes: Workers at once, at most.
        need_bytes: Case -> estimated peak memory; what is not in it counts as nothing.
        budget_bytes: The estimates of running cases stay within it; a case that needs more
            runs with nothing beside it.
    """
    died: dict[str, Death] = {}
    for case, outcome in _round(call, jobs, processes, need_bytes, budget_bytes):
        if isinstance(outcome, Death):
            died[case] = outcome
        else:
            yield case, outcome
    for case, first in died.items():
        for _, outcome in _round(call, {case: jobs[case]}, 1, need_bytes, budget_bytes):
            yield case, outcome.refusal(case, first) if isinstance(outcome, Death) else outcome


def largest_first(cases: Collection[str], need_bytes: Mapping[str, int]) -> list[str]:
    """The order that `fitting` asks for; cases of equal need stay in theirs."""
    return sorted(cases, key=lambda case: -need_bytes.get(case, 0))


def fitting(
    waiting: Sequence[str], running: Collection[str], need_bytes: Mapping[str, int],
    budget_bytes: float,
) -> int | None:  # fmt: skip
    """Index of the largest waiting case that fits beside the running ones, None without one.

    Where nothing runs, the largest of all: a case above the budget has to run at some time.
    """
    if not running:
        return 0 if waiting else None
    free = budget_bytes - sum(need_bytes.get(case, 0) for case in running)
    at = bisect_left(waiting, -free, key=lambda case: -need_bytes.get(case, 0))
    return at if at < len(waiting) else None


def _round(
    call: Callable[[str, Job], Outcome], jobs: Mapping[str, Job], processes: int,
    need_bytes: Mapping[str, int], budget_bytes: float,
) -> Iterator[tuple[str, Outcome | Death]]:  # fmt: skip
    """Every case once; a worker is started when a case fits and no idle one is there."""
    waiting = largest_first(jobs, need_bytes)
    workers: list[_Worker] = []
    try:
        while True:
            workers = [w for w in workers if w.case is not None or w.process.exitcode is None]
            busy = {w.case: w for w in workers if w.case is not None}
            at = fitting(waiting, busy, need_bytes, budget_bytes)
            if at is not None and len(busy) < processes:
                idle = next((w for w in workers if w.case is None), None)
                if idle is None:
                    workers.append(idle := _Worker())
                case = waiting.pop(at)
                idle.take(call, case, jobs[case])
            elif busy:
                ends = [end for w in busy.values() for end in (w.pipe, w.process.sentinel)]
                wait(ends, timeout=LOOK_S)
                for case, worker in busy.items():
                    if worker.is_heard():
                        yield case, worker.outcome()
            else:
                return
    finally:
        _end(workers)


class _Worker:
    """A spawned process, the pipe to it, and the case in its hands."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.case: str | None = None
        self.pipe, theirs = context.Pipe()
        # No daemon: those may not start processes, and a stage's work may.
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()

    def take(self, call: Callable[[str, Job], Any], case: str, job: Job) -> None:
        self.case = case
        message = pickle.dumps((call, case, job))
        with suppress(OSError):  # it died meanwhile: `outcome` will tell
            self.pipe.send_bytes(message)

    def is_heard(self) -> bool:
        return self.pipe.poll() or self.process.exitcode is not None

    def outcome(self) -> Any:
        """What came of the case in hand; what was raised there is raised here."""
        case, self.case = self.case, None
        try:
            message = self.pipe.recv_bytes() if self.pipe.poll() else b""
        except (EOFError, OSError):  # cut off, perhaps in the middle of an answer
            message = b""
        if not message:
            _end([self])
            return Death(self.process.exitcode or 0)
        try:
            is_done, content = pickle.loads(message)
        except Exception as error:
            error.add_note(f"its result does not survive pickling: case {case}")
            raise
        if is_done:
            return content
        bug, text = content
        bug.add_note(f"raised in a worker process: case {case}")
        raise bug from WorkerError(f"\n{text}")


def _end(workers: Collection[_Worker]) -> None:
    """Idle ones end because their pipe is closed; what is still at work is not waited for."""
    for worker in workers:
        if worker.case is not None:
            worker.process.terminate()
        worker.pipe.close()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()


def _serve(pipe: Connection) -> None:
    """A worker's life: one case after another, until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _follow_parent() -> None:
    """Die with a parent that was killed, also in the middle of a case."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _answer(message: bytes) -> bytes:
    try:
        call, case, job = pickle.loads(message)
        return pickle.dumps((True, call(case, job)))
    except Exception as error:
        text = traceback.format_exc()
        try:
            answer = pickle.dumps((False, (error, text)))
            pickle.loads(answer)  # many an exception goes in and does not come out
        except Exception:
            name = "".join(traceback.format_exception_only(error)).strip()
            answer = pickle.dumps((False, (RuntimeError(name), text)))
        return answer
