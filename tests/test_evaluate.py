"""Scores: laws of Dice and surface distance, the latter against an independent implementation."""

import json
import math

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_nnunet.cli import main
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.registry import card_of
from atlas_nnunet.scoring.overlap import detected, dice, false_component_ml
from atlas_nnunet.scoring.surface import normalised_surface_distance as nsd

masks = st.lists(st.booleans(), min_size=8, max_size=8).map(lambda b: np.array(b).reshape(2, 2, 2))


@given(masks, masks)
def test_dice_is_symmetric_bounded_and_one_only_for_equal_masks(a, b):
    value = dice(a, b)
    assert value == dice(b, a) or math.isnan(value)
    if not math.isnan(value):
        assert 0 <= value <= 1
        assert (value == 1) == (a == b).all()
        union = (a | b).sum()
        jaccard = (a & b).sum() / union
        assert value == pytest.approx(2 * jaccard / (1 + jaccard))


@pytest.mark.parametrize(("ref", "pred", "value"), [(0, 0, math.nan), (0, 1, 0.0), (1, 0, 0.0)])
def test_empty_masks_score_as_the_table_says(ref, pred, value):
    a, b = np.full((2, 2, 2), bool(ref)), np.full((2, 2, 2), bool(pred))
    assert dice(a, b) == pytest.approx(value, nan_ok=True)
    assert nsd(a, b, (1.0, 1.0, 1.0), 1.0) == pytest.approx(value, nan_ok=True)


def blobs(seed, shape=(14, 13, 12)):
    """Two lumpy masks that partly agree; now and then one touches the border."""
    rng = np.random.default_rng(seed)
    index = np.indices(shape)
    out = []
    center = rng.uniform(3, 9, 3)
    for _ in range(2):
        moved = center + rng.uniform(-2, 2, 3)
        distance = ((index - moved[:, None, None, None]) ** 2).sum(0)
        out.append(distance + rng.normal(0, 3, shape) < rng.uniform(6, 22))
    return out


spacings = st.tuples(*[st.sampled_from([0.7, 1.0, 2.5, 5.0])] * 3)


@given(st.integers(0, 9999), spacings, st.sampled_from([0.5, 1.0, 2.0, 4.0]))
@settings(max_examples=40)
def test_surface_distance_equals_monais(seed, spacing, tolerance_mm):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    a, b = blobs(seed)
    if not (a.any() and b.any()):
        return
    padded = [np.pad(m, 1) for m in (a, b)]  # MONAI sees no surface at the border of an array
    batch = [torch.from_numpy(np.stack([~m, m]))[None] for m in padded]
    want = metrics.compute_surface_dice(
        batch[1], batch[0], [tolerance_mm], spacing=spacing, use_subvoxels=True
    )
    assert nsd(a, b, spacing, tolerance_mm) == pytest.approx(float(want), abs=1e-5)


@given(st.integers(0, 9999), spacings, st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.3, 4))
def test_surface_distance_is_symmetric_and_only_ratios_of_lengths_count(seed, spacing, tol, k):
    a, b = blobs(seed)
    value = nsd(a, b, spacing, tol)
    assert value == pytest.approx(nsd(b, a, spacing, tol), nan_ok=True)
    scaled = tuple(s * k for s in spacing)
    assert value == pytest.approx(nsd(a, b, scaled, tol * k), nan_ok=True, abs=1e-9)
    turned = nsd(a.transpose(2, 0, 1), b.transpose(2, 0, 1), (spacing[2], *spacing[:2]), tol)
    assert value == pytest.approx(turned, nan_ok=True, abs=0.03)  # the surface table has handedness


def test_a_shift_beyond_the_tolerance_shows_and_one_within_does_not():
    a = np.zeros((20, 20, 20), bool)
    a[5:12, 5:12, 5:12] = True
    b = np.roll(a, 1, 2)
    assert nsd(a, b, (1, 1, 3), 3.1) == pytest.approx(1)
    assert nsd(a, b, (1, 1, 3), 1.0) < 0.95
    assert nsd(a, b, (3, 1, 1), 1.1) == pytest.approx(1), "spacing is in array order"


NAMES = ("liver", "liver_tumor", "spleen")
CODING = Coding.of(NAMES, [frozenset(("liver", "liver_tumor"))])


def save(path, codes, shift_mm=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 3] = shift_mm
    nib.save(nib.Nifti1Image(codes, affine), path)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        drawn = [(n, rng.random((8, 8, 8)) < 0.4) for n in NAMES]
        codes, _ = CODING.encode(drawn, (8, 8, 8))
        save(tmp_path / "ref" / f"{case}.nii.gz", codes)
        save(tmp_path / "pred" / f"{case}.nii.gz", codes if case != "b" else codes * 0)
    (tmp_path / "pred" / "dataset.json").write_text(json.dumps(CODING.as_dataset_json()))
    return tmp_path


def evaluate(tmp_path, *more):
    code = main(["evaluate", str(tmp_path / "pred"), str(tmp_path / "ref"), "-np", "1", *more])
    return code, json.loads((tmp_path / "pred" / "evaluation.json").read_text())


def test_regions_are_scored_whole_and_means_leave_nothing_out(folders):
    code, result = evaluate(folders)
    assert code == 0
    assert set(result["cases"]) == {"a", "b", "c"}
    for name in NAMES:
        assert result["cases"]["a"][name]["dice"] == 1
        assert result["cases"]["b"][name]["dice"] == 0
        assert result["mean"][name]["dice"] == pytest.approx(2 / 3)
        assert result["mean"][name]["n"] == 3
    codes = np.asarray(nib.load(folders / "ref" / "a.nii.gz").dataobj)
    volume = CODING.mask_of(codes, "liver").sum() * 6 / 1000
    assert result["cases"]["a"]["liver"]["volume_reference_ml"] == pytest.approx(volume)


def write_status(folder, status, **more):
    """conversion.json beside the references: case -> structure -> status."""
    path = folder / "conversion.json"
    cases = {case: {"status": own} for case, own in status.items()}
    path.write_text(json.dumps({"dataset": "Dataset501_X", "cases": cases, **more}))
    return path


def test_what_nobody_labelled_is_not_scored_but_named(folders):
    status = {"a": {}, "b": {"spleen": "unlabelled"}, "c": {}}
    elsewhere = folders / "elsewhere.json"
    for words in ((), ("--conversion", str(elsewhere))):
        path = write_status(folders, status)
        if words:
            path.rename(elsewhere)
        _, result = evaluate(folders, *words)
        assert result["not_scored"] == {"b": ["spleen"]}
        assert "spleen" not in result["cases"]["b"]
        assert result["mean"]["spleen"] == {"dice": 1.0, "nsd": 1.0, "n": 2, "n_pseudo": 0}


def test_voxels_that_the_reference_ignores_do_not_count(folders):
    coding = json.loads((folders / "pred" / "dataset.json").read_text())
    labels = {**coding["labels"], "ignore": len(CODING.codes)}
    (folders / "pred" / "dataset.json").write_text(json.dumps({**coding, "labels": labels}))
    right = np.asarray(nib.load(folders / "ref" / "a.nii.gz").dataobj)
    partly, wrong = right.copy(), right.copy()
    partly[:4], wrong[:4] = len(CODING.codes), 0
    save(folders / "ref" / "a.nii.gz", partly)
    save(folders / "pred" / "a.nii.gz", wrong)
    _, result = evaluate(folders)
    assert [result["cases"]["a"][name]["dice"] for name in NAMES] == [1, 1, 1]


def test_bad_cases_are_refused_by_name_and_the_others_scored(folders, capsys):
    (folders / "pred" / "a.nii.gz").unlink()
    save(folders / "pred" / "b.nii.gz", np.zeros((8, 8, 8), np.uint8), shift_mm=2)
    data = (folders / "pred" / "c.nii.gz").read_bytes()
    (folders / "pred" / "c.nii.gz").write_bytes(data[:-20])
    save(folders / "ref" / "d.nii.gz", np.zeros((8, 8, 8), np.uint8))
    save(folders / "pred" / "d.nii.gz", np.zeros((8, 8, 8), np.uint8))
    code, result = evaluate(folders)
    assert code == 1
    assert set(result["cases"]) == {"d"}
    assert "no prediction" in result["refused"]["a"]
    assert "another grid" in result["refused"]["b"]
    assert "cannot be read" in result["refused"]["c"]
    assert "3 case(s) refused" in capsys.readouterr().out


def test_wrong_calls_say_what_to_type(folders, capsys):
    (folders / "pred" / "dataset.json").unlink()
    assert main(["evaluate", str(folders / "pred"), str(folders / "ref")]) == 2
    assert "--dataset-json" in capsys.readouterr().err


def test_a_case_that_the_conversion_does_not_know_is_refused_by_name(folders):
    write_status(folders, {"a": {}, "b": {}})
    code, result = evaluate(folders)
    assert code == 1
    assert set(result["cases"]) == {"a", "b"}
    assert "does not know this case" in result["refused"]["c"]
    code, result = evaluate(folders, "--conversion", "none")
    assert code == 0
    assert set(result["cases"]) == {"a", "b", "c"}
    assert result["label_status"] is None


def test_pseudo_labels_are_counted_and_the_mean_without_them_is_beside(folders, capsys):
    write_status(folders, {"a": {"spleen": "pseudo"}, "b": {}, "c": {"spleen": "pseudo"}})
    _, result = evaluate(folders)
    assert result["pseudo"] == {"a": ["spleen"], "c": ["spleen"]}
    assert result["mean"]["spleen"]["dice"] == pytest.approx(2 / 3)
    assert (result["mean"]["spleen"]["n"], result["mean"]["spleen"]["n_pseudo"]) == (3, 2)
    assert result["mean_without_pseudo"]["spleen"] == {"dice": 0.0, "nsd": 0.0, "n": 1}
    assert result["mean_without_pseudo"]["liver"] == {
        k: v for k, v in result["mean"]["liver"].items() if k != "n_pseudo"
    }
    assert result["mean_of_structures_without_pseudo"]["dice"] == pytest.approx(4 / 9)
    said = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in said if line.startswith("spleen")]
    assert row == ["spleen", "3", "0.6667", "0.6667", "2", "2", "0.0000", "0.0000"]
    write_status(folders, {"a": {}, "b": {}, "c": {}})
    evaluate(folders)
    assert "Dice*" not in capsys.readouterr().out


def test_what_is_absent_is_right_when_it_is_not_found_and_a_false_positive_when_it_is(folders):
    codes = np.asarray(nib.load(folders / "ref" / "a.nii.gz").dataobj).copy()
    spleen = CODING.mask_of(codes, "spleen")
    without = np.where(spleen, 0, codes).astype(np.uint8)
    for case in ("a", "b"):
        save(folders / "ref" / f"{case}.nii.gz", without)
    save(folders / "pred" / "a.nii.gz", without)
    save(folders / "pred" / "b.nii.gz", codes)
    write_status(folders, {"a": {"spleen": "absent"}, "b": {"spleen": "absent"}, "c": {}})
    _, result = evaluate(folders)
    assert result["cases"]["a"]["spleen"]["dice"] is None
    assert result["cases"]["a"]["spleen"]["false_component_ml"] == 0
    assert result["cases"]["b"]["spleen"]["dice"] == 0
    assert result["cases"]["b"]["spleen"]["volume_prediction_ml"] > 0
    assert result["cases"]["b"]["spleen"]["false_component_ml"] > 0
    assert result["not_scored"] == {}
    assert (result["mean"]["spleen"]["n"], result["mean"]["spleen"]["dice"]) == (2, 0.5)


def test_a_mean_of_nothing_is_nan_and_never_0(folders, capsys):
    write_status(folders, {key: {"spleen": "unlabelled"} for key in "abc"})
    _, result = evaluate(folders)
    assert result["mean"]["spleen"] == {"dice": None, "nsd": None, "n": 0, "n_pseudo": 0}
    assert result["mean_of_structures"]["dice"] == pytest.approx(2 / 3), "of the other two"
    (row,) = [r.split() for r in capsys.readouterr().out.splitlines() if r.startswith("spleen")]
    assert row == ["spleen", "0", "nan", "nan", "2"]


def test_a_false_component_is_the_largest_one_and_corners_connect():
    nothing = np.zeros((9, 9, 9), bool)
    found = nothing.copy()
    found[0, 0, 0] = found[1, 1, 1] = found[1, 2, 2] = True  # by a corner, by an edge
    found[5:7, 5, 5] = True  # a smaller one
    assert false_component_ml(nothing, found, 0.5) == pytest.approx(1.5)
    assert false_component_ml(nothing, found[::-1, :, ::-1], 0.5) == pytest.approx(1.5)
    assert false_component_ml(nothing, nothing, 0.5) == 0
    assert math.isnan(false_component_ml(found, found, 0.5)), "the case has the structure"


def test_a_structure_is_detected_by_one_voxel_of_it_and_not_by_a_neighbour():
    truth = np.zeros((4, 4, 4), bool)
    truth[1:3, 1:3, 1:3] = True
    touching, beside = truth.copy(), np.zeros_like(truth)
    touching[:] = False
    touching[1, 1, 1] = True
    beside[3] = True
    assert (detected(truth, touching), detected(truth, beside)) == (1, 0)
    assert math.isnan(detected(~truth & truth, beside)), "there is nothing to find"


def test_tolerances_are_the_cards_and_one_number_for_all_else(folders, capsys):
    """liver and liver_tumor have MSD's 7 mm, the spleen is not in that card."""
    write_status(folders, {key: {} for key in "abc"}, key="msd-03-liver")
    save(folders / "pred" / "a.nii.gz", np.roll(
        np.asarray(nib.load(folders / "ref" / "a.nii.gz").dataobj), 1, 2))  # fmt: skip
    _, result = evaluate(folders, "--tolerance-mm", "0.5")
    assert result["tolerances_mm"] == {"liver": 7, "liver_tumor": 7, "spleen": 0.5}
    assert set(result["tolerance_sources"]) == {"liver", "liver_tumor"}
    assert "Antonelli" in result["tolerance_sources"]["liver"]
    own = result["cases"]["a"]
    assert own["liver"]["nsd"] == 1, "3 mm off, within 7"
    assert own["spleen"]["nsd"] < 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[-1] for row in rows if row and row[0] in NAMES] == ["7", "7", "0.5"]


@pytest.mark.parametrize("origin", ["dataset.json", "conversion.json of a user's own card"])
def test_the_card_is_found_without_a_registered_conversion(folders, origin):
    if origin == "dataset.json":
        description = {"labels": {}, "atlas_nnunet": {"key": "msd-03-liver"}}
        (folders / "dataset.json").write_text(json.dumps(description))
        words = ("--conversion", "none")
    else:
        write_status(folders, {key: {} for key in "abc"}, key="my-card",
                     nsd_tolerance_mm={"liver": 7}, nsd_tolerance_source="a paper")  # fmt: skip
        words = ()
    _, result = evaluate(folders, *words)
    assert result["tolerances_mm"]["liver"] == 7
    assert result["tolerances_mm"]["spleen"] == 2


def test_published_tolerances_are_those_of_the_challenges():
    flare = card_of("flare22").nsd_tolerance_mm
    assert (flare["liver"], flare["duodenum"], flare["adrenal_gland_left"]) == (5, 7, 2)
    assert card_of("flare23").nsd_tolerance_mm == {**flare, "abdominal_tumor": 2}
    assert card_of("kits23").nsd_tolerance_mm["kidney_tumor"] == pytest.approx(1.1498, abs=1e-4)
    assert set(card_of("msd-08-hepaticvessel").nsd_tolerance_mm.values()) == {3}
    assert card_of("amos22").nsd_tolerance_mm == {}, "no source states one"


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_tolerance_is_a_length(folders, value, capsys):
    words = [str(folders / "pred"), str(folders / "ref"), f"--tolerance-mm={value}"]
    assert main(["evaluate", *words]) == 2
    assert "not a tolerance" in capsys.readouterr().err


def test_a_users_own_card_brings_its_tolerances_to_the_evaluation(workspace, tmp_path):
    card = {
        "layout": {"kind": "structure_masks", "images": ["{case}/ct.nii.gz"],
                   "masks": "{case}/segmentations/{structure}.nii.gz"},
        "structures": ["liver", "spleen"],
        "nsd_tolerance_mm": {"liver": 4}, "nsd_tolerance_source": "our protocol",
    }  # fmt: skip
    (tmp_path / "card.json").write_text(json.dumps(card))
    image = np.random.default_rng(0).integers(-100, 100, (6, 6, 6)).astype(np.int16)
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    save(tmp_path / "own/x/ct.nii.gz", image)
    save(tmp_path / "own/x/segmentations/liver.nii.gz", mask)
    words = ("convert", "custom", tmp_path / "own", "--card", tmp_path / "card.json", "-np", 1)
    assert workspace.run(*words) == 0
    labels = workspace.folder / "nnUNet_raw/Dataset600_Custom/labelsTr"
    assert workspace.run("evaluate", labels, labels, "-np", 1, "-o", tmp_path / "e.json") == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["tolerances_mm"] == {"liver": 4, "spleen": 2}
    assert result["tolerance_sources"] == {"liver": "our protocol"}
    assert result["not_scored"] == {"x": ["spleen"]}, "no file: nobody looked"
    assert result["label_status"] == "Dataset600_Custom"
