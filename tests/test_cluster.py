"""A real dask cluster of worker processes: whole and equal, also when a worker is killed."""

import os
import shutil
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
from support import Workspace
from test_convert import KEY, NAME, SOME, atlas_case, convert, digest, drawn
from test_execution import Diary, mapped, written_down
from test_predict import model, ours

from atlas_nnunet.errors import AtlasError
from atlas_nnunet.execution import GB, Workers

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
        results, refused = mapped(odd_dies, jobs, Workers(cluster=cluster.scheduler_address))
    assert results == {"c0": 0, "c2": 20, "c3": 30}
    assert "workers died" in refused["c1"].what


def test_an_address_where_nobody_answers_is_told():
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(AtlasError, match="no scheduler answers") as caught,
    ):
        mapped(die, {"c": 1}, Workers(cluster="tcp://127.0.0.1:9"))
    assert "dask scheduler" in caught.value.do


def test_cases_on_a_worker_fit_into_its_memory(tmp_path, capsys):
    diary = Diary(tmp_path / "diary")
    need = {**{f"c{n}": 4 for n in range(5)}, "big": 20}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=6, dashboard_address=None, resources={"memory_gb": 9}
    ) as own:
        done, refused = mapped(
            partial(written_down, diary), {c: (c, 1 if c == "big" else 3) for c in need},
            Workers(cluster=own.scheduler_address, memory_gb=8),
            need_bytes={c: n * GB for c, n in need.items()},
        )  # fmt: skip
        assert (set(done), refused) == (set(need), {})
        assert diary.most_together({**need, "big": 8}) == (8, 2)
        assert diary.lines()[:2] == [("start", "big"), ("end", "big")]
        assert "and ask for no more than that: big" in capsys.readouterr().out
        with pytest.raises(AtlasError, match="asks for 10 GB, the largest worker offers 9"):
            mapped(die, {"c": 1}, Workers(cluster=own.scheduler_address, memory_gb=10),
                   need_bytes={"c": 12 * GB})  # fmt: skip


def test_a_cluster_that_offers_no_memory_is_refused_at_once(cluster):
    workers = Workers(cluster=cluster.scheduler_address, memory_gb=8)
    with pytest.raises(AtlasError, match="offers memory_gb") as caught:
        mapped(die, {"c": 1}, workers, need_bytes={"c": GB})
    assert 'dask worker ADDRESS --resources "memory_gb=' in caught.value.do


def test_fingerprint_preprocess_and_evaluate_on_a_cluster_make_the_same_files(
    cluster, planned, tmp_path, monkeypatch
):
    import blosc2

    name = "Dataset701_Tiny"
    again = Workspace(tmp_path)
    shutil.copytree(planned.folder / "nnUNet_raw", tmp_path / "nnUNet_raw")
    (tmp_path / "nnUNet_preprocessed" / name).mkdir(parents=True)
    plans = f"nnUNet_preprocessed/{name}/AtlasPretrainPlans.json"
    shutil.copyfile(planned.folder / plans, tmp_path / plans)
    words = ("--cluster", cluster.scheduler_address)
    assert again.run("fingerprint", 701, *words) == 0
    assert again.run("preprocess", 701, *words) == 0
    made = f"nnUNet_preprocessed/{name}"
    for file in ("dataset_fingerprint.json", "dataset.json"):
        one, other = (space.folder / made / file for space in (planned, again))
        assert one.read_bytes() == other.read_bytes()
    arrays = sorted((planned.folder / made).rglob("*.b2nd"))
    assert arrays
    for array in arrays:
        other = again.folder / array.relative_to(planned.folder)
        assert np.array_equal(blosc2.open(str(other))[:], blosc2.open(str(array))[:])
    monkeypatch.chdir(tmp_path / "nnUNet_raw" / name)  # workers stand elsewhere
    shutil.copytree("labelsTr", "predicted")
    assert again.run("evaluate", "predicted", "labelsTr", *words) == 0


def test_prediction_on_a_cluster_writes_the_same_files(cluster, workspace, tmp_path):
    results = model(tmp_path, "3d_fullres", "plain", (0, 1, 2))
    broken = tmp_path / "images/c1_0001.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-2000])
    there, here = tmp_path / "there", tmp_path / "here"
    words = ("--cluster", cluster.scheduler_address)
    assert ours(workspace.run, results, tmp_path / "images", here) == 1
    assert ours(workspace.run, results, tmp_path / "images", there, *words) == 1
    for name in ("c0.nii.gz", "c2.nii.gz"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert not (there / "c1.nii.gz").exists()
