"""The phantom: same seed, same bytes; tumours in their organs; sides, sizes and gaps as stated."""

import hashlib

import nibabel as nib
import numpy as np
import pytest

from atlas_nnunet.demo import phantom_files
from atlas_nnunet.demo.anatomy import LESIONS
from atlas_nnunet.demo.phantom import EXTRA, UPPER_ABDOMEN, WIDE, View, make_patient
from atlas_nnunet.geometry import axis_codes
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS, side_of

COARSE = View((2.8, 3.0), (3.0, 5.0), (-250, -240), (560, 570), 0)  # the whole trunk, quickly
NESTED = {frozenset(("liver", "hepatic_vessel"))}


@pytest.fixture(scope="module")
def patients():
    return [make_patient(7, i, COARSE) for i in range(6)]


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert files
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes_in_any_order(patients):
    again = [make_patient(7, i, COARSE) for i in (3, 1)]
    for first, second in zip((patients[3], patients[1]), again, strict=True):
        assert (first.ct_hu == second.ct_hu).all()
        assert all((first.masks[n] == second.masks[n]).all() for n in first.masks)
        assert (first.grid.affine == second.grid.affine).all()
    assert not np.array_equal(patients[0].ct_hu, make_patient(8, 0, COARSE).ct_hu)


def test_every_organ_and_tumour_has_a_mask_and_occurs_somewhere(patients):
    names = {*ABDOMENATLAS_ORGANS, *ABDOMENATLAS_TUMORS, *EXTRA}
    assert all(set(p.masks) == names for p in patients)
    found = {
        n for i in range(6, 24) for n, m in make_patient(7, i, COARSE).masks.items() if m.any()
    }
    assert found == names


def test_tumours_lie_in_their_organs_and_organs_apart(patients):
    for patient in patients:
        for name, kind in LESIONS.items():
            organ = np.logical_or.reduce([patient.masks[h] for h in kind.hosts])
            assert not (patient.masks[name] & ~organ).any()
        assert not (patient.masks["hepatic_vessel"] & ~patient.masks["liver"]).any()
        organs = [n for n in ABDOMENATLAS_ORGANS if n != "hepatic_vessel"]
        assert (sum(patient.masks[n].astype(int) for n in organs) <= 1).all()


def test_sizes_are_plausible(patients):
    ranges_ml = {
        "liver": (800, 2300), "spleen": (80, 450), "kidney_left": (60, 280),
        "kidney_right": (60, 280), "pancreas": (25, 140), "aorta": (60, 320),
        "lung_left": (600, 3500), "bladder": (50, 400),
    }  # fmt: skip
    for patient in patients:
        for name, (low, high) in ranges_ml.items():
            assert low < patient.volume_ml[name] < high, name


def test_left_is_left_and_right_is_right_whatever_the_axes(patients):
    assert len({axis_codes(p.grid) for p in patients}) > 1
    checked = 0
    for patient in patients:
        for name, mask in patient.masks.items():
            if side_of(name) and mask.any():
                center = np.argwhere(mask).mean(0)
                x_mm = (patient.grid.affine @ [*center, 1])[0]
                assert (x_mm > 0) == (side_of(name) == "right"), name
                checked += 1
    assert checked > 20


def test_intensity_alone_does_not_separate_neighbours(patients):
    for one, other in (("liver", "spleen"), ("pancreas", "duodenum"), ("postcava", "kidney_left")):
        overlaps = 0
        for p in patients:
            a, b = (np.percentile(p.ct_hu[p.masks[n]], (10, 90)) for n in (one, other))
            overlaps += a[0] < b[1] and b[0] < a[1]
        assert overlaps >= 2, (one, other)
    for p in patients:
        assert np.median(p.ct_hu[p.masks["lung_left"]]) < -600


def test_views_vary_and_cut_organs_off():
    wide = [make_patient(1, i, WIDE) for i in range(2)]
    assert all(0.7 <= p.grid.spacing_mm.min() <= 1.0 for p in wide)
    assert all(1.0 <= p.grid.spacing_mm.max() <= 5.0 for p in wide)
    upper = make_patient(1, 1, UPPER_ABDOMEN)
    assert upper.volume_ml["femur_left"] == 0
    assert upper.volume_ml["liver"] > 700
    assert upper.volume_ml["liver_tumor"] > 0


def job(folder, index=1, part="atlas", view=COARSE):
    return phantom_files.PhantomJob(folder, 3, index, part, view)


def test_files_follow_the_authors_conventions_and_hold_the_volumes(tmp_path):
    stems = []
    for index in range(1, 5):
        assert phantom_files.write_phantom(job(tmp_path, index))
        patient = make_patient(3, index, COARSE)
        folder = tmp_path / f"BDMAP_{index:08d}"
        masks = {}
        for path in sorted((folder / "segmentations").glob("*.nii.gz")):
            masks[path.name.removesuffix(".nii.gz")] = np.asarray(nib.load(path).dataobj) > 0
        combined = np.asarray(nib.load(folder / "combined_labels.nii.gz").dataobj)
        expected = np.zeros_like(combined)
        for value, name in enumerate(ABDOMENATLAS_ORGANS, 1):
            voxel_ml = patient.grid.voxel_ml
            assert masks[name].sum() * voxel_ml == pytest.approx(patient.volume_ml[name])
            expected[masks[name]] = value
        assert (combined == expected).all()
        for name in ABDOMENATLAS_TUMORS:
            assert not (name in masks and masks[name].any()), "a tumour drawn is a prediction"
            if f"_{name}" in masks:
                hosts = [patient.masks[h] for h in LESIONS[name].hosts]
                assert not (masks[f"_{name}"] & ~np.logical_or.reduce(hosts)).any()
        stems += [s for s in masks if s.lstrip("_") in ABDOMENATLAS_TUMORS]
    assert any(s.startswith("_") for s in stems)
    assert any(not s.startswith("_") for s in stems)
    assert len(stems) < 4 * len(ABDOMENATLAS_TUMORS), "some were not reviewed: no file"


def test_the_same_job_leaves_the_same_bytes_and_is_not_done_twice(tmp_path):
    for folder in ("a", "b"):
        phantom_files.write_phantom(job(tmp_path / folder))
        phantom_files.write_phantom(job(tmp_path / folder, part="Ts", view=UPPER_ABDOMEN))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert not phantom_files.write_phantom(job(tmp_path / "a"))


def test_the_target_set_names_its_values_and_keeps_the_tumour(tmp_path):
    phantom_files.write_phantom(job(tmp_path, part="Tr", view=UPPER_ABDOMEN))
    phantom_files.write_target_description(tmp_path, 1, 0)
    labels = np.asarray(nib.load(tmp_path / "labelsTr" / "phantom_001.nii.gz").dataobj)
    truth = make_patient(3, 1, UPPER_ABDOMEN)
    assert ((labels == 2) == truth.masks["liver_tumor"]).all()
    assert (np.isin(labels, (1, 2)) == truth.masks["liver"]).all()
