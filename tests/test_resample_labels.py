"""Labels on another grid, and where classes lie: stock's own result, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.kernels import cells
from atlas_nnunet.kernels.cells import separate_axis
from atlas_nnunet.kernels.locations import class_locations
from atlas_nnunet.kernels.resample_labels import resample_labels

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

ARGUMENTS = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}


def stock(data, shape, current, new):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    return resample_data_or_seg_to_shape(data, shape, current, new, **ARGUMENTS)


def blobs(rng, shape, n_labels, coarse):
    """Labels in lumps, some of one voxel; -1 among them, as outside the body."""
    small = rng.integers(-1, n_labels, [max(1, s // coarse) for s in shape])
    for axis, s in enumerate(shape):
        small = np.take(small, np.arange(s) * small.shape[axis] // s, axis=axis)
    return small


sizes = st.tuples(*[st.integers(1, 14)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.0, 5.0])] * 3)


@given(sizes, sizes, spacings, spacings, st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
@example((8, 8, 8), (16, 16, 16), (2, 2, 2), (1, 1, 1), 5, 1, 0)  # every border is a tie
@example((8, 8, 8), (4, 4, 4), (1, 1, 1), (2, 2, 2), 5, 1, 0)
@example((1, 9, 9), (3, 5, 12), (5, 0.5, 0.5), (2, 1, 0.4), 3, 1, 0)  # thick slices, one of them
@example((6, 9, 9), (6, 5, 12), (5, 0.5, 0.5), (5, 1, 0.4), 3, 1, 0)  # as many slices as before
@settings(max_examples=300)
def test_labels_are_stocks_bit_for_bit(old, new, current, wanted, n_labels, coarse, seed):
    rng = np.random.default_rng(seed)
    data = blobs(rng, (2, *old), n_labels, coarse)
    for dtype in (np.int8, np.int16, np.int32, np.float32):
        ours = resample_labels(data.astype(dtype), new, current, wanted)
        theirs = stock(data.astype(dtype), new, current, wanted)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_slabs_and_chunks_change_nothing(monkeypatch):
    data = blobs(np.random.default_rng(0), (1, 20, 17, 13), 6, 2).astype(np.int16)
    words = ((31, 12, 19), (1, 1, 1), (0.7, 1.4, 0.7))
    whole = resample_labels(data, *words)
    monkeypatch.setattr(cells, "SLAB_VOXELS", 300)
    monkeypatch.setattr(cells, "SCORED", 7)
    assert np.array_equal(resample_labels(data, *words), whole)
    assert resample_labels(data, data.shape[1:], (1, 1, 1), (1, 1, 1)) is data


@given(spacings, spacings)
def test_the_axis_apart_is_stocks(current, new):
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    apart, axis = determine_do_sep_z_and_axis(None, current, new)
    assert separate_axis(current, new) == (int(axis) if apart else None)


@pytest.mark.real
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (5.0, 0.8, 0.8), (2.2, 1.1, 1.3)])
def test_a_true_label_map_is_stocks_bit_for_bit(real_data, spacing):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    path = real_data / "labels-only/BDMAP_00000006_combined_labels.nii.gz"
    volume = read_nifti(path)
    labels = as_integers(volume.array, "x")[150:350:2, 150:350:2, 100:300:3]
    data = labels.transpose(2, 1, 0)[None].astype(np.int16)
    current = (volume.grid.spacing_mm * (2, 2, 3))[::-1].tolist()
    assert len(np.unique(data)) > 15
    shape = compute_new_shape(data.shape[1:], current, spacing)
    assert np.array_equal(resample_labels(data, shape, current, spacing),
                          stock(data, shape, current, spacing))  # fmt: skip
    check_locations(data, [*range(1, 25), [1, 2, 3], [-1, 0, 5]])


regions = st.lists(st.integers(-1, 7), min_size=1, max_size=4, unique=True)
classes = st.lists(st.one_of(st.integers(-1, 7), regions), min_size=1, max_size=6)


@given(sizes, classes, st.integers(1, 7), st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=200)
def test_class_locations_are_stocks(shape, asked, n_labels, coarse, seed):
    check_locations(blobs(np.random.default_rng(seed), (1, *shape), n_labels, coarse), asked)


def test_class_locations_of_large_classes_are_stocks():
    """Beyond 10,000 voxels a hundredth counts, beyond a million more than that."""
    seg = np.zeros((1, 120, 110, 100), np.int16)
    seg[:, 5:] = 1
    seg[:, :, :20] = 3
    seg[:, 50:53, 40:43, 7:9] = 9
    check_locations(seg, [1, 3, 9, [1, 3], [9, 1], 4, [-1, 0, 1, 3, 9]])


def check_locations(seg, asked):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    for dtype in (np.int8, np.int16, np.int32, np.float32):
        theirs = DefaultPreprocessor._sample_foreground_locations(seg.astype(dtype), asked)
        ours = class_locations(seg.astype(dtype), asked)
        assert ours.keys() == theirs.keys()
        for one, places in theirs.items():
            assert np.array_equal(ours[one], places), one
            assert len(places) == 0 or ours[one].dtype == places.dtype


def test_unsigned_labels_keep_their_type():
    data = blobs(np.random.default_rng(0), (1, 9, 8, 7), 300, 1).clip(0).astype(np.uint16)
    words = ((13, 5, 9), (1, 1, 1), (1, 1, 1))
    ours = resample_labels(data, *words)
    assert ours.dtype == np.uint16
    assert np.array_equal(ours, stock(data.astype(np.int32), *words))


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = torch.from_numpy(blobs(np.random.default_rng(0), (1, 40, 50, 30), 9, 3))
    for current in ((1, 1, 1), (5, 1, 1)):
        words = ((61, 35, 44), current, (1, 1, 1))
        there = resample_labels(data.cuda(), *words).cpu()
        assert torch.equal(there, resample_labels(data, *words))
    there, here = class_locations(data.cuda(), [1, [2, 3]]), class_locations(data, [1, [2, 3]])
    assert all(np.array_equal(there[key], here[key]) for key in here)
