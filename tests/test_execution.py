"""Cases are worked at independently: bad ones are told, dead workers have a name."""

import os
import signal
from pathlib import Path

import pytest

from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.execution import map_cases


def double(number: int) -> int:
    if number == 3:
        raise SourceError("three is refused", where="three", do="leave it out")
    if number == 4:
        raise EOFError("cut short")
    return 2 * number


def die_on_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(job: tuple[int, str]) -> int:
    number, marker = job
    if number == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_cases_are_returned_and_the_others_done(processes):
    jobs = {f"case_{n}": n for n in (5, 3, 1, 4)}
    done, refused = map_cases(double, jobs, processes=processes, describe="test")
    assert done == {"case_1": 2, "case_5": 10}
    assert list(done) == sorted(done)
    assert set(refused) == {"case_3", "case_4"}
    assert all(isinstance(error, AtlasError) for error in refused.values())
    assert refused["case_3"].do == "leave it out"
    assert "cut short" in str(refused["case_4"])


def test_a_case_that_kills_its_worker_is_named_and_the_others_are_done():
    done, refused = map_cases(
        die_on_two, {str(n): n for n in range(5)}, processes=2, describe="test"
    )
    assert set(done) == {"0", "1", "3", "4"}
    assert "died" in str(refused["2"])


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    jobs = {str(n): (n, str(tmp_path / "died")) for n in range(5)}
    done, refused = map_cases(die_once, jobs, processes=2, describe="test")
    assert not refused
    assert done == {str(n): n for n in range(5)}


def test_a_bug_keeps_its_traceback():
    with pytest.raises(TypeError):
        map_cases(len, {"a": 1}, processes=1, describe="test")
