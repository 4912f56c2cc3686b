"""Reading says what is wrong with a file; writing depends on content alone."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from atlas_nnunet.errors import GeometryError, LabelMapError, SourceError
from atlas_nnunet.images import as_integers, as_mask, check_finite, read_nifti
from atlas_nnunet.nifti import nifti_bytes


def test_equal_content_is_equal_bytes_at_any_time(monkeypatch):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    first = nifti_bytes(array, np.eye(4))
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    assert nifti_bytes(array, np.eye(4)) == first
    assert nifti_bytes(array + 1, np.eye(4)) != first
    assert nifti_bytes(array, np.diag([1, 1, 2, 1])) != first


def save(path, array, **header):
    image = nib.Nifti1Image(array, np.eye(4))
    if "qform" in header:
        image.set_sform(np.eye(4), 1)
        image.set_qform(header["qform"], 1)
    path.write_bytes(image.to_bytes())
    return path


def test_what_is_written_is_read_back_and_the_name_does_not_decide_about_gzip(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[0, 2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    packed = nifti_bytes(array, affine)
    for name, data in (("a.nii.gz", packed), ("b.nii.gz", gzip.decompress(packed)), ("c", packed)):
        (tmp_path / name).write_bytes(data)
        volume = read_nifti(tmp_path / name)
        assert (volume.array == array).all()
        assert np.allclose(volume.grid.affine, affine)
        assert np.allclose(volume.grid.spacing_mm, [1, 2, 3])


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "empty"), (b"no image at all, but long enough to look at" * 20, "cannot be read"),
     (nifti_bytes(np.ones((9, 9, 9), np.float64), np.eye(4))[:-40], "cannot be read")],
)  # fmt: skip
def test_broken_files_are_refused_by_path(tmp_path, data, says):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=says) as caught:
        read_nifti(path)
    assert str(path) == caught.value.where


def test_what_no_ct_may_hold_is_refused(tmp_path):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 1, 1:3] = np.nan, np.inf
    with pytest.raises(SourceError, match="2 voxels"):
        check_finite(array, "nan.nii")
    with pytest.raises(SourceError, match="4-D"):
        read_nifti(save(tmp_path / "4d.nii", np.zeros((3, 4, 5, 2), np.float32)))
    thin = save(tmp_path / "thin.nii", np.zeros((3, 4, 5, 1), np.float32))
    assert read_nifti(thin).array.ndim == 3
    moved = np.eye(4)
    moved[0, 3] = 3
    with pytest.raises(GeometryError, match=r"3\.00 mm apart"):
        read_nifti(save(tmp_path / "forms.nii", np.zeros((3, 4, 5), np.float32), qform=moved))


def test_masks_and_label_maps_are_not_guessed():
    soft = np.array([0.0, 0.4, 0.6, 255.0])
    assert as_mask(soft, "x").tolist() == [False, False, True, True]
    for broken in (np.nan, np.inf):
        with pytest.raises(SourceError, match="1 voxels"):
            as_mask(np.array([0.0, broken]), "x")
    with pytest.raises(LabelMapError, match="int8"):
        as_mask(np.array([0, -1], np.int8), "x")
    assert as_mask(np.array([0, 255], np.uint8), "x").tolist() == [False, True]
    assert as_integers(np.array([1.99996948, 3.0]), "x").tolist() == [2, 3]
    for wrong in (0.4, -1.0, np.nan, 70000.0):
        with pytest.raises(LabelMapError):
            as_integers(np.array([0.0, wrong]), "x")


def test_a_scale_is_applied_whole(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    (tmp_path / "x.nii").write_bytes(image.to_bytes())
    assert (read_nifti(tmp_path / "x.nii").array == np.arange(24).reshape(2, 3, 4) * 2 - 1024).all()
