"""The quirks that cards tell of, planted: each is handled as its card says, or refused in words."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from test_cards import CARDS, check, convert
from trees import AFFINE, SHAPE, build, path_of, save


def status_of(conversion, case):
    return conversion["cases"][case]["status"]


def test_own_files_win_over_the_combined_map_and_the_map_fills_gaps(workspace, tmp_path):
    card = CARDS["abdomenatlas-1.1-mini"]
    masks = tmp_path / "2/segmentations"
    tree = build(card, tmp_path)
    own = {name: tree.truth["2"][name] for name in ("liver", "spleen", "colon", "rectum")}
    combined = np.zeros(SHAPE, np.float32)
    for value, (name,) in enumerate(card.values.sets.values(), 1):
        if name in own:
            combined[own[name]] = value
        if name != "liver":
            (masks / f"{name}.nii.gz").unlink()
    for name in card.groups["tumors"]:
        (masks / f"{name}.nii.gz").unlink()
    save(tmp_path / "2/combined_labels.nii.gz", combined)
    _, raw, conversion, coding = convert(workspace, card.key, tmp_path)
    codes = np.asarray(nib.load(raw / "labelsTr/2.nii.gz").dataobj)
    for name in ("colon", "rectum", "spleen"):
        found = coding.mask_of(codes, name)
        number = next(v for v, members in card.values.sets.items() if name in members)
        assert not (found & (combined != number)).any()
        assert found.any()
    lost = sum(n for pair, n in conversion["cases"]["2"]["conflicts"].items()
               if pair.startswith("liver "))  # fmt: skip
    assert coding.mask_of(codes, "liver").sum() == own["liver"].sum() - lost
    status = status_of(conversion, "2")
    assert {status[n] for n in ("pancreas", "aorta", "liver_tumor")} == {"unlabelled"}
    assert not {"liver", "spleen", "colon", "rectum"} & status.keys()
    assert sum("combined label map" in note for note in conversion["cases"]["2"]["notes"]) == 3


def test_a_combined_map_alone_is_enough(workspace, tmp_path):
    """As PanTS publishes it: int16 with a scale slope, 1.99996948 for 2."""
    labels = np.random.default_rng(0).integers(0, 29, SHAPE)
    save(tmp_path / "ImageTr/PanTS_1/ct.nii.gz", labels.astype(np.int16))
    slope = 27.99999 / 32767
    stored = np.rint(labels / slope).astype(np.int16)
    save(tmp_path / "LabelTr/PanTS_1/combined_labels.nii.gz", stored, slope=slope)
    read = nib.load(tmp_path / "LabelTr/PanTS_1/combined_labels.nii.gz").get_fdata()
    assert (read != labels).any(), "truncation would give other organs"
    code, raw, conversion, coding = convert(workspace, "pants", tmp_path)
    assert code == 0
    codes = np.asarray(nib.load(raw / "labelsTr/PanTS_1.nii.gz").dataobj)
    for value, (name,) in CARDS["pants"].values.sets.items():
        assert (coding.mask_of(codes, name) == (labels == value)).all(), name
    assert status_of(conversion, "PanTS_1") == {}


def test_a_lesion_is_the_tumour_where_no_file_is_called_so(workspace, tmp_path):
    """The authors renamed kidney_tumor of ids above 5195; where both are there, _tumor is meant."""
    card = CARDS["abdomenatlas-1.1-mini"]
    tree = build(card, tmp_path)
    folder = tmp_path / "2/segmentations"
    (folder / "kidney_tumor.nii.gz").rename(folder / "kidney_lesion.nii.gz")
    (folder / "lung_tumor.nii.gz").rename(folder / "_lung_lesion.nii.gz")
    save(folder / "liver_lesion.nii.gz", np.ones(SHAPE, bool))
    save(folder / "pancreatic_lesion.nii.gz", np.zeros(SHAPE, bool))
    (folder / "pancreas_tumor.nii.gz").unlink()
    tree.truth["2"]["pancreas_tumor"] = np.zeros(SHAPE, bool)
    code, raw, conversion, coding = convert(workspace, card.key, tmp_path)
    assert code == 0
    check(card, tree, raw, conversion, coding)
    assert status_of(conversion, "2")["kidney_tumor"] == "pseudo"
    assert status_of(conversion, "2")["pancreas_tumor"] == "absent", "reviewed, and none"
    notes = conversion["cases"]["2"]["notes"]
    assert "kidney_tumor: read from kidney_lesion.nii.gz" in notes
    assert "lung_tumor: read from _lung_lesion.nii.gz" in notes
    assert "liver_tumor: liver_tumor.nii.gz is taken, liver_lesion.nii.gz is not" in notes


def test_a_cropped_mask_is_placed_by_its_affine(workspace, tmp_path):
    """AbdomenAtlas 3.0: a mask of (511, 404, 339) beside a CT of (512, 512, 339)."""
    card = CARDS["abdomenatlas-3.0-mini"]
    tree = build(card, tmp_path)
    path = tmp_path / "mask_only/2/segmentations/liver.nii.gz"
    liver = tree.truth["2"]["liver"].copy()
    liver[:2] = liver[-1:] = liver[:, :3] = False
    tree.truth["2"]["liver"] = liver
    moved = AFFINE.copy()
    moved[:3, 3] = (AFFINE @ [2, 3, 0, 1])[:3]
    save(path, liver[2:-1, 3:], moved)
    code, raw, conversion, coding = convert(workspace, card.key, tmp_path)
    assert code == 0
    check(card, tree, raw, conversion, coding)
    (note,) = conversion["cases"]["2"]["geometry"]
    assert "another extent" in note
    outside = AFFINE.copy()
    outside[:3, 3] = (AFFINE @ [6, 3, 0, 1])[:3]
    save(path, np.ones((10, 8, 9), bool), outside)
    code, _, conversion, _ = convert(workspace, card.key, tmp_path)
    assert code == 1
    assert "outside the CT" in conversion["refused"]["2"]


def test_partial_labels_are_unlabelled_and_removed_organs_absent(workspace, tmp_path):
    for key, status in (("flare23", "unlabelled"), ("raos", "absent"), ("btcv", None)):
        card = CARDS[key]
        tree = build(card, tmp_path / key)
        path = tmp_path / key / path_of(card.layout.masks, "2")
        labels = np.asarray(nib.load(path).dataobj).copy()
        labels[labels == 1] = 0
        save(path, labels)
        _, _, conversion, _ = convert(workspace, key, tmp_path / key)
        gone = card.structures[0]
        assert status_of(conversion, "2") == ({gone: status} if status else {})
        assert gone not in status_of(conversion, "10")
        assert conversion["status_totals"][gone].get(status or "annotated", 0) >= 1
        assert tree.truth


def test_ct_and_mr_of_one_folder_are_parted(workspace, tmp_path):
    trees = {key: build(CARDS[key], tmp_path / "amos") for key in ("amos22", "amos22-mr")}
    for key, tree in trees.items():
        code, raw, conversion, coding = convert(workspace, key, tmp_path / "amos")
        assert code == 0
        check(CARDS[key], tree, raw, conversion, coding)


def test_a_lost_spacing_is_refused(workspace, tmp_path):
    build(CARDS["lits"], tmp_path)
    for name in ("volume", "segmentation"):
        save(tmp_path / f"{name}-10.nii", np.zeros(SHAPE, np.int16), np.eye(4))
    code, _, conversion, _ = convert(workspace, "lits", tmp_path)
    assert code == 1
    assert "the spacing is lost" in conversion["refused"]["10"]
    assert set(conversion["cases"]) == {"2"}


@pytest.mark.parametrize("again", [False, True])
def test_one_ct_under_two_names_is_refused_once(workspace, tmp_path, again):
    """AbdomenCT-1K's cases 297 and 928; another gzip, another header: the voxels tell."""
    card = CARDS["abdomenct-1k"]
    tree = build(card, tmp_path)
    twin = tmp_path / path_of(card.layout.images[0], "928")
    save(twin, tree.ct["2"][0], AFFINE, slope=1.0)
    save(tmp_path / "Mask/928.nii.gz", np.ones(SHAPE, np.int16))
    for _ in range(1 + again):
        code, raw, conversion, _ = convert(workspace, card.key, tmp_path)
    assert code == 1
    assert conversion["refused"] == {"928": "its images are those of 2, voxel by voxel"}
    assert set(conversion["cases"]) == {"2", "10"}
    assert not list(raw.rglob("*928*"))


def test_float_labels_are_read_by_meaning(workspace, tmp_path):
    tree = build(CARDS["ct-org"], tmp_path)
    for case in ("4", "21"):
        path = tmp_path / f"labels-{case}.nii.gz"
        labels = np.asarray(nib.load(path).dataobj).astype(np.float32)
        save(path, labels * np.float32(1.0000001))
    code, raw, conversion, coding = convert(workspace, "ct-org", tmp_path)
    assert code == 0
    check(CARDS["ct-org"], tree, raw, conversion, coding)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_mirrored_and_anti_diagonal_axes_are_kept(workspace, tmp_path, order):
    """KiTS stores (slice, row, column); any such grid goes through, CT and mask alike."""
    card = CARDS["kits23"]
    tree = build(card, tmp_path)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, old in enumerate(order):
        matrix[old, new] = -1
        matrix[old, 3] = SHAPE[old] - 1
    for name in ("imaging", "segmentation"):
        path = tmp_path / f"2/{name}.nii.gz"
        array = np.asarray(nib.load(path).dataobj)[::-1, ::-1, ::-1].transpose(order)
        save(path, array, AFFINE @ matrix)
    code, raw, _, coding = convert(workspace, card.key, tmp_path)
    assert code == 0
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    seg, _ = NibabelIOWithReorient().read_seg(str(raw / "labelsTr/2.nii.gz"))
    image, _ = NibabelIOWithReorient().read_images([str(raw / "imagesTr/2_0000.nii.gz")])
    upright = np.s_[::-1, ::-1, :]  # to RAS: AFFINE counts to the left and back
    want = tree.truth["2"]["kidney"][upright].transpose(2, 1, 0)
    assert (coding.mask_of(seg[0].astype(int), "kidney") == want).all()
    assert (image[0] == tree.ct["2"][0][upright].transpose(2, 1, 0)).all()


BAD = {
    "int8 overflow": (lambda m: np.where(m, -1, 0).astype(np.int8), "int8"),
    "NaN": (lambda m: np.where(m, np.nan, 0).astype(np.float32), "NaN"),
    "infinity": (lambda m: np.where(m, np.inf, 0).astype(np.float32), "infinite"),
}


@pytest.mark.parametrize("what", BAD)
def test_masks_that_cannot_be_meant_are_refused(workspace, tmp_path, what):
    spoil, words = BAD[what]
    tree = build(CARDS["pants"], tmp_path)
    path = tmp_path / "LabelTr/2/segmentations/liver.nii.gz"
    save(path, spoil(tree.truth["2"]["liver"]))
    code, _, conversion, _ = convert(workspace, "pants", tmp_path)
    assert code == 1
    assert words in conversion["refused"]["2"]
    assert "10" in conversion["cases"]


def test_a_rescale_slope_is_the_readers(workspace, tmp_path):
    """A CT stored with a slope keeps its bytes; nnU-Net's reader applies the slope."""
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    build(CARDS["segthor"], tmp_path)
    stored = np.random.default_rng(1).integers(0, 4000, SHAPE).astype(np.int16)
    source = tmp_path / "train/2/2.nii.gz"
    save(source, stored, slope=0.5)
    code, raw, _, _ = convert(workspace, "segthor", tmp_path)
    assert code == 0
    assert (raw / "imagesTr/2_0000.nii.gz").read_bytes() == source.read_bytes()
    image, _ = NibabelIOWithReorient().read_images([str(raw / "imagesTr/2_0000.nii.gz")])
    assert np.allclose(np.sort(image.ravel()), np.sort(stored.ravel()) * 0.5)


def test_the_authors_splits(workspace, tmp_path):
    for key, train, test in (("totalsegmentator-v2", "s0011", "s0235"), ("ct-org", "21", "4")):
        build(CARDS[key], tmp_path / key)
        code, raw, conversion, _ = convert(workspace, key, tmp_path / key, "--split", "official")
        assert code == 0
        held_out = {case: entry["held_out"] for case, entry in conversion["cases"].items()}
        assert held_out == {train: False, test: True}
        assert not (raw / "splits_final.json").exists()
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, case in (("train", "s0011"), ("val", "s0235"), ("test", "s0999")):
        (lists / f"{name}.txt").write_text(f"{case}\tct abdomen\r\n")
    key = "totalsegmentator-v1"
    build(CARDS[key], tmp_path / key)
    words = ("convert", key, tmp_path / key, "-np", 1, "--split", "suprem")
    assert workspace.run(*words) == 2
    assert workspace.run(*words, "--lists", lists, "--train", 1) == 2
    code, raw, _, _ = convert(workspace, key, tmp_path / key, *words[5:], "--lists", lists)
    assert code == 0
    assert json.loads((raw / "splits_final.json").read_text()) == [
        {"train": ["s0011"], "val": ["s0235"]}
    ]
    (lists / "val.txt").write_text("s0011\n")
    assert workspace.run(*words, "--lists", lists) == 2


def test_a_card_of_ones_own(workspace, tmp_path, capsys):
    tree = build(replace(CARDS["segthor"], key="mine"), tmp_path / "source")
    card = {
        "layout": {"kind": "label_map", "images": ["train/{case}/{case}.nii.gz"],
                   "masks": "train/{case}/GT.nii.gz"},
        "structures": ["esophagus", "heart", "trachea", "aorta"],
        "values": {"1": ["esophagus"], "2": ["heart"], "3": ["trachea"], "4": ["aorta"]},
    }  # fmt: skip
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(card))
    words = ("convert", "custom", tmp_path / "source", "--card", path, "-np", 1)
    assert workspace.run(*words, "-d", 777, "--name", "Mine") == 0
    raw = workspace.folder / "nnUNet_raw/Dataset777_Mine"
    conversion = json.loads((raw / "conversion.json").read_text())
    assert set(conversion["cases"]) == set(tree.truth)
    assert conversion["key"] == "mine"
    path.write_text(json.dumps({**card, "structures": ["heart"], "colour": "red"}))
    assert workspace.run(*words) == 2
    told = capsys.readouterr().err
    assert "colour" in told
    path.write_text(json.dumps({**card, "structures": ["heart"]}))
    assert workspace.run(*words) == 2
    assert "mentioned but not listed" in capsys.readouterr().err
    assert workspace.run("convert", "custom", tmp_path / "source") == 2
    assert workspace.run("convert", "btcv", tmp_path / "source", "--card", path) == 2


def test_names_that_nnunet_could_not_tell_apart_are_refused(workspace, tmp_path, capsys):
    for case in ("a b", "a-b"):
        for name in ("img", "label"):
            save(tmp_path / case / f"{name}.nii.gz", np.zeros(SHAPE, np.int16))
    assert workspace.run("convert", "imagecas", tmp_path, "-np", 1) == 2
    assert "would both be a-b" in capsys.readouterr().err


def test_pictures_that_are_not_the_series_slices_are_refused(workspace, tmp_path):
    build(CARDS["chaos-ct-dicom"], tmp_path)
    (tmp_path / "CT/2/Ground/liver_GT_7.png").unlink()
    (tmp_path / "CT/10/Ground/liver_GT_7.png").write_bytes(b"no picture")
    code = workspace.run("convert", "chaos-ct-dicom", tmp_path, "-np", 1)
    raw = workspace.folder / "nnUNet_raw" / CARDS["chaos-ct-dicom"].nnunet_dataset
    refused = json.loads((raw / "conversion.json").read_text())["refused"]
    assert code == 1
    assert "8 pictures" in refused["2"]
    assert "PNG" in refused["10"]
