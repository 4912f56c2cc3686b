"""Files are written whole, and leftovers of killed runs go, but nobody else's."""

import os
import subprocess
import sys
import time

import pytest

from atlas_nnunet.artefacts import (
    content_hash,
    link_or_copy,
    partial_path,
    root,
    sweep,
    whole_file,
    write_json,
)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"b": 1, "a": [2]})
    before = path.read_bytes()

    def interrupted():
        with whole_file(path) as partial:
            partial.write_text("half")
            assert path.read_bytes() == before
            assert partial.suffix == ".json"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_link_where_there_are_links_and_the_bytes_everywhere(tmp_path, monkeypatch, links):
    def refused(*_):
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", refused)
    source, alias = tmp_path / "source", tmp_path / "alias"
    source.write_bytes(b"whole")
    alias.symlink_to(source.name)
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere/target"
    link_or_copy(alias, target)
    assert target.read_bytes() == b"whole"
    assert not target.is_symlink()
    assert target.samefile(source) is links


def test_nnunets_folders_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", "raw")
    assert root("nnUNet_raw") == tmp_path / "raw"


def test_keys_in_any_order_are_one_content_and_one_file(tmp_path):
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    for name, content in (("x", {"a": 1, "b": 2}), ("y", {"b": 2, "a": 1})):
        write_json(tmp_path / name, content)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_only_leftovers_of_dead_processes_of_this_machine_are_swept(tmp_path):
    code = (
        "import os, sys, pathlib; from atlas_nnunet.artefacts import partial_path;"
        "d = pathlib.Path(sys.argv[1]); partial_path(d / 'case_0000.nii.gz').write_text('half');"
        "partial_path(d / 'folder').mkdir(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    ours = partial_path(tmp_path / "case_0001.nii.gz")
    ours.write_text("in work")
    elsewhere = tmp_path / f".partial~another-machine~{2**22 + 1}~case_0002.nii.gz"
    elsewhere.write_text("in work")
    done = tmp_path / "case_0003.nii.gz"
    done.write_text("done")
    sweep(tmp_path, tmp_path / "not there")
    assert sorted(tmp_path.iterdir()) == sorted([ours, elsewhere, done])
    assert str(os.getpid()) in ours.name


def test_of_other_machines_only_what_has_been_idle_for_long_is_swept_and_only_where_asked(tmp_path):
    idle, busy = (tmp_path / f".partial~another-machine~1~{name}.pth" for name in "ab")
    for path in (idle, busy):
        path.write_text("half")
    os.utime(idle, (time.time() - 4000,) * 2)
    sweep(tmp_path)
    assert idle.exists()
    sweep(tmp_path, other_machines_after_s=3600)
    assert sorted(tmp_path.iterdir()) == [busy]


def test_a_synced_file_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(
    tmp_path, monkeypatch
):
    """Else a power failure leaves an empty file: a rename may reach the disk first."""
    done = []

    def fsync(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{tmp_path}"))

    def replace(source, target, *, before=os.replace):
        done.append("rename")
        before(source, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.replace", replace)
    path = tmp_path / "checkpoint.pth"
    for synced, expected in (
        (True, ["/" + partial_path(path).name, "rename", ""]),
        (False, ["rename"]),
    ):
        with whole_file(path, synced=synced) as partial:
            partial.write_text("weights")
        assert done == expected
        done.clear()
