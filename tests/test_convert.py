"""Conversion: nothing lost, bad cases named, finished work known by content, in any order."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_nnunet.convert.case import Job, convert_case
from atlas_nnunet.convert.selection import Selection
from atlas_nnunet.convert.source import open_source
from atlas_nnunet.convert.templates import stem_pattern
from atlas_nnunet.convert.tree import source_files
from atlas_nnunet.errors import SourceError
from atlas_nnunet.images import as_integers
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.nifti import nifti_bytes
from atlas_nnunet.registry import card_of

SHAPE = (7, 6, 5)
AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])
KEY = "abdomenatlas-1.1-mini"
NAME = "Dataset701_AbdomenAtlas11Mini"


def put(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array.astype(np.uint8) if array.dtype == bool else array
    path.write_bytes(nifti_bytes(array, affine))


def ct_of(name):
    """Another for each name: two names for one CT are refused."""
    return np.random.default_rng([*name.encode()]).integers(-1000, 1000, SHAPE).astype(np.int16)


def atlas_case(folder, case, masks, ct=None):
    put(folder / case / "ct.nii.gz", ct_of(case) if ct is None else ct)
    for stem, mask in masks.items():
        put(folder / case / "segmentations" / f"{stem}.nii.gz", mask)


def drawn(seed, names, density=0.3):
    rng = np.random.default_rng(seed)
    return {name: rng.random(SHAPE) < density for name in names}


def convert(workspace, *words):
    return workspace.run("convert", *words, "-np", 1)


def outcome(workspace, name=NAME):
    raw = workspace.folder / "nnUNet_raw" / name
    conversion = json.loads((raw / "conversion.json").read_text())
    description = raw / "dataset.json"
    return raw, conversion, json.loads(description.read_text()) if description.is_file() else None


def codes_of(raw, case, part="labelsTr"):
    return np.asarray(nib.load(raw / part / f"{case}.nii.gz").dataobj)


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert files
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


SOME = ("liver", "spleen", "kidney_left", "kidney_right", "hepatic_vessel", "liver_tumor",
        "kidney_tumor", "hepatic_vessel_tumor")  # fmt: skip


@given(st.integers(0, 9999), st.sets(st.sampled_from(SOME), min_size=1))
@settings(max_examples=25)
def test_every_structure_is_rebuilt_from_the_written_files(tmp_path_factory, seed, names):
    folder = tmp_path_factory.mktemp("source")
    masks = drawn(seed, sorted(names))
    atlas_case(folder, "BDMAP_1", masks)
    card = card_of(KEY)
    files, _ = source_files(folder, folder / "scratch")
    own = open_source(card, files, "").cases["BDMAP_1"]
    entry = convert_case(Job(card, "BDMAP_1", own, card.structures, False, folder / "raw"))
    told = Coding.of_dataset_json(card.coding().as_dataset_json())
    codes = codes_of(folder / "raw", "BDMAP_1")
    lost = dict.fromkeys(card.structures, 0)
    for pair, voxels in entry["conflicts"].items():
        lost[pair.split(" gave way to ")[0]] += voxels
    for name in card.structures:
        rebuilt = told.mask_of(codes, name)
        truth = masks.get(name, np.zeros(SHAPE, bool))
        assert not (rebuilt & ~truth).any()
        assert (truth & ~rebuilt).sum() == lost[name]
        assert (entry["status"].get(name) == "unlabelled") == (name not in names)


def test_files_become_label_status(workspace, tmp_path):
    empty = np.zeros(SHAPE, bool)
    masks = drawn(1, ["liver", "_liver_tumor", "pancreas_tumor", "celiac_truck", "notes"], 0.1)
    atlas_case(tmp_path / "s", "BDMAP_1", masks | {"kidney_cyst": empty, "prostate": empty})
    (tmp_path / "s/BDMAP_1/segmentations/._liver.nii.gz").write_bytes(b"x")
    assert convert(workspace, KEY, tmp_path / "s") == 0
    _, conversion, description = outcome(workspace)
    entry = conversion["cases"]["BDMAP_1"]
    status = entry["status"]
    assert status["liver_tumor"] == "pseudo"
    assert status["pancreas_tumor"] == "pseudo", "the card: tumours of the atlas are predicted"
    assert status["kidney_cyst"] == status["prostate"] == "absent"
    assert status["spleen"] == status["lung_tumor"] == "unlabelled"
    assert "liver" not in status
    assert "celiac_trunk" not in status, "an alias is the structure"
    assert any("notes.nii.gz" in note for note in entry["notes"])
    assert description["numTraining"] == 1
    assert description["labels"]["liver"][0] == list(description["labels"]).index("liver")


def test_a_reviewed_file_beats_a_predicted_one_and_two_of_a_kind_are_refused(workspace, tmp_path):
    a, b = drawn(1, ["x", "y"]).values()
    atlas_case(tmp_path / "s", "BDMAP_1", {"liver": a, "_liver": b})
    atlas_case(tmp_path / "s", "BDMAP_2", {"celiac_truck": a, "celiac_artery": b})
    assert convert(workspace, KEY, tmp_path / "s") == 1
    raw, conversion, description = outcome(workspace)
    coding = Coding.of_dataset_json(description)
    assert (coding.mask_of(codes_of(raw, "BDMAP_1"), "liver") == a).all()
    assert "liver" not in conversion["cases"]["BDMAP_1"]["status"]
    assert "several files for celiac_trunk" in conversion["refused"]["BDMAP_2"]


def bad_sources(folder):
    """One good case, and each fault of the wild with words that name it."""
    good = drawn(3, ["liver"])
    atlas_case(folder, "good", good)
    for case in ("no_ct", "other_grid", "cut", "empty", "nan", "four_d", "sheared", "two_forms"):
        atlas_case(folder, case, good)
    (folder / "no_ct/ct.nii.gz").unlink()
    put(
        folder / "other_grid/segmentations/liver.nii.gz",
        good["liver"],
        AFFINE @ np.diag([1, 1, 2, 1]),
    )
    ct = folder / "cut/ct.nii.gz"
    ct.write_bytes(ct.read_bytes()[:-30])
    (folder / "empty/segmentations/liver.nii.gz").write_bytes(b"")
    put(folder / "nan/ct.nii.gz", np.full(SHAPE, np.nan, np.float32))
    put(folder / "four_d/ct.nii.gz", np.zeros((*SHAPE, 2), np.int16))
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    put(folder / "sheared/ct.nii.gz", np.zeros(SHAPE, np.int16), sheared)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
    image.set_qform(np.diag([0.8, 0.8, 2.5, 1]), 1)
    image.set_sform(AFFINE, 1)
    (folder / "two_forms/ct.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    return {
        "no_ct": "no CT", "other_grid": "another grid", "cut": "cannot be read",
        "empty": "empty", "nan": "NaN", "four_d": "4-D", "sheared": "right angles",
        "two_forms": "sform and qform",
    }  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_cases_are_named_and_the_good_one_is_converted(workspace, tmp_path, capsys, processes):
    faults = bad_sources(tmp_path / "s")
    assert workspace.run("convert", KEY, tmp_path / "s", "-np", processes) == 1
    _, conversion, description = outcome(workspace)
    assert set(conversion["cases"]) == {"good"}
    assert set(conversion["refused"]) == set(faults)
    for case, words in faults.items():
        assert words in conversion["refused"][case], case
    assert description["numTraining"] == 1
    printed = capsys.readouterr().out
    assert all(case in printed for case in faults)


def test_check_reads_everything_and_writes_nothing(workspace, tmp_path, capsys):
    faults = bad_sources(tmp_path / "s")
    assert convert(workspace, KEY, tmp_path / "s", "--check") == 1
    (report,) = (p for p in (workspace.folder / "nnUNet_raw").rglob("*") if p.is_file())
    assert report.name == "conversion_check.json"
    assert set(json.loads(report.read_text())["refused"]) == set(faults)
    printed = capsys.readouterr().out
    assert all(case in printed for case in faults)


def test_a_mask_with_another_origin_lies_on_the_cts_grid_and_is_told(workspace, tmp_path):
    masks = drawn(5, ["liver", "spleen"], 0.2)
    atlas_case(tmp_path / "s", "BDMAP_1", masks)
    moved = AFFINE.copy()
    moved[:3, 3] = (191.9, 156.4, -717.75)
    put(tmp_path / "s/BDMAP_1/segmentations/liver.nii.gz", masks["liver"], moved)
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    flipped[:3, 3] = AFFINE[:3, 0] * (SHAPE[0] - 1)
    put(tmp_path / "s/BDMAP_1/segmentations/spleen.nii.gz", masks["spleen"][::-1], flipped)
    assert convert(workspace, KEY, tmp_path / "s") == 0
    raw, conversion, description = outcome(workspace)
    coding = Coding.of_dataset_json(description)
    codes = codes_of(raw, "BDMAP_1")
    assert (coding.mask_of(codes, "spleen") == masks["spleen"]).all()
    assert not (coding.mask_of(codes, "liver") & ~masks["liver"]).any()
    assert len(conversion["cases"]["BDMAP_1"]["geometry"]) == 2


def test_the_ct_keeps_its_bytes_and_a_misnamed_one_is_read_by_content(workspace, tmp_path):
    for case in ("a", "b"):
        atlas_case(tmp_path / "s", case, drawn(1, ["liver"]))
    plain = tmp_path / "s/b/ct.nii.gz"
    plain.write_bytes(gzip.decompress(plain.read_bytes()))
    assert convert(workspace, KEY, tmp_path / "s") == 0
    raw, _, _ = outcome(workspace)
    source = (tmp_path / "s/a/ct.nii.gz").read_bytes()
    assert (raw / "imagesTr/a_0000.nii.gz").read_bytes() == source
    written = nib.load(raw / "imagesTr/b_0000.nii.gz")
    assert (np.asarray(written.dataobj) == ct_of("b")).all()
    assert np.allclose(written.affine, AFFINE)


def test_label_maps_are_read_by_meaning_and_unknown_values_refused(workspace, tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    for case, array in (("case_1", labels), ("case_2", labels + 5), ("case_3", labels * 0.4)):
        put(tmp_path / case / "imaging.nii.gz", ct_of(case))
        put(tmp_path / case / "segmentation.nii.gz", array.astype(np.float32))
    assert convert(workspace, "kits23", tmp_path) == 1
    raw, conversion, description = outcome(workspace, "Dataset533_KiTS23")
    coding, codes = Coding.of_dataset_json(description), codes_of(raw, "case_1")
    for name, values in (("kidney", (1, 2, 3)), ("kidney_tumor", (2,)), ("kidney_cyst", (3,))):
        assert (coding.mask_of(codes, name) == np.isin(labels, values)).all()
    assert "[5, 6, 7, 8]" in conversion["refused"]["case_2"]
    assert "is not a label" in conversion["refused"]["case_3"]


def test_integers_hidden_in_floats_are_found_and_nothing_else_is_a_label():
    whole = np.array([0, 1, 2, 27])
    assert (as_integers(whole * 1.0000001 - 0.0002, "x") == whole).all()
    for bad in (0.4, np.nan, -1.0):
        with pytest.raises(Exception, match="label"):
            as_integers(np.array([1.0, bad]), "x")


def test_selection_parts_training_from_held_out_cases(workspace, tmp_path):
    for i in range(6):
        atlas_case(tmp_path / "s", f"c{i}", drawn(i, ["liver"]))
    words = (KEY, tmp_path / "s", "--skip", 1, "--train", 2, "--structures", "Liver")
    assert convert(workspace, *words, "--hold-out", "rest") == 0
    raw, _, description = outcome(workspace)
    assert sorted(p.name[:2] for p in (raw / "imagesTr").iterdir()) == ["c1", "c2"]
    assert sorted(p.name[:2] for p in (raw / "labelsTs").iterdir()) == ["c3", "c4", "c5"]
    assert description["labels"] == {"background": 0, "liver": 1}
    assert convert(workspace, *words, "--hold-out", 1) == 0
    assert sorted(p.name[:2] for p in (raw / "imagesTs").iterdir()) == ["c3"]
    assert sorted(outcome(workspace)[1]["cases"]) == ["c1", "c2", "c3"]
    assert convert(workspace, *words, "--hold-out", 9) == 2


def test_templates_find_cases_and_not_their_twins(tmp_path):
    for name in ("img0001", "img0002", "img0010"):
        put(tmp_path / f"Training/img/{name}.nii.gz", np.zeros(SHAPE, np.int16))
    (tmp_path / "Training/img/._img0001.nii.gz").touch()
    files, _ = source_files(tmp_path, tmp_path)
    assert list(open_source(card_of("btcv"), files, "").cases) == ["0001", "0002", "0010"]
    with pytest.raises(SourceError, match="no such cases"):
        Selection(cases=("x",)).of(["a"])


def test_wrong_calls_end_with_two_and_a_next_step(workspace, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words in ((KEY, tmp_path / "none"), (KEY, tmp_path / "empty"), ("nothing", tmp_path)):
        assert convert(workspace, *words) == 2
        assert "->" in capsys.readouterr().err


def test_workers_do_not_change_a_byte_and_a_second_run_touches_nothing(tmp_path, workspace):
    for i in range(5):
        atlas_case(tmp_path / "s", f"c{i}", drawn(i, SOME))
    assert workspace.run("convert", KEY, tmp_path / "s", "-np", 2) == 0
    raw, _, _ = outcome(workspace)
    first = digest(raw)
    times = {p: p.stat().st_mtime_ns for p in (raw / "labelsTr").iterdir()}
    assert convert(workspace, KEY, tmp_path / "s") == 0
    assert digest(raw) == first
    assert {p: p.stat().st_mtime_ns for p in (raw / "labelsTr").iterdir()} == times
    put(tmp_path / "s/c2/segmentations/liver.nii.gz", drawn(99, ["liver"])["liver"])
    assert convert(workspace, KEY, tmp_path / "s") == 0
    changed = {name for name, value in digest(raw).items() if value != first[name]}
    assert {n.split("/")[-1].split(".")[0] for n in changed} == {"c2", "conversion"}


def test_killed_at_any_moment_a_second_run_ends_with_the_same_bytes(tmp_path, workspace):
    for i in range(12):
        atlas_case(tmp_path / "s", f"c{i:02d}", drawn(i, SOME))
    assert convert(workspace, KEY, tmp_path / "s") == 0
    undisturbed = digest(outcome(workspace)[0])
    other = workspace.folder / "again"
    variables = {**os.environ, **{n: str(other / n) for n in workspace.variables}}
    words = [sys.executable, "-m", "atlas_nnunet.cli", "convert", KEY, str(tmp_path / "s"),
             "-np", "1"]  # fmt: skip
    records = other / "nnUNet_raw" / NAME / "atlas_nnunet/records"
    for wanted in (2, 7):
        process = subprocess.Popen(words, env=variables, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(records.glob("*.json"))) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(words, env=variables, check=True, capture_output=True)
    assert digest(other / "nnUNet_raw" / NAME) == undisturbed, "and no leftover among the images"


def test_two_runs_at_once_do_not_harm_each_other(tmp_path, workspace):
    for i in range(8):
        atlas_case(tmp_path / "s", f"c{i:02d}", drawn(i, SOME))
    put(tmp_path / "s/c99/ct.nii.gz", ct_of("c03"))  # refused as a duplicate, by both
    put(tmp_path / "s/c99/segmentations/liver.nii.gz", drawn(1, ["liver"])["liver"])
    assert convert(workspace, KEY, tmp_path / "s") == 1
    undisturbed = digest(outcome(workspace)[0])
    other = workspace.folder / "again"
    variables = {**os.environ, **{n: str(other / n) for n in workspace.variables}}
    words = [sys.executable, "-m", "atlas_nnunet.cli", "convert", KEY, str(tmp_path / "s"),
             "-np", "1"]  # fmt: skip
    both = [subprocess.Popen(words, env=variables, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert digest(other / "nnUNet_raw" / NAME) == undisturbed


def test_a_changed_card_converts_anew_and_a_changed_case_alone(tmp_path, workspace):
    source = tmp_path / "s"
    for i in range(3):
        atlas_case(source, f"c{i}", drawn(i, ["liver", "spleen"]))
    layout = {"kind": "structure_masks", "images": ["{case}/ct.nii.gz"],
              "masks": "{case}/segmentations/{structure}.nii.gz"}  # fmt: skip
    path = tmp_path / "card.json"

    def run(**card):
        path.write_text(json.dumps({"layout": layout, **card}))
        assert convert(workspace, "custom", source, "--card", path) == 0
        raw, _, description = outcome(workspace, "Dataset600_Custom")
        times = {p.name: p.stat().st_mtime_ns for p in (raw / "labelsTr").iterdir()}
        return raw, description, times

    _, _, first = run(structures=["liver", "spleen"])
    assert run(structures=["liver", "spleen"], title="Another title")[2] == first
    raw, description, second = run(structures=["spleen", "liver"])
    assert not set(first.values()) & set(second.values()), "another order is another coding"
    assert description["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    put(source / "c1/ct.nii.gz", ct_of("c1 again"))
    _, _, third = run(structures=["spleen", "liver"])
    assert {n for n in third if third[n] != second[n]} == {"c1.nii.gz"}
    (raw / "labelsTr/c2.nii.gz").write_bytes(b"")
    _, _, fourth = run(structures=["spleen", "liver"])
    assert {n for n in fourth if fourth[n] != third[n]} == {"c2.nii.gz"}


@pytest.mark.parametrize(
    ("masks", "name", "structure"),
    [
        ("a/{structure}.nii.gz", "liver.nii", "liver"),
        ("a/{case}_x+{structure}(1).nii.gz", "p7_x+liver(1).nii.gz", "liver"),
        ("a/{case}_x+{structure}(1).nii.gz", "p7_xx-liver1.nii.gz", None),
    ],
)
def test_a_mask_template_is_no_regular_expression(masks, name, structure):
    found = stem_pattern(masks).fullmatch(name)
    assert (found and found.group("structure")) == structure
