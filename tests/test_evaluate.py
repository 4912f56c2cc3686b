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
from atlas_nnunet.scoring.overlap import dice
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


def test_what_nobody_labelled_is_not_scored_but_named(folders):
    conversion = folders / "conversion.json"
    conversion.write_text(json.dumps({"cases": {"b": {"status": {"spleen": "unlabelled"}}}}))
    _, result = evaluate(folders, "--conversion", str(conversion))
    assert result["not_scored"] == {"b": ["spleen"]}
    assert "spleen" not in result["cases"]["b"]
    assert result["mean"]["spleen"] == {"dice": 1.0, "nsd": 1.0, "n": 2}


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
