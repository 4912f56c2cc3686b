"""The fingerprint from records is stock's, number for number, whichever cases come and go."""

import json
import os
import tracemalloc
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import write_tiny_dataset

from atlas_nnunet.fingerprint import case as case_module
from atlas_nnunet.fingerprint import merge as merge_module
from atlas_nnunet.fingerprint.case import KEPT, NEW, Job, analyse, need_bytes, nonzero_box
from atlas_nnunet.fingerprint.record import SPARE, Origin, Record, keep, positions

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

SAMPLES = 600  # over a set, instead of 1e8
SHAPE = (9, 9, 9)
AFFINES = [
    np.diag([1, 1, 2.5, 1]),
    np.array([[0, -0.8, 0, 5], [0, 0, 3, 1], [1.1, 0, 0, 0], [0, 0, 0, 1]]),
]


@pytest.fixture
def stock(monkeypatch):
    """Stock's own extraction of a data set, in this process, with SAMPLES intensities."""
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor as module

    monkeypatch.setattr(
        module, "multiprocessing",
        SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool)),
    )  # fmt: skip
    monkeypatch.setattr(module, "sleep", lambda _: None)
    monkeypatch.setattr(merge_module, "SAMPLES", SAMPLES)

    def run(space, name):
        for variable, value in space.variables.items():
            monkeypatch.setenv(variable, value)
        extractor = module.DatasetFingerprintExtractor(name, 1)
        extractor.num_foreground_voxels_for_intensitystats = float(SAMPLES)
        extractor.show_progress_bar = False
        ours = fingerprint_file(space, name)
        aside = ours.rename(ours.with_suffix(".ours")) if ours.is_file() else None
        extractor.run(overwrite_existing=True)
        found = json.loads(ours.read_text())
        ours.unlink()
        if aside:
            aside.rename(ours)
        return found

    return run


@pytest.fixture
def reads(monkeypatch):
    """Names of the images that were read."""
    read = []

    def counted(reader, files):
        read.append(files[0].name.split("_0000.")[0])
        return real(reader, files)

    real = case_module.read_images
    monkeypatch.setattr(case_module, "read_images", counted)
    return read


def fingerprint_file(space, name):
    return space.folder / "nnUNet_preprocessed" / name / "dataset_fingerprint.json"


def ours(space, name):
    return json.loads(fingerprint_file(space, name).read_text())


def write_case(folder, case, channels, foreground, seed, ending=".nii.gz"):
    """Images with zeros at two faces and a hole; `foreground` voxels of the mask are set."""
    rng = np.random.default_rng(seed)
    affine = AFFINES[seed % 2]
    mask = -(rng.random(SHAPE) < 0.1).astype(np.int16)  # below zero is no foreground either
    mask.flat[rng.permutation(mask.size)[: int(foreground * mask.size)]] = rng.integers(1, 4)
    for channel in range(channels):
        image = rng.normal(40, 300, SHAPE).astype(np.int16 if seed % 3 else np.float32)
        image[: (seed + channel) % 3] = 0
        image[..., -1:] = 0
        image[3, 3, 3] = 0
        nib.save(nib.Nifti1Image(image, affine), folder / f"imagesTr/{case}_{channel:04d}{ending}")
    nib.save(nib.Nifti1Image(mask, affine), folder / f"labelsTr/{case}{ending}")


def write_set(space, name, channels, foregrounds, first=0, **more):
    """A raw data set with one case for each share of foreground."""
    folder, ending = space.folder / "nnUNet_raw" / name, more.get("file_ending", ".nii.gz")
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for number, foreground in enumerate(foregrounds):
        seed = first + number
        write_case(folder, f"case_{seed:02d}", channels, foreground, seed, ending)
    content = {
        "channel_names": {str(c): f"T{c}" for c in range(channels)},
        "labels": {"background": 0, "thing": [1, 2, 3], "other": 3},
        "numTraining": len(foregrounds),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@given(
    st.integers(1, 400), st.integers(1, 3), st.integers(1, 70), st.integers(1, 200),
    st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=300)
def test_what_is_kept_gives_every_draw_that_it_says_it_gives(n_voxels, channels, n, other, seed):
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    rng = np.random.default_rng(seed)
    images = rng.normal(0, 100, (channels, 4, 10, 10)).astype(np.float32)
    labels = np.zeros((1, 4, 10, 10), np.int16)
    labels.flat[rng.permutation(400)[:n_voxels]] = 1
    values = keep(images, labels[0] > 0, n)
    record = Record(Origin("k", "s"), (4, 10, 10), (1, 1, 1), 1.0, n_voxels, values)
    assert record.head.gives(n)
    assert record.head.gives(SPARE * n), "half of the cases may go"
    assert values.shape[1] <= min(n_voxels, SPARE * n * channels), "and no more is kept"
    for asked in (n, 1, SPARE * n, other):
        if not record.head.gives(asked):
            with pytest.raises(ValueError, match="does not give"):
                record.drawn(asked)
            continue
        theirs, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
            labels, images, num_samples=asked
        )
        mine = record.drawn(asked)
        assert mine.dtype == theirs[0].dtype
        assert np.array_equal(mine, np.stack(theirs))


def test_choices_one_after_another_are_one_sequence():
    for size in (1, 2, 3, 255, 256, 257, 100_003, 5_000_000):
        pixels = np.arange(size)
        state = np.random.RandomState(1234)
        found = [state.choice(pixels, n, replace=True) for n in (10, 1001, 7)]
        assert np.array_equal(np.concatenate(found), positions(size, 1018))
        assert np.array_equal(positions(size, 2000)[:1018], positions(size, 1018))


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
@settings(max_examples=100)
def test_a_hole_has_no_part_in_the_box(seed, channels, density):
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    rng = np.random.default_rng(seed)
    images = rng.normal(0, 9, (channels, *rng.integers(1, 9, 3))).astype(np.float32)
    images *= rng.random(images.shape) < density
    box = nonzero_box(images)
    _, _, theirs = crop_to_nonzero(images, np.zeros_like(images[:1]))
    assert [[s.start, s.stop] for s in box] == theirs


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_cases_come_and_go(workspace, stock, reads, capsys, channels):
    name = "Dataset701_Some"
    folder = write_set(workspace, name, channels, [0.1, 0.9, 0.3, 0.01, 0.6, 0.0])
    aside = workspace.folder / "aside"
    aside.mkdir()

    def out(*numbers):
        for number in numbers:
            for path in [*folder.glob(f"*/case_{number:02d}*")]:
                path.rename(aside / path.name)

    def back():
        for path in aside.iterdir():
            path.rename(folder / ("labelsTr" if len(path.stem) < 13 else "imagesTr") / path.name)

    def law(*expected):
        reads.clear()
        assert workspace.run("fingerprint", 701, "-np", 1) == 0
        assert ours(workspace, name) == stock(workspace, name)
        assert sorted(reads) == [f"case_{number:02d}" for number in expected]
        return capsys.readouterr().out

    assert "6 of 6 cases were new" in law(0, 1, 2, 3, 4, 5)
    assert "0 of 6" in law()
    out(5)  # the one without foreground; with it all is float64
    assert "0 of 5" in law()
    out(0, 3)
    assert "0 of 3" in law(), "half of the cases may go before any is read again"
    back()
    law()
    write_case(folder, "case_06", channels, 0.4, 6)
    assert "1 of 7" in law(6)
    out(0, 2, 3, 4, 6)
    # 518 voxels of foreground, and 2 x 100 samples a channel were kept of them; 300 are asked for.
    again = [1] if channels < 3 else []
    assert ("1 cases were read again" in law(*again)) == bool(again)
    back()
    law()


def test_records_know_their_files(workspace, stock, reads, monkeypatch):
    name = "Dataset701_Some"
    folder = write_set(workspace, name, 1, [0.5, 0.6, 0.7], file_ending=".nii")
    hashed = []
    real = case_module.file_hash
    monkeypatch.setattr(case_module, "file_hash", lambda p: hashed.append(p.name) or real(p))

    def run():
        reads.clear()
        hashed.clear()
        assert workspace.run("fingerprint", 701, "-np", 1) == 0
        assert ours(workspace, name) == stock(workspace, name)
        return list(reads), sorted(hashed)

    assert len(run()[1]) == 6
    assert run() == ([], []), "not a byte is read"
    mask = folder / "labelsTr/case_01.nii"
    os.utime(mask)
    assert run() == ([], ["case_01.nii", "case_01_0000.nii"])
    assert run() == ([], [])
    times = mask.stat()
    data = bytearray(mask.read_bytes())
    data[-300:] = bytes(300)
    mask.write_bytes(data)
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert run()[0] == ["case_01"], "another content under the old size and date"


@pytest.mark.parametrize("damage", ["cut", "old", "text"])
def test_a_record_that_cannot_be_used_is_made_again(workspace, stock, reads, damage):
    name = "Dataset701_Some"
    write_set(workspace, name, 1, [0.5, 0.6])
    assert workspace.run("fingerprint", 701, "-np", 1) == 0
    before = ours(workspace, name)
    record = fingerprint_file(workspace, name).parent / "atlas_nnunet/fingerprint/case_01.npz"
    if damage == "old":
        np.savez(record, key=np.array("k"), intensities=np.zeros((1, 9)))
    else:
        record.write_bytes(record.read_bytes()[:200] if damage == "cut" else b"no record")
    reads.clear()
    assert workspace.run("fingerprint", 701, "-np", 1) == 0
    assert reads == ["case_01"]
    assert ours(workspace, name) == before == stock(workspace, name)


def test_a_list_of_cases_keeps_its_order(workspace, stock):
    """Stock takes dataset.json's own order, and a sum of floats depends on it."""
    name = "Dataset701_Listed"
    folder = write_set(workspace, name, 1, [0.5, 0.6, 0.7, 0.8])
    listed = {
        f"case_{n:02d}": {"images": [f"imagesTr/case_{n:02d}_0000.nii.gz"],
                          "label": f"labelsTr/case_{n:02d}.nii.gz"}
        for n in (2, 0, 3, 1)
    }  # fmt: skip
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "dataset": listed}))
    assert workspace.run("fingerprint", 701, "-np", 1) == 0
    assert ours(workspace, name) == stock(workspace, name)


def test_other_readers_give_stocks_numbers(workspace, stock):
    more = {"overwrite_image_reader_writer": "SimpleITKIO"}
    write_set(workspace, "Dataset701_Itk", 2, [0.5, 0.0, 0.7], **more)
    assert workspace.run("fingerprint", 701, "-np", 1) == 0
    assert ours(workspace, "Dataset701_Itk") == stock(workspace, "Dataset701_Itk")


def test_what_has_no_fingerprint_is_refused(workspace, capsys):
    folder = write_set(workspace, "Dataset701_None", 1, [0.0, 0.0])
    assert workspace.run("fingerprint", 701, "-np", 1) == 2
    assert "no case has any foreground" in capsys.readouterr().err
    short = np.ones((9, 9, 8), np.uint8)
    nib.save(nib.Nifti1Image(short, AFFINES[0]), folder / "labelsTr/case_00.nii.gz")
    assert workspace.run("fingerprint", 701, "-np", 1) == 1
    assert "the mask has (8, 9, 9) voxels, the image (9, 9, 9)" in capsys.readouterr().out


def test_several_sets_have_the_fingerprint_of_one_that_holds_all(workspace, stock, reads, capsys):
    names = ("Dataset501_Target", "Dataset701_Atlas")
    folders = [
        write_set(workspace, names[0], 2, [0.5, 0.6], first=20),
        write_set(workspace, names[1], 2, [0.1, 0.9, 0.3, 0.0, 0.7]),
    ]
    assert workspace.run("fingerprint", 701, "-np", 1) == 0
    assert workspace.run("fingerprint", 501, "-np", 1) == 0
    alone = [ours(workspace, name) for name in names]
    reads.clear()
    file = workspace.folder / "together.json"
    assert workspace.run("fingerprint", 701, 501, "-o", file, "-np", 1) == 0
    assert reads == []
    assert [ours(workspace, name) for name in names] == alone, "each keeps its own"
    whole = write_set(workspace, "Dataset801_All", 2, [])
    for folder in folders:
        for path in [*folder.glob("*Tr/*.nii.gz")]:
            os.symlink(path, whole / path.parent.name / f"{folder.name}_{path.name}")
    together = json.loads(file.read_text())
    assert together.pop("atlas_nnunet") == {
        "datasets": {names[0]: 2, names[1]: 5}, "channel_names": ["T0", "T1"],
    }  # fmt: skip
    assert together == stock(workspace, "Dataset801_All")
    written = file.read_bytes()
    assert workspace.run("fingerprint", 501, 701, 501, "-o", file, "-np", 1) == 0
    assert file.read_bytes() == written, "in whichever order they are named"
    capsys.readouterr()
    assert workspace.run("fingerprint", 501, 701, "-np", 1) == 2
    assert "-o FILE" in capsys.readouterr().err
    write_set(workspace, "Dataset502_Other", 1, [0.5])
    assert workspace.run("fingerprint", 501, 502, "-o", file, "-np", 1) == 2
    assert "Dataset501_Target: T0, T1; Dataset502_Other: T0" in capsys.readouterr().err
    assert file.read_bytes() == written


def test_a_set_is_planned_for_several_together(workspace, tmp_path, capsys):
    raw = workspace.folder / "nnUNet_raw"
    for name, n in (("Dataset501_Target", 2), ("Dataset701_Tiny", 3)):
        folder = write_tiny_dataset(raw, name, n, seed=n)
        for path in folder.glob("*Tr/*.nii.gz"):
            image = nib.load(path)
            spacing = np.diag([1, 1, n, 1.0])
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), spacing), path)
    file = tmp_path / "together.json"
    assert workspace.run("fingerprint", 501, 701, "-o", file, "-np", 1) == 0
    plans = {}
    for name, options in (("Own", ()), ("Both", ("--fingerprint", file))):
        words = ("--preset", "cpu", "--memory-gb", 0.05, *options)
        assert workspace.run("plan", 501, "-p", name, *words) == 0
        path = workspace.folder / f"nnUNet_preprocessed/Dataset501_Target/{name}.json"
        plans[name] = json.loads(path.read_text())
    key = "foreground_intensity_properties_per_channel"
    assert plans["Both"][key] == json.loads(file.read_text())[key] != plans["Own"][key]
    for name, spacing_mm in (("Own", 2), ("Both", 3)):
        assert plans[name]["original_median_spacing_after_transp"][0] == spacing_mm
    assert plans["Both"]["atlas_nnunet"]["planned_for"] == {
        "Dataset501_Target": 2, "Dataset701_Tiny": 3,
    }  # fmt: skip
    assert "planned_for" not in plans["Own"]["atlas_nnunet"]
    content = json.loads(file.read_text())
    content["atlas_nnunet"]["channel_names"] = ["MRI"]
    for wrong in (content, {**content, key: {}}, {"spacings": []}, [1]):
        file.write_text(json.dumps(wrong))
        capsys.readouterr()
        assert workspace.run("plan", 501, "--fingerprint", file) == 2
        assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("share", "n", "channels"),
    [(0.1, 2_000, 1), (1.0, 2_000, 1), (1.0, 10**7, 1), (0.1, 10**7, 2), (1.0, 10**7, 2)],
)
def test_the_memory_of_a_case_is_known_before(tmp_path, share, n, channels):
    shape = (256, 256, 160)
    rng = np.random.default_rng(0)
    mask = (rng.random(shape) < share).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii")
    images = tuple(tmp_path / f"{c}.nii" for c in range(channels))
    for path in images:
        nib.save(nib.Nifti1Image(rng.integers(-999, 999, shape).astype(np.int16), np.eye(4)), path)
    reader = "NibabelIOWithReorient"
    job = Job("a", images, tmp_path / "mask.nii", reader, n, tmp_path / "a.npz")
    tracemalloc.start()
    try:
        assert analyse(job) == NEW
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= need_bytes(job) <= 2.5 * peak
    assert analyse(job) == KEPT
