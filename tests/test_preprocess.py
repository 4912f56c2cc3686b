"""Any stock plan, preprocessed case by case: stock's arrays and properties."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from support import Workspace, assert_same

from atlas_nnunet.errors import GeometryError, LabelMapError, SourceError
from atlas_nnunet.kernels.crop import nonzero_mask
from atlas_nnunet.preprocess.case import PROCESS_BYTES, Job, need_bytes, preprocess_case
from atlas_nnunet.rawdata import RawCase
from atlas_nnunet.volume.prepare import resampler
from atlas_nnunet.volume.stock import foreign

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

FUNCTION = "resample_data_or_seg_to_shape"
DATA = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
SEG = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
CT = {"mean": 40.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 300.0,
      "median": 30.0, "min": -1000.0, "max": 900.0}  # fmt: skip
FULL = {
    "data_identifier": "full", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
    "patch_size": [16, 16, 16], "spacing": [1.3, 0.9, 1.1], "architecture": {},
    "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
    "use_mask_for_norm": [False, True],
    "resampling_fn_data": FUNCTION, "resampling_fn_data_kwargs": DATA,
    "resampling_fn_seg": FUNCTION, "resampling_fn_seg_kwargs": SEG,
    "resampling_fn_probabilities": FUNCTION, "resampling_fn_probabilities_kwargs": DATA,
}  # fmt: skip
CONFIGURATIONS = {
    "3d_fullres": FULL,
    "3d_lowres": {"inherits_from": "3d_fullres", "data_identifier": "low",
                  "spacing": [2.6, 1.8, 2.2], "next_stage": "3d_cascade_fullres"},
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    "2d": {"inherits_from": "3d_fullres", "data_identifier": "flat", "spacing": [0.9, 1.1],
           "patch_size": [24, 24]},
    "thick": {"inherits_from": "3d_fullres", "spacing": [6.0, 0.9, 1.1]},
    "as_it_lies": {"inherits_from": "3d_fullres", "spacing": [2.0, 1.0, 1.5]},
    "torch": {"inherits_from": "3d_fullres", "resampling_fn_data": "resample_torch_fornnunet",
              "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
              "resampling_fn_seg": "resample_torch_fornnunet",
              "resampling_fn_seg_kwargs": {"is_seg": True, "force_separate_z": False}},
    "other_norms": {"inherits_from": "3d_fullres",
                    "normalization_schemes": ["RescaleTo01Normalization", "NoNormalization"]},
}  # fmt: skip
LABELS = {
    "plain": {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}},
    "regions": {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": [3]},
                "regions_class_order": [1, 2, 3]},
    "ignore": {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}},
    "many": {"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 200, "e": 300}},
}  # fmt: skip


def written(
    folder, *, reader, labels, transpose=(0, 1, 2), body=True, seed=0, shape=(22, 26, 24)
):  # fmt: skip
    """A raw case of two channels, its dataset.json, and a plan of all configurations."""
    rng = np.random.default_rng(seed)
    images = [gaussian_filter(rng.normal(0, 900, shape), 1.5) for _ in range(2)]
    seg = np.clip(np.digitize(gaussian_filter(rng.normal(0, 9, shape), 2.5), [0, 0.6, 1.2]), 0, 3)
    if labels == "many":
        seg[2:6, 2:6, 2:6], seg[9:12, 9:12, 9:12] = 200, 300
    if body:  # zero outside, in a frame that is cut away and in corners that are not
        outside = np.ones(shape, bool)
        outside[3:-2, 2:-4, 5:-3] = False
        outside[3:9, 2:9, 5:11] = True
        for image in images:
            image[outside] = 0
        images[0][12, 12, 12] = images[1][12, 12, 12] = 0  # a hole
    raw = RawCase((folder / "c_0000.nii.gz", folder / "c_0001.nii.gz"), folder / "c.nii.gz")
    kinds = [np.float32, np.float32, np.int16]
    for path, array, kind in zip((*raw.images, raw.label), (*images, seg), kinds, strict=True):
        volume = sitk.GetImageFromArray(array.astype(kind))
        volume.SetSpacing((1.5, 1.0, 2.0))
        sitk.WriteImage(volume, str(path))
    plans = {
        "plans_name": "P", "dataset_name": "Dataset009_X", "image_reader_writer": reader,
        "transpose_forward": list(transpose), "transpose_backward": np.argsort(transpose).tolist(),
        "label_manager": "LabelManager", "configurations": CONFIGURATIONS,
        "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
    }  # fmt: skip
    description = {"channel_names": {"0": "CT", "1": "MR"}, "file_ending": ".nii.gz",
                   **LABELS[labels]}  # fmt: skip
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    return raw


def made_by_stock(folder, raw, configuration):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(folder / "plans.json"))
    manager = plans.get_configuration(configuration)
    (folder / "stock").mkdir()
    manager.preprocessor_class(verbose=False).run_case_save(
        str(folder / "stock/c"), [str(p) for p in raw.images], str(raw.label), plans, manager,
        str(folder / "dataset.json"),
    )  # fmt: skip


def made_by_us(folder, raw, configuration):
    job = Job("c", raw, folder / "plans.json", folder / "dataset.json", configuration, "r",
              folder / "ours", folder / "records")  # fmt: skip
    assert preprocess_case(job)
    assert not preprocess_case(job), "a second run has nothing to do"


def compare(folder):
    for ending in (".b2nd", "_seg.b2nd"):
        ours, theirs = (blosc2.open(str(folder / who / f"c{ending}")) for who in ("ours", "stock"))
        assert (ours.chunks, ours.blocks, ours.dtype) == (
            theirs.chunks,
            theirs.blocks,
            theirs.dtype,
        )
        if ending == "_seg.b2nd":
            assert np.array_equal(ours[:], theirs[:])
        for mine, other in zip(ours[:], theirs[:], strict=True):
            assert np.abs(mine - other).max() <= 1e-5 * np.ptp(other)
    assert_same(*(pickle.loads((folder / who / "c.pkl").read_bytes()) for who in ("ours", "stock")))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize(
    ("reader", "labels", "transpose", "body"),
    [
        ("SimpleITKIO", "plain", (0, 1, 2), True),
        ("NibabelIOWithReorient", "regions", (1, 0, 2), True),
        ("NibabelIO", "ignore", (2, 0, 1), False),
        ("NibabelIOWithReorient", "many", (0, 1, 2), False),
    ],
)
def test_a_case_is_stocks(tmp_path, configuration, reader, labels, transpose, body):
    raw = written(tmp_path, reader=reader, labels=labels, transpose=transpose, body=body)
    made_by_stock(tmp_path, raw, configuration)
    made_by_us(tmp_path, raw, configuration)
    compare(tmp_path)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
def test_what_is_not_resampled_is_stocks_to_the_bit(tmp_path, transpose):
    """Means and deviations too: sums depend on how an array lies in memory."""
    raw = written(tmp_path, reader="NibabelIO", labels="plain", transpose=transpose)
    plan = json.loads((tmp_path / "plans.json").read_text())
    lies = [(2.0, 1.0, 1.5)[axis] for axis in transpose]
    plan["configurations"]["as_it_lies"]["spacing"] = lies
    (tmp_path / "plans.json").write_text(json.dumps(plan))
    made_by_stock(tmp_path, raw, "as_it_lies")
    made_by_us(tmp_path, raw, "as_it_lies")
    ours, theirs = (blosc2.open(str(tmp_path / who / "c.b2nd"))[:] for who in ("ours", "stock"))
    assert np.array_equal(ours, theirs)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    raw = written(tmp_path, reader="SimpleITKIO", labels="plain")
    seen, before = [], blosc2.nthreads
    for threads in (1, 2, 3):
        blosc2.set_nthreads(threads)
        made_by_us(tmp_path, raw, "2d")
        seen.append({p.name: p.read_bytes() for p in (tmp_path / "ours").glob("c*")})
        shutil.rmtree(tmp_path / "ours")
    blosc2.set_nthreads(before)
    assert len(seen[0]) == 3
    assert seen[0] == seen[1] == seen[2]


def test_kernels_stand_in_for_stock_functions_only(tmp_path):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from atlas_nnunet.kernels.resample_labels import resample_labels

    def used(**changes):
        plans = {"configurations": {"3d_fullres": FULL | changes}}
        return resampler(PlansManager(plans).get_configuration("3d_fullres"), "seg")

    assert used() is resample_labels
    assert used(resampling_fn_seg_kwargs={**SEG, "order": 0}) is not resample_labels
    assert used(resampling_fn_seg="no_resampling_hack") is not resample_labels


def test_what_runs_as_the_plan_names_it_is_told():
    assert not foreign(FULL, "data", "seg")
    assert not foreign({}, "data", "seg", "probabilities"), "an older plan names nothing"
    own = {**FULL, "preprocessor_name": "Other", "resampling_fn_seg_kwargs": {"order": 0}}
    told = foreign(own, "data", "seg")
    assert len(told) == 2
    assert "Other" in told[0]
    assert "{'order': 0}" in told[1]


def spoil(path, change):
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    changed = sitk.GetImageFromArray(change(array))
    changed.SetSpacing(image.GetSpacing())
    sitk.WriteImage(changed, str(path))


def with_label_9(array):
    array[3, 3, 3] = 9
    return array


def with_nan(array):
    array[3, 3, 3] = np.nan
    return array


@pytest.mark.parametrize(
    ("which", "change", "error", "words"),
    [
        ("label", with_label_9, LabelMapError, r"holds \[9\]"),
        ("label", lambda a: a[:-1], GeometryError, "voxels"),
        ("image", with_nan, SourceError, "NaN"),
    ],
)
def test_bad_cases_are_refused_in_words_and_nothing_is_left(tmp_path, which, change, error, words):
    raw = written(tmp_path, reader="NibabelIO", labels="plain")  # ITK reads NaN as 0
    spoil(raw.label if which == "label" else raw.images[1], change)
    with pytest.raises(error, match=words):
        made_by_us(tmp_path, raw, "3d_fullres")
    assert not [p for p in (tmp_path / "ours").rglob("*") if p.is_file()]


@pytest.mark.parametrize("seed", range(20))
def test_the_nonzero_mask_is_stocks(seed):
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    rng = np.random.default_rng(seed)
    data = (gaussian_filter(rng.normal(0, 1, (2, 9, 10, 8)), (0, 1, 1, 1)) > -0.1).astype(float)
    if seed % 2:  # a closed wall: all zeros are holes
        data[:, [0, -1]] = data[:, :, [0, -1]] = data[:, :, :, [0, -1]] = 1
    assert np.array_equal(nonzero_mask(data), create_nonzero_mask(data))


TINY = "Dataset701_Tiny"
ARRAYS = f"nnUNet_preprocessed/{TINY}/AtlasPretrainPlans_3d_fullres"


def copy_of(planned, folder):
    """A planned data set that is not preprocessed yet."""
    space = Workspace(folder)
    shutil.copytree(planned.folder, space.folder)
    shutil.rmtree(space.folder / ARRAYS)
    shutil.rmtree(space.folder / f"nnUNet_preprocessed/{TINY}/atlas_nnunet")
    return space


def made(space):
    return {p.name: p.read_bytes() for p in (space.folder / ARRAYS).glob("*") if p.is_file()}


def with_more_cases(space, n):
    """The data set's cases again, under other names, so that a kill comes in mid-run."""
    raw = space.folder / "nnUNet_raw" / TINY
    for number in range(4, n):
        for name, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
            shutil.copy(raw / name / f"case_{number % 4:03d}{ending}.nii.gz",
                        raw / name / f"case_{number:03d}{ending}.nii.gz")  # fmt: skip


def test_a_killed_run_resumes_and_leaves_the_same_bytes(planned, tmp_path):
    """SIGKILL for the run and its workers as soon as the first case is done; the bytes are the
    same in the end, with workers or without."""
    whole, broken = (copy_of(planned, tmp_path / name) for name in ("whole", "broken"))
    for space in (whole, broken):
        with_more_cases(space, 16)
    assert whole.run("preprocess", 701, "-np", 1) == 0
    records = broken.folder / f"nnUNet_preprocessed/{TINY}/atlas_nnunet"
    command = [sys.executable, "-m", "atlas_nnunet.cli", "preprocess", "701", "-np", "2"]
    run = subprocess.Popen(command, env=os.environ | broken.variables, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    while not list(records.rglob("case_*.json")):
        assert run.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in records.rglob("case_*.json")}
    assert len(before) < 16
    assert broken.run("preprocess", 701, "-np", 2, "--memory-gb", 3) == 0
    assert {p.name: p.stat().st_mtime_ns for p in records.rglob("case_*.json")}.items() >= (
        before.items()
    ), "what was done is not redone"
    assert made(broken) == made(whole)
    assert len(made(whole)) == 3 * 16


def test_incomplete_and_broken_cases_are_named_and_the_others_done(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path / "s")
    raw = space.folder / "nnUNet_raw" / TINY
    (raw / "labelsTr/case_000.nii.gz").unlink()
    image = raw / "imagesTr/case_002_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:-99])
    assert space.run("preprocess", 701, "-np", 1) == 1
    said = capsys.readouterr().out
    assert "case_000: " in said
    assert "no such file" in said
    assert "case_002: " in said
    assert {name.split(".")[0].removesuffix("_seg") for name in made(space)} == {
        "case_001", "case_003",
    }  # fmt: skip
    assert space.run("fingerprint", 701, "-np", 1) == 1
    assert "no fingerprint is written" in capsys.readouterr().out


def test_a_data_set_that_lists_its_files_keeps_its_names(planned, tmp_path):
    """dataset.json may list files that lie anywhere, under any name, for any case."""
    space = copy_of(planned, tmp_path / "s")
    raw = space.folder / "nnUNet_raw" / TINY
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "labelsTr/case_001.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    (raw / "imagesTr/case_001_0000.nii.gz").rename(tmp_path / "ct.nii.gz")
    description["dataset"] = {
        "patient": {"images": [str(tmp_path / "ct.nii.gz")],
                    "label": str(tmp_path / "elsewhere.nii.gz")},
        "other": {"images": ["imagesTr/case_002_0000.nii.gz"],
                  "label": "labelsTr/case_002.nii.gz"},
    }  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(description))
    assert space.run("preprocess", 701, "-np", 1) == 0
    done = space.folder / "nnUNet_preprocessed" / TINY
    assert {p.name for p in (done / "gt_segmentations").glob("*.nii.gz")} >= {
        "patient.nii.gz", "other.nii.gz",
    }  # fmt: skip
    assert {p.name for p in (space.folder / ARRAYS).glob("*.pkl")} == {"patient.pkl", "other.pkl"}


def test_configurations_are_made_together_and_shared_data_once(planned, tmp_path, capsys):
    space = copy_of(planned, tmp_path / "s")
    path = space.folder / f"nnUNet_preprocessed/{TINY}/AtlasPretrainPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres", "data_identifier": "low", "spacing": [3.0, 2.0, 2.0],
    }  # fmt: skip
    plans["configurations"]["again"] = {"inherits_from": "3d_fullres"}
    path.write_text(json.dumps(plans))
    assert space.run("preprocess", 701, "-np", 1, "-c", "3d_fullres", "again", "3d_lowres") == 0
    assert capsys.readouterr().out.count("4 of 4 cases were new") == 2
    assert len(list((path.parent / "low").glob("*.pkl"))) == 4
    assert space.run("preprocess", 701, "-np", 1, "-c", "no_such") == 2
    assert "no_such" in capsys.readouterr().err


def test_the_estimate_of_memory_is_above_what_is_taken(tmp_path):
    """Beside a process that has read nothing yet: in one that is as large as it gets."""
    raw = written(tmp_path, reader="NibabelIO", labels="plain", shape=(150, 160, 140))
    job = Job("c", raw, tmp_path / "plans.json", tmp_path / "dataset.json", "3d_fullres", "r",
              tmp_path / "ours", tmp_path / "records")  # fmt: skip
    script = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "import atlas_nnunet.preprocess.files, atlas_nnunet.volume.prepare\n"
        "from atlas_nnunet.preprocess.case import preprocess_case\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "preprocess_case(pickle.loads(sys.stdin.buffer.read()))\n"
        "print(before * 1024, peak() * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(job),
                          capture_output=True, check=True, env=os.environ | FOLDERS)  # fmt: skip
    before, peak = map(int, done.stdout.split()[-2:])
    assert peak <= PROCESS_BYTES + need_bytes(job)
    assert need_bytes(job) <= 4 * (peak - before), "and not so far above that nothing would fit"


FOLDERS = {"nnUNet_raw": ".", "nnUNet_preprocessed": ".", "nnUNet_results": "."}
