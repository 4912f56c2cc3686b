"""Cases are worked at independently: bad ones are told, deaths have a name, memory a budget."""

import argparse
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.execution import GB, Workers, add_arguments, map_cases
from atlas_nnunet.pool import fitting, largest_first

TWO = Workers(processes=2)
PATIENCE_S = 30  # a hang ends a test after it; no test needs it otherwise


def mapped(work, jobs, workers=TWO, **more):
    return map_cases(work, jobs, workers=workers, describe="test", **more)


def until(happened, what):
    end = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.005)


class Diary:
    """A file that several processes write lines to, each line whole."""

    def __init__(self, path):
        self.path = path

    def write(self, *words):
        with self.path.open("a") as out:
            out.write(" ".join(words) + "\n")

    def lines(self):
        text = self.path.read_text() if self.path.exists() else ""
        return [tuple(line.split()) for line in text.splitlines()]

    def most_together(self, need):
        """The largest sum of `need` over cases that ran at one time, and the most of them."""
        running, sums, counts = [], [], []
        for what, case in self.lines():
            running.append(case) if what == "start" else running.remove(case)
            sums.append(sum(need[c] for c in running))
            counts.append(len(running))
        assert not running
        return max(sums), max(counts)


def written_down(diary, job):
    """So many cases have to start before this one may end."""
    case, starts = job
    diary.write("start", case)
    until(lambda: sum(what == "start" for what, _ in diary.lines()) >= starts, "others")
    time.sleep(0.1)  # who may start beside it, starts
    diary.write("end", case)


def double(number):
    if number == 3:
        raise SourceError("three is refused", where="three", do="leave it out")
    if number == 4:
        raise EOFError("cut short")
    if number == 6:
        raise MemoryError("Unable to allocate 1. PiB")
    return 2 * number


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_cases_are_returned_and_the_others_done(processes):
    jobs = {f"case_{n}": n for n in (5, 3, 1, 4, 6)}
    done, refused = mapped(double, jobs, Workers(processes))
    assert done == {"case_1": 2, "case_5": 10}
    assert list(done) == sorted(done)
    assert set(refused) == {"case_3", "case_4", "case_6"}
    assert all(isinstance(error, AtlasError) for error in refused.values())
    assert refused["case_3"].do == "leave it out"
    assert "cut short" in str(refused["case_4"])
    assert "1. PiB" in str(refused["case_6"])


def die(diary, how):
    """As `how` says; "once" dies at the first time only."""
    before = [word for (word,) in diary.lines()]
    diary.write(how)
    if how == "killed" or (how == "once" and "once" not in before):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "aborts":
        os.abort()
    if how == "leaves":
        os._exit(3)
    if how == "changes":
        os._exit(4) if "changes" in before else os.kill(os.getpid(), signal.SIGTERM)
    return how


def test_a_death_is_named_and_costs_nobody_else_anything(tmp_path):
    diary = Diary(tmp_path / "diary")
    hows = ["killed", "once", "fine", "aborts", "leaves", "changes", "good", "well"]
    done, refused = mapped(partial(die, diary), {f"c_{how}": how for how in hows})
    assert done == {f"c_{how}": how for how in ("once", "fine", "good", "well")}
    told = {case: error.what for case, error in refused.items()}
    assert "killed by SIGKILL twice (out of memory" in told["c_killed"]
    assert "killed by SIGABRT twice;" in told["c_aborts"]
    assert "exited with code 3 twice" in told["c_leaves"]
    assert "killed by SIGTERM, then exited with code 4" in told["c_changes"]
    assert all(error.where == case for case, error in refused.items())
    assert all("-np 1" in error.do and "--memory-gb" in error.do for error in refused.values())
    tried = [word for (word,) in diary.lines()]
    twice = {"killed", "once", "aborts", "leaves", "changes"}
    assert {how: tried.count(how) for how in hows} == {h: 1 + (h in twice) for h in hows}
    assert set(tried[: len(hows)]) == set(hows), "second tries come when all others are done"


def named_culprit(job):
    raise KeyError(job)


class TwoWordsError(Exception):
    """Goes into a pickle and does not come out of it."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class Stuck:
    """A result that goes into a pickle and does not come out of it."""

    def __reduce__(self):
        return int, ("no number",)


def raise_or_return(job):
    if job == "two words":
        raise TwoWordsError("one", "two")
    if job == "holds a lock":
        error = ValueError("with a lock")
        error.lock = multiprocessing.Lock
        error.call = lambda: None
        raise error
    return (lambda: None) if job == "a function" else Stuck()


def wait_or_raise(job):
    diary, case = job
    diary.write(case)
    if case == "waits":
        time.sleep(10 * PATIENCE_S)
    until(lambda: len(diary.lines()) == 2, "the other case")
    return named_culprit(case)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_keeps_its_type_and_its_traceback(processes):
    with pytest.raises(KeyError, match="culprit") as caught:
        mapped(named_culprit, {"a": "culprit"}, Workers(processes))
    if processes == 1:
        assert caught.traceback[-1].name == "named_culprit"
    else:
        assert "in named_culprit" in str(caught.value.__cause__)
        assert "case a" in caught.value.__notes__[0]


def test_a_bug_ends_all_workers_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("atlas_nnunet.pool.GRACE_S", 10 * PATIENCE_S)
    diary = Diary(tmp_path / "diary")
    began = time.monotonic()
    with pytest.raises(KeyError):
        mapped(wait_or_raise, {case: (diary, case) for case in ("raises", "waits")})
    assert time.monotonic() - began < PATIENCE_S
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        ("two words", RuntimeError, "TwoWordsError: one two"),
        ("holds a lock", RuntimeError, "ValueError: with a lock"),
        ("a function", Exception, "pickle"),
        ("not out", ValueError, "no number"),
    ],
)
def test_what_does_not_survive_pickling_is_told_and_is_no_hang(job, kind, words):
    with pytest.raises(kind, match=words) as caught:
        mapped(raise_or_return, {"a": job})
    assert "case a" in caught.value.__notes__[0]


def test_work_that_cannot_be_sent_is_told():
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        mapped(lambda job: job, {"a": 1, "b": 2})
    assert not multiprocessing.active_children()


def tell_pid_and_wait(diary):
    diary.write(str(os.getpid()))
    time.sleep(10 * PATIENCE_S)


def runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_worker_outlives_its_parent(tmp_path, how):
    diary = Diary(tmp_path / "diary")
    call = (
        f"import pathlib, test_execution as t; d = t.Diary(pathlib.Path({str(diary.path)!r})); "
        "t.mapped(t.tell_pid_and_wait, {'a': d, 'b': d})"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", call], env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    ) as parent:  # fmt: skip
        until(lambda: len(diary.lines()) == 2, "two workers")
        parent.send_signal(signal.Signals[how])
    pids = [int(pid) for (pid,) in diary.lines()]
    until(lambda: not any(map(runs, pids)), "the workers' end")


def test_running_cases_fit_into_the_budget(tmp_path):
    diary = Diary(tmp_path / "diary")
    need = {"a": 3, "b": 5, "c": 2, "d": 4, "e": 6, "f": 1}
    done, refused = mapped(
        partial(written_down, diary), {case: (case, 2) for case in need},
        Workers(processes=3, memory_gb=8), need_bytes={c: n * GB for c, n in need.items()},
    )  # fmt: skip
    assert (set(done), refused) == (set(need), {})
    together, count = diary.most_together(need)
    assert together <= 8
    assert count >= 2, "and yet side by side"
    assert diary.lines()[:2] in ([("start", "e"), ("start", "c")], [("start", "c"), ("start", "e")])


def test_a_case_above_the_budget_runs_alone_and_is_told(tmp_path, capsys):
    diary = Diary(tmp_path / "diary")
    need = {"small": 1, "big": 20, "little": 1, "no_estimate": 0}
    jobs = {case: (case, 1 if case == "big" else 4) for case in need}  # the three meet
    estimates = {case: n * GB for case, n in need.items() if n}
    mapped(partial(written_down, diary), jobs, Workers(4, memory_gb=8), need_bytes=estimates)
    assert diary.lines()[:2] == [("start", "big"), ("end", "big")]
    assert "1 case(s) need more than --memory-gb 8 by our estimate and run alone: big\n" in (
        capsys.readouterr().out
    )


def test_in_one_process_the_budget_is_a_note(capsys):
    done, _ = mapped(double, {"a": 1}, Workers(memory_gb=0.5), need_bytes={"a": GB})
    assert done == {"a": 2}
    assert "run alone: a" in capsys.readouterr().out


sizes = st.lists(st.integers(0, 20), max_size=8)


@given(sizes, sizes, st.integers(1, 20))
def test_what_starts_next_is_the_largest_that_fits(waiting, running, budget):
    need = {f"w{i}": n for i, n in enumerate(waiting)} | {f"r{i}": n for i, n in enumerate(running)}
    order = largest_first([c for c in need if c[0] == "w"], need)
    beside = [c for c in need if c[0] == "r"]
    at = fitting(order, beside, need, budget)
    fit = [c for c in order if not running or need[c] + sum(running) <= budget]
    assert (None if at is None else order[at]) == (fit[0] if fit else None)


def test_the_options_say_who_works(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser, processes=3, memory=True)
    assert Workers.of(parser.parse_args([])) == Workers(3)
    words = ["-np", "5", "--cluster", "tcp://a:1", "--memory-gb", "2.5"]
    assert Workers.of(parser.parse_args(words)) == Workers(5, "tcp://a:1", 2.5)
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(AtlasError, match="memory") as caught:
            Workers.of(parser.parse_args(["--memory-gb", wrong]))
        assert caught.value.where == "--memory-gb"
    without = argparse.ArgumentParser()
    add_arguments(without)
    assert Workers.of(without.parse_args([])) == Workers(2)
    with pytest.raises(SystemExit):
        without.parse_args(["--memory-gb", "2"])


def test_a_budget_without_estimates_is_refused():
    with pytest.raises(AtlasError, match="no estimates"):
        mapped(double, {"a": 1}, Workers(memory_gb=1))
