"""Archives are read where they lie: the same bytes come out as from unpacked folders."""

import io
import json
import tarfile

import pytest
from test_cards import CARDS
from test_convert import digest
from trees import build

from atlas_nnunet.convert.tree import source_files
from atlas_nnunet.errors import AtlasError

KEY = "abdomenatlas-3.0-mini"
NAME = CARDS[KEY].nnunet_dataset


def pack(folder, path, names, mode, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name in names:
            archive.add(folder / name, prefix + name)


def converted(workspace, folder, *words):
    code = workspace.run("convert", KEY, folder, "-np", 1, *words)
    raw = workspace.folder / "nnUNet_raw" / NAME
    return code, raw, json.loads((raw / "conversion.json").read_text())


@pytest.fixture
def unpacked(tmp_path, workspace):
    """A source in folders, and the digest of what it becomes."""
    folder = tmp_path / "folders"
    build(CARDS[KEY], folder)
    code, raw, _ = converted(workspace, folder)
    assert code == 0
    return folder, {k: v for k, v in digest(raw).items() if not k.startswith("atlas_nnunet")}


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("prefix", ["", "./", "AbdomenAtlas3.0Mini/"])
def test_archives_become_what_folders_become(unpacked, workspace, tmp_path, ending, prefix):
    folder, want = unpacked
    mode = "w" if ending == ".tar" else "w:gz"
    packed = tmp_path / "packed"
    for name in ("image_only", "mask_only"):
        pack(folder, packed / f"{name}_1{ending}", [name], mode, prefix)
    workspace.run("convert", KEY, folder, "-np", 1, "--cases", "2")  # let the other one go
    code, raw, conversion = converted(workspace, packed)
    assert code == 0
    got = {k: v for k, v in digest(raw).items() if not k.startswith("atlas_nnunet")}
    different = {name for name, value in got.items() if value != want.get(name)}
    assert got.keys() == want.keys()
    assert different <= {"conversion.json"}
    names = {n.removeprefix(prefix.strip("./")).strip("/")
             for n in conversion["cases"]["2"]["inputs"]}  # fmt: skip
    assert names == {str(p.relative_to(folder)) for p in folder.rglob("2/**/*.nii.gz")
                     if not p.name.startswith("._")}  # fmt: skip
    assert not list((raw / "atlas_nnunet").glob(".partial*")), "the archives' indices are gone"


def test_workers_read_archives_too(unpacked, workspace, tmp_path):
    folder, want = unpacked
    pack(folder, tmp_path / "packed/all.tar.gz", ["image_only", "mask_only"], "w:gz")
    assert workspace.run("convert", KEY, tmp_path / "packed", "-np", 2) == 0
    got = digest(workspace.folder / "nnUNet_raw" / NAME)
    assert all(got[name] == value for name, value in want.items())


def test_a_broken_archive_is_named_and_what_stands_before_the_damage_is_used(
    unpacked, workspace, tmp_path
):
    folder, _ = unpacked
    packed = tmp_path / "packed"
    pack(folder, packed / "good.tar.gz", ["image_only/2", "mask_only/2"], "w:gz")
    pack(folder, packed / "cut.tar.gz", ["image_only/10", "mask_only/10"], "w:gz")
    pack(folder, packed / "cut.tar", ["image_only/10"], "w")
    for name, keep in (("cut.tar.gz", 0.8), ("cut.tar", 0.6)):
        data = (packed / name).read_bytes()
        (packed / name).write_bytes(data[: int(len(data) * keep)])
    (packed / "empty.tar").write_bytes(b"")
    code, _, conversion = converted(workspace, packed)
    assert code == 1
    assert "2" in conversion["cases"]
    assert {"cut.tar.gz", "empty.tar"} <= conversion["refused"].keys()
    assert all("archive" in conversion["refused"][n] for n in ("cut.tar.gz", "empty.tar"))


def test_an_unpacked_file_goes_before_its_archive(unpacked, tmp_path, workspace):
    folder, want = unpacked
    pack(folder, folder / "all.tar", ["image_only", "mask_only"], "w")
    code, raw, _ = converted(workspace, folder)
    assert code == 0
    assert all(digest(raw)[name] == value for name, value in want.items())


def test_nothing_is_written_outside_and_links_are_not_followed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("../../evil", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 0
            archive.addfile(entry, io.BytesIO())
    files, broken = source_files(tmp_path, tmp_path / "scratch")
    assert [f.name for f in files] == ["../../evil"]
    assert not broken
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar"]


def test_without_the_library_the_next_step_is_told(tmp_path, monkeypatch):
    import sys

    pack(tmp_path, tmp_path / "a.tar.gz", [], "w:gz")
    monkeypatch.setitem(sys.modules, "indexed_gzip", None)
    with pytest.raises(AtlasError, match="not installed") as caught:
        source_files(tmp_path, tmp_path / "scratch")
    assert "atlas-nnunet[archives]" in caught.value.do
