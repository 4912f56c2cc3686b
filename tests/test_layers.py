"""Pieces: a volume read and laid in many pieces is the volume read at once."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_convert import convert, drawn, outcome, put

from atlas_nnunet import nifti
from atlas_nnunet.labelmap import Coding, Layers
from atlas_nnunet.nifti import Nifti

NAMES = ("liver", "spleen", "liver_tumor")
CODING = Coding.of(NAMES, [frozenset({"liver", "liver_tumor"})])
SHAPE = (5, 4, 3)


@given(st.integers(0, 9999), st.lists(st.integers(0, 60), max_size=6))
def test_pieces_of_any_size_are_one_mask(seed, cuts):
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(SHAPE) < 0.4 for name in NAMES}
    whole, conflicts = CODING.encode(masks.items(), SHAPE)
    layers = Layers(CODING, SHAPE)
    for name, mask in masks.items():
        layers.begin(name)
        flat, start = mask.ravel(order="F"), 0
        for piece in np.split(flat, sorted(cuts)):
            layers.lay(piece, start)
            start += len(piece)
    assert (layers.codes == whole).all()
    assert layers.conflicts == conflicts


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, ">i2"])
def test_a_stream_in_pieces_is_the_array(tmp_path, monkeypatch, dtype):
    array = np.random.default_rng(0).integers(0, 100, (7, 6, 5)).astype(dtype)
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    for size in (16, 40, 4096):
        monkeypatch.setattr(nifti, "PIECE_BYTES", size)
        with path.open("rb") as stream:
            assert (Nifti(stream, "x").array() == array).all()
    # What follows the voxels is read to its end: gzip's checksum stands there.
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with path.open("rb") as stream, pytest.raises(Exception, match="cannot be read"):
        Nifti(stream, "x").array()


def test_conversion_in_pieces_is_conversion_at_once(workspace, tmp_path, monkeypatch):
    masks = drawn(1, ["liver", "spleen", "liver_tumor"])
    labels = np.random.default_rng(0).integers(0, 4, next(iter(masks.values())).shape)
    put(tmp_path / "a/c1/ct.nii.gz", labels.astype(np.int16))
    for name, mask in masks.items():
        put(tmp_path / f"a/c1/segmentations/{name}.nii.gz", mask)
    put(tmp_path / "b/c1/imaging.nii.gz", labels.astype(np.int16))
    put(tmp_path / "b/c1/segmentation.nii.gz", labels.astype(np.float32))
    found = []
    for size in (1 << 22, 32):
        monkeypatch.setattr(nifti, "PIECE_BYTES", size)
        for key, folder, name in (
            ("abdomenatlas-1.1-mini", "a", "Dataset701_AbdomenAtlas11Mini"),
            ("kits23", "b", "Dataset533_KiTS23"),
        ):
            assert convert(workspace, key, tmp_path / folder) == 0
            raw, conversion, _ = outcome(workspace, name)
            data = gzip.decompress((raw / "labelsTr/c1.nii.gz").read_bytes())
            found.append((data, json.dumps(conversion)))
            (raw / "labelsTr/c1.nii.gz").unlink()
    assert found[:2] == found[2:]


def test_a_scale_that_makes_zero_a_voxel_is_heeded(workspace, tmp_path):
    """value = stored + 1: every stored zero is inside, and empty pieces must not be passed over."""
    put(tmp_path / "c1/ct.nii.gz", np.zeros(SHAPE, np.int16))
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.diag([-0.8, 0.8, 2.5, 1]))
    image.header.set_slope_inter(1, 1)
    path = tmp_path / "c1/segmentations/liver.nii.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(image.to_bytes()))
    assert convert(workspace, "abdomenatlas-1.1-mini", tmp_path) == 0
    raw, _, description = outcome(workspace)
    codes = np.asarray(nib.load(raw / "labelsTr/c1.nii.gz").dataobj)
    assert Coding.of_dataset_json(description).mask_of(codes, "liver").all()


def test_a_chosen_part_of_a_label_map_is_coded_by_what_is_chosen(workspace, tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    put(tmp_path / "c1/imaging.nii.gz", labels.astype(np.int16))
    put(tmp_path / "c1/segmentation.nii.gz", labels.astype(np.uint8))
    assert convert(workspace, "kits23", tmp_path, "--structures", "kidney_tumor") == 0
    raw, _, description = outcome(workspace, "Dataset533_KiTS23")
    assert description["labels"] == {"background": 0, "kidney_tumor": 1}
    codes = np.asarray(nib.load(raw / "labelsTr/c1.nii.gz").dataobj)
    assert ((codes == 1) == (labels == 2)).all()
