"""Leakage: a CT is found again however it was stored, and no other is taken for it."""

import json

import numpy as np
import pytest
from scipy.ndimage import zoom
from test_convert import put

from atlas_nnunet.datasets.overlap import ALIKE, SAME, alike, declared, find_overlap
from atlas_nnunet.geometry import Grid
from atlas_nnunet.images import read_nifti
from atlas_nnunet.kernels.thumbnail import PIXELS, similarity, thumbnail
from atlas_nnunet.leakage import sentences
from atlas_nnunet.scoring.means import leakage_of


def body(seed, shape=(60, 50, 40), spacing=(4.0, 4.0, 5.0)):
    """Soft tissue with organs of its own in air."""
    rng = np.random.default_rng(seed)
    index = np.indices(shape) * np.array(spacing)[:, None, None, None]
    middle = (np.array(shape) * spacing / 2)[:, None, None, None]
    flat = (((index - middle)[:2] / np.array([95.0, 75.0])[:, None, None, None]) ** 2).sum(0)
    hu = np.where(flat < 1, 0.0, -1000.0)
    for _ in range(25):
        at = middle + rng.uniform(-70, 70, 3)[:, None, None, None]
        inside = ((index - at) ** 2).sum(0) < rng.uniform(10, 30) ** 2
        hu[inside & (flat < 1)] = rng.uniform(-900, 300)
    return hu.astype(np.float32), Grid(shape, np.diag([*spacing, 1.0]))


def resampled(hu, grid, spacing):
    new = zoom(hu, grid.spacing_mm / spacing, order=1)
    steps = np.array(hu.shape) / new.shape
    return new, Grid(new.shape, grid.affine @ np.diag([*steps, 1]))


def stored_again(hu, grid):
    """The same CT as other people would have it."""
    rng = np.random.default_rng(0)
    turned = hu.transpose(2, 0, 1)[:, ::-1]
    swap = np.array([[0, -1, 0, hu.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    third = hu.shape[2] // 3
    yield "resampled", *resampled(hu, grid, np.array([3.0, 3.0, 3.0]))
    yield "thick slices", *resampled(hu, grid, np.array([3.0, 3.0, 5.0]))
    yield "noise", hu + rng.normal(0, 40, hu.shape).astype(np.float32), grid
    yield "clipped", np.clip(hu, -175, 250), grid
    yield "turned", turned, Grid(turned.shape, grid.affine @ swap)
    yield "a third of it", hu[:, :, third : 2 * third], grid_of(hu[:, :, third : 2 * third], grid)
    yield "air cut off", hu[5:, 5:-1], grid_of(hu[5:, 5:-1], grid)
    framed = hu.copy()
    framed[1:3, 1:3] = 3000
    yield "a metal rod beside", framed, grid
    moved = grid.affine.copy()
    moved[:3, 3] += (191.9, 156.4, -717.75)
    yield "origin lost", hu, Grid(grid.shape_vox, moved)


def grid_of(array, grid):
    return Grid(array.shape, grid.affine)


def test_a_thumbnail_is_what_it_says():
    hu, grid = body(1)
    pictures = thumbnail(hu, grid)
    assert pictures.shape == (round(200 / 6), PIXELS**2)
    assert np.allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-3)
    assert np.allclose(pictures.mean(1), 0, atol=1e-4)
    air = np.full_like(hu, -1000)
    assert not thumbnail(air, grid).any()
    assert similarity(thumbnail(air, grid), pictures) == 0


def test_a_ct_is_found_again_however_it_is_stored():
    hu, grid = body(1)
    own = thumbnail(hu, grid)
    scores = {name: similarity(own, thumbnail(*copy)) for name, *copy in stored_again(hu, grid)}
    assert min(scores.values()) >= SAME, scores


def test_what_all_patients_share_does_not_make_them_alike():
    """Two bodies of one outline, with other things in them; the outline alone says nothing."""
    plain = thumbnail(np.where(body(0)[0] > -500, 0.0, -1000.0), body(0)[1])
    assert similarity(plain, thumbnail(*body(3))) < 0.65


def test_the_most_similar_of_several_is_named():
    hu, grid = body(1)
    noisy = hu + np.random.default_rng(0).normal(0, 150, hu.shape).astype(np.float32)
    own, like_it = thumbnail(hu, grid), thumbnail(noisy, grid)
    stacks = {"a noisy": like_it, "b": own, "c": like_it}
    assert similarity(stacks["a noisy"], stacks["b"]) > ALIKE
    assert alike({"x": own}, stacks) == {"x": ("b", pytest.approx(1))}


def test_the_mean_without_shared_cases_is_of_the_others():
    scores = {c: {"liver": {"dice": d, "nsd": d}} for c, d in (("a", 1.0), ("b", 0.5), ("c", 0.3))}
    conversion = {"overlap": {"Pre": {"cases": {"a": {}, "z": {}}}, "Other": {"cases": {}}}}
    found = leakage_of(conversion, scores, ["liver"])
    assert found["overlap"] == {"Pre": ["a"], "Other": []}
    assert found["mean_without_overlap"] == {"Pre": {"n": 2, "dice": 0.4, "nsd": 0.4}}


def test_other_bodies_are_other_cts():
    stacks = [thumbnail(*body(seed)) for seed in range(12)]
    scores = [similarity(a, b) for i, a in enumerate(stacks) for b in stacks[:i]]
    assert max(scores) < ALIKE


@pytest.mark.real
def test_a_hundred_patients_are_a_hundred(real_data):
    stacks = {}
    for path in sorted((real_data / "openkbp").glob("KBP_*/ct.nii.gz")):
        volume = read_nifti(path)
        stacks[path.parent.name] = thumbnail(volume.array, volume.grid)
    assert len(stacks) == 100
    names = list(stacks)
    half = {n: stacks[n] for n in names[:50]}
    rest = {n: stacks[n] for n in names[50:]}
    assert alike(half, rest) == {}
    found = alike(half, stacks)
    assert all(found[name] == (name, pytest.approx(1)) for name in half)


@pytest.mark.real
def test_a_real_ct_is_found_again(real_data):
    for name in ("totalsegmentator/s9001", "chaos/CHAOS_CT_3", "openkbp/KBP_0001"):
        volume = read_nifti(real_data / name / "ct.nii.gz")
        own = thumbnail(volume.array, volume.grid)
        for what, array, grid in stored_again(volume.array.astype(np.float32), volume.grid):
            if what != "air cut off":  # here it would cut the patient
                assert similarity(own, thumbnail(array, grid)) >= SAME, (name, what)
    piece = read_nifti(real_data / "totalsegmentator/s9002/ct.nii.gz")
    whole = read_nifti(real_data / "abdomenatlas/BDMAP_90000001/ct.nii.gz")
    score = similarity(thumbnail(piece.array, piece.grid), thumbnail(whole.array, whole.grid))
    assert score > 0.99, "s9002 is a short piece of that very CT"


def conversion(key, overlap, hashes, **inside):
    entries = {c: {"images": [h], "held_out": False} for c, h in hashes.items()}
    return {"key": key, "dataset": f"Dataset501_{key}", "cases": entries,
            "inside_abdomenatlas": {"overlap": overlap, "evidence": "", **inside}}  # fmt: skip


def test_a_card_may_name_files():
    target = conversion("t", "part", {"a": "1", "b": "2"}, files="imagesTr/.*")
    target["cases"]["a"]["inputs"] = {"imagesTr/a.nii.gz": "", "labelsTr/a.nii.gz": ""}
    target["cases"]["b"]["inputs"] = {"imagesVa/b.nii.gz": "", "labelsVa/b.nii.gz": ""}
    assert declared(target, ATLAS) == {"a": ""}


ATLAS = conversion("atlas", "itself", {"BDMAP_1": "x", "BDMAP_2": "y"})


@pytest.mark.parametrize(
    ("target", "want"),
    [
        (conversion("t", "all", {"a": "1", "b": "2"}), {"a": "", "b": ""}),
        (conversion("t", "none", {"a": "1"}), {}),
        (conversion("t", "part", {"a": "1", "b": "2"}), {}),
        (conversion("t", "part", {"a1": "1", "b": "2"}, pattern=r"a\d"), {"a1": ""}),
        (conversion("t", "part", {"a": "1", "b": "2"}, cases={"a": "BDMAP_2"}), {"a": "BDMAP_2"}),
        (conversion("t", "part", {"a": "1"}, cases={"a": "BDMAP_9"}), {}),
        (conversion("t", "itself", {"BDMAP_2": "1", "BDMAP_7": "2"}), {"BDMAP_2": "BDMAP_2"}),
        (conversion("atlas", "itself", {"BDMAP_1": "1"}), {"BDMAP_1": "BDMAP_1"}),
    ],
)
def test_what_cards_declare(target, want):
    assert declared(target, ATLAS) == want
    other = conversion("other", "unknown", {"BDMAP_1": "x"})
    assert declared(target, other) == {}, "a card speaks of AbdomenAtlas only"


def test_voxels_go_before_pictures_and_pictures_before_cards():
    pictures = {n: thumbnail(*body(i)) for i, n in enumerate(("BDMAP_1", "BDMAP_2"))}
    target = conversion("t", "all", {"a": "x", "b": "other", "c": "another"})
    own = {"a": pictures["BDMAP_1"], "b": pictures["BDMAP_2"], "c": thumbnail(*body(7))}
    found = find_overlap(ATLAS, target, (pictures, own))["cases"]
    assert found == {
        "a": {"with": "BDMAP_1", "by": "voxels"},
        "b": {"with": "BDMAP_2", "by": "thumbnail", "similarity": 1.0},
        "c": {"with": "", "by": "card"},
    }


def test_the_command_looks_writes_and_tells(workspace, tmp_path, capsys):
    hu, grid = body(1)
    small, its_grid = resampled(hu, grid, np.array([3.0, 3.0, 4.0]))
    for folder, case, seed in (("atlas", "BDMAP_1", 1), ("atlas", "BDMAP_2", 2), ("own", "x", 5)):
        array, own_grid = body(seed)
        put(tmp_path / folder / case / "ct.nii.gz", array.astype(np.int16), own_grid.affine)
        put(tmp_path / folder / case / "segmentations/liver.nii.gz", array > 0, own_grid.affine)
    put(tmp_path / "own/y/ct.nii.gz", small.astype(np.int16), its_grid.affine)
    put(tmp_path / "own/y/segmentations/liver.nii.gz", small > 0, its_grid.affine)
    run = workspace.run
    assert run("convert", "abdomenatlas-1.1-mini", tmp_path / "atlas", "-np", 1) == 0
    assert run("convert", "openkbp", tmp_path / "own", "-np", 1) == 1
    (tmp_path / "card.json").write_text(
        '{"layout": {"kind": "structure_masks", "images": ["{case}/ct.nii.gz"],'
        ' "masks": "{case}/segmentations/{structure}.nii.gz"}, "structures": ["liver"]}'
    )
    own = ("convert", "custom", tmp_path / "own", "--card", tmp_path / "card.json", "-np", 1)
    assert run(*own) == 0
    assert run("datasets", "overlap", 701, 600, "-np", 1) == 0
    told = capsys.readouterr().out
    assert "y = BDMAP_1, by thumbnail" in told
    assert "1 of 2 cases are in Dataset701_AbdomenAtlas11Mini as well: y" in told
    kept = workspace.folder / "nnUNet_raw/Dataset600_Custom/conversion.json"
    before = kept.read_bytes()
    assert run(*own) == 0
    assert kept.read_bytes() == before, "the verdict outlives a conversion that changed nothing"
    assert run("datasets", "overlap", 701) == 2
    labels = kept.parent / "labelsTr"
    assert run("evaluate", labels, labels, "-o", tmp_path / "e.json", "-np", 1) == 0
    assert "1 of 2 cases are in Dataset701_AbdomenAtlas11Mini as well: y" in capsys.readouterr().out
    scores = json.loads((tmp_path / "e.json").read_text())
    assert scores["overlap"] == {"Dataset701_AbdomenAtlas11Mini": ["y"]}
    assert scores["mean_without_overlap"]["Dataset701_AbdomenAtlas11Mini"]["n"] == 1
    content = json.loads(before)
    assert sentences(content, ["x"]) == [
        "0 of 1 cases are in Dataset701_AbdomenAtlas11Mini as well"
    ]
    assert "not known" in sentences(content, ["x"], "Dataset700_Other")[0]
