"""A real dask cluster of worker processes: whole and equal, also when a worker is killed."""

import os
import signal
import threading
import time

import pytest
from test_convert import KEY, NAME, SOME, atlas_case, convert, digest, drawn

from atlas_nnunet.errors import AtlasError
from atlas_nnunet.execution import map_cases

distributed = pytest.importorskip("distributed")


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as own:
        yield own


def kill_one(cluster, records, wanted, done):
    """A worker, as soon as so many cases are done; how many were then goes to `done`."""
    while len(list(records.glob("*.json"))) < wanted:
        time.sleep(0.001)
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
    done.append(len(list(records.glob("*.json"))))


def test_a_killed_worker_costs_nothing(cluster, workspace, tmp_path):
    for i in range(40):
        atlas_case(tmp_path / "s", f"c{i:02d}", drawn(i, SOME))
    (tmp_path / "s/c07/ct.nii.gz").write_bytes(b"broken")
    assert convert(workspace, KEY, tmp_path / "s") == 1
    raw = workspace.folder / "nnUNet_raw" / NAME
    undisturbed = digest(raw)
    os.rename(workspace.folder / "nnUNet_raw", workspace.folder / "before")
    done: list[int] = []
    records = raw / "atlas_nnunet/records"
    killer = threading.Thread(target=kill_one, args=(cluster, records, 3, done), daemon=True)
    killer.start()
    words = ("--cluster", cluster.scheduler_address)
    assert convert(workspace, KEY, tmp_path / "s", *words) == 1
    killer.join()
    assert done[0] < 39, "the kill came while cases were left"
    assert digest(raw) == undisturbed


def die(job):
    os.kill(os.getpid(), signal.SIGKILL)


def odd_dies(job):
    return die(job) if job == 1 else job * 10


def test_a_case_that_takes_workers_down_is_refused_and_the_others_are_done(cluster):
    import dask

    jobs = {f"c{n}": n for n in range(4)}
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        results, refused = map_cases(
            odd_dies, jobs, processes=1, describe="x", cluster=cluster.scheduler_address
        )
    assert results == {"c0": 0, "c2": 20, "c3": 30}
    assert "workers died" in refused["c1"].what


def test_an_address_where_nobody_answers_is_told():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(AtlasError, match="no scheduler answers") as caught,
    ):
        map_cases(die, {"c": 1}, processes=1, describe="x", cluster="tcp://127.0.0.1:9")
    assert "dask scheduler" in caught.value.do
