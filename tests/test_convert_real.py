"""Real CTs through conversion: AbdomenAtlas', TotalSegmentator's and DICOM layouts."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from support import what_was_written

from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.nifti import nifti_bytes
from atlas_nnunet.registry import card_of

pytestmark = pytest.mark.real


def convert(workspace, *words):
    code = workspace.run("convert", *words, "-np", 1)
    (raw,) = (workspace.folder / "nnUNet_raw").iterdir()
    return code, raw, *what_was_written(raw)


def check_against_masks(raw, coding, conversion, case, segmentations, stem_of):
    """Every structure's voxels, but for those that a priority settled and counted."""
    codes = np.asarray(nib.load(raw / "labelsTr" / f"{case}.nii.gz").dataobj)
    lost = dict.fromkeys(coding.structures, 0)
    for pair, voxels in conversion["cases"][case]["conflicts"].items():
        lost[pair.split(" gave way to ")[0]] += voxels
    checked = 0
    for name in coding.structures:
        path = segmentations / f"{stem_of(name)}.nii.gz"
        if path.is_file():
            truth = np.asarray(nib.load(path).dataobj) > 0
            found = coding.mask_of(codes, name)
            assert not (found & ~truth).any(), name
            assert (truth & ~found).sum() == lost[name], name
            checked += 1
        else:
            assert conversion["cases"][case]["status"][name] == "unlabelled"
    return checked


def test_abdomenatlas(workspace, real_data):
    code, raw, conversion, coding = convert(
        workspace, "abdomenatlas-1.1-mini", real_data / "abdomenatlas"
    )
    assert code == 0
    segmentations = real_data / "abdomenatlas/BDMAP_90000001/segmentations"
    same = check_against_masks(raw, coding, conversion, "BDMAP_90000001", segmentations, str)
    assert same == 21, "21 of the 25 organs have a file"


def test_totalsegmentator(workspace, real_data):
    code, raw, conversion, coding = convert(
        workspace, "totalsegmentator-v2", real_data / "totalsegmentator"
    )
    assert code == 0
    assert set(conversion["cases"]) == {"s9001", "s9002"}
    stems = {"gall_bladder": "gallbladder", "bladder": "urinary_bladder",
             "intestine": "small_bowel", "postcava": "inferior_vena_cava"}  # fmt: skip

    def stem(name):
        stem = stems.get(name, name)
        return "vertebrae_" + stem[10:].upper() if stem.startswith("vertebrae_") else stem

    counts = {
        case: check_against_masks(
            raw, coding, conversion, case,
            real_data / f"totalsegmentator/{case}/segmentations", stem,
        )
        for case in conversion["cases"]
    }  # fmt: skip
    assert counts == {"s9001": 61, "s9002": 41}


def test_dicom_with_a_label_map_whose_axes_run_otherwise(workspace, real_data):
    code, raw, conversion, coding = convert(
        workspace, "totalsegmentator-dicom", real_data, "--cases", "dicom"
    )
    assert code == 0
    assert len(conversion["cases"]["dicom"]["geometry"]) == 1
    image = nib.load(raw / "imagesTr/dicom_0000.nii.gz")
    mask = nib.load(raw / "labelsTr/dicom.nii.gz")
    assert np.allclose(image.affine, mask.affine)
    hu, codes = np.asarray(image.dataobj), np.asarray(mask.dataobj)
    assert hu.shape == codes.shape == (512, 512, 20)
    organ = coding.mask_of(codes, "liver")
    source = nib.load(real_data / "dicom/seg.nii.gz")
    assert organ.sum() == (np.asarray(source.dataobj) == 5).sum() > 1000
    assert 0 < np.median(hu[organ]) < 200, "soft tissue lies under the mask, not air"
    # World coordinates of both centres of mass: the same place in the patient.
    centers = [
        (affine @ [*np.argwhere(voxels).mean(0), 1])[:3]
        for affine, voxels in (
            (mask.affine, organ),
            (source.affine, np.asarray(source.dataobj) == 5),
        )
    ]
    assert np.allclose(*centers, atol=0.1)


def test_a_hospitals_dicom_with_masks_of_its_own_names(workspace, real_data, tmp_path):
    """The series where it lies; the label map's structures as single masks, other axes and all."""
    folder = tmp_path / "s/patient 7"
    folder.mkdir(parents=True)
    (folder / "ct").symlink_to(real_data / "dicom/series")
    seg = nib.load(real_data / "dicom/seg.nii.gz")
    labels = np.asarray(seg.dataobj)
    drawn = {"Liver": 5, "right kidney": 2, "my own thing": 51}
    for name, value in drawn.items():
        path = folder / "segmentations" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(nifti_bytes((labels == value).astype(np.uint8), seg.affine))
    code, raw, conversion, coding = convert(workspace, "dicom-masks", tmp_path / "s")
    assert code == 0
    assert set(coding.structures) == {"liver", "kidney_right", "my_own_thing"}
    codes = np.asarray(nib.load(raw / "labelsTr/patient-7.nii.gz").dataobj)
    for name, value in (("liver", 5), ("kidney_right", 2), ("my_own_thing", 51)):
        assert coding.mask_of(codes, name).sum() == (labels == value).sum(), name
    assert len(conversion["cases"]["patient-7"]["geometry"]) == 3


def test_chaos(workspace, real_data):
    source = real_data / "chaos/CHAOS_CT_3"
    code, raw, conversion, coding = convert(workspace, "chaos-ct", real_data / "chaos")
    assert code == 0
    assert check_against_masks(raw, coding, conversion, "CHAOS_CT_3", source / "segmentations",
                               str) == 1  # fmt: skip


@pytest.mark.parametrize(
    ("file", "key", "layout"),
    [
        ("BDMAP_00000006_combined_labels", "abdomenatlas-1.1-mini", "{}/{}"),
        ("PanTS_00000001_combined_labels", "pants", "LabelTr/{}/{}"),
    ],
)
def test_true_label_maps_are_read_voxel_by_voxel(workspace, real_data, tmp_path, file, key, layout):
    """All their labels: no CT was published with them, so an empty one of their grid stands in."""
    source = read_nifti(real_data / f"labels-only/{file}.nii.gz")
    case = file.removesuffix("_combined_labels")
    target = tmp_path / layout.format(case, "combined_labels.nii.gz")
    target.parent.mkdir(parents=True)
    target.symlink_to(real_data / f"labels-only/{file}.nii.gz")
    ct = tmp_path / ("ImageTr" if key == "pants" else "") / case / "ct.nii.gz"
    ct.parent.mkdir(parents=True, exist_ok=True)
    ct.write_bytes(nifti_bytes(np.zeros(source.array.shape, np.int16), source.grid.affine))
    code, raw, _, coding = convert(workspace, key, tmp_path)
    assert code == 0
    codes = np.asarray(nib.load(raw / f"labelsTr/{case}.nii.gz").dataobj)
    labels = np.rint(source.array).astype(np.uint8)
    there = {int(v) for v in np.unique(labels)} - {0}
    assert len(there) > 10
    for value, (name,) in card_of(key).values.sets.items():
        truth = labels == value
        assert (coding.mask_of(codes, name) == truth).all(), name
        assert truth.any() == (value in there)


def test_openkbp_keeps_what_overlaps_and_says_what_is_missing(workspace, real_data):
    code, raw, conversion, coding = convert(
        workspace, "openkbp", real_data / "openkbp", "--train", 3, "--hold-out", 1
    )
    assert code == 0
    for case in ("KBP_0001", "KBP_0002", "KBP_0003"):
        folder = real_data / f"openkbp/{case}/segmentations"
        assert check_against_masks(raw, coding, conversion, case, folder, str) >= 7


def test_kits_axes_are_kept_and_left_to_the_reader(workspace, real_data, tmp_path):
    source = read_nifti(real_data / "labels-only/kits19_case_00002_segmentation.nii.gz")
    small = source.array[::4, ::4, ::4]
    affine = source.grid.affine @ np.diag([4, 4, 4, 1])
    for name, array in (("imaging", small.astype(np.int16)), ("segmentation", small)):
        path = tmp_path / "s/case_00002" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nifti_bytes(array, affine))
    code, raw, _, coding = convert(workspace, "kits23", tmp_path / "s")
    assert code == 0
    mask = nib.load(raw / "labelsTr/case_00002.nii.gz")
    assert nib.aff2axcodes(mask.affine) == ("I", "P", "L")
    codes = np.asarray(mask.dataobj)
    assert (coding.mask_of(codes, "kidney") == (small > 0)).all()


def test_slope_scaled_labels_are_what_they_mean(real_data):
    path = real_data / "labels-only/PanTS_00000001_combined_labels.nii.gz"
    volume = read_nifti(path)
    labels = as_integers(volume.array, "PanTS")
    assert set(np.unique(labels)) <= set(range(29))
    assert (volume.array.astype(int) != labels).any(), "truncation would give other organs"
    stored = np.frombuffer(gzip.decompress(path.read_bytes())[352:], np.int16)
    assert len(np.unique(stored)) == len(np.unique(labels))
