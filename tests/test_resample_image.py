"""Images on another grid: stock's result to within 1e-5 of the range."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atlas_nnunet.images import read_nifti
from atlas_nnunet.kernels.resample_image import resample_image

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

ARGUMENTS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
TOLERANCE = 1e-5  # of the data's range


def stock(data, shape, current, new):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    return resample_data_or_seg_to_shape(data, shape, current, new, **ARGUMENTS)


def check(data, *words):
    ours, theirs = resample_image(data, *words), stock(data, *words)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    for before, mine, other in zip(data, ours, theirs, strict=True):
        assert np.abs(mine - other).max(initial=0) <= TOLERANCE * np.ptp(before)
        assert mine.min() >= before.min()
        assert mine.max() <= before.max()


sizes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.0, 5.0])] * 3)


@given(sizes, sizes, spacings, spacings, st.integers(0, 999), st.sampled_from([0.0, 1e5]))
@example((8, 8, 8), (16, 16, 16), (2, 2, 2), (1, 1, 1), 0, 0.0)
@example((1, 9, 70), (3, 5, 33), (5, 0.5, 0.5), (2, 1, 0.4), 0, 0.0)  # thick slices, one of them
@example((6, 9, 9), (6, 5, 12), (5, 0.5, 0.5), (5, 1, 0.4), 0, 0.0)  # as many slices as before
@example((9, 9, 7), (5, 12, 4), (0.5, 0.5, 5), (1, 0.4, 9), 0, 0.0)  # the last axis is coarse
@settings(max_examples=150)
def test_images_are_stocks_within_the_tolerance(old, new, current, wanted, seed, offset):
    rng = np.random.default_rng(seed)
    data = rng.normal(offset, 300, (2, *old))
    check(data.astype(np.float32), new, current, wanted)
    check(data, new, current, wanted)


def test_one_value_stays_one_value():
    data = np.full((1, 5, 6, 7), 1234.567, np.float32)
    assert np.array_equal(resample_image(data, (9, 4, 9), (1, 1, 1), (1, 1, 1)),
                          np.full((1, 9, 4, 9), 1234.567, np.float32))  # fmt: skip


def test_the_same_shape_is_handed_through():
    data = np.zeros((1, 5, 6, 7), np.float32)
    assert resample_image(data, (5, 6, 7), (1, 1, 1), (2, 1, 1)) is data


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="float32 or float64, not int16"):
        resample_image(np.zeros((1, 3, 3, 3), np.int16), (4, 4, 4), (1, 1, 1), (1, 1, 1))


@pytest.mark.real
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (6.0, 1.2, 1.2), (2.5, 0.9, 1.0)])
def test_a_real_ct_is_stocks_within_the_tolerance(real_data, spacing):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    volume = read_nifti(real_data / "chaos/CHAOS_CT_3/ct.nii.gz")
    data = volume.array[100:400:2, 100:400:2].transpose(2, 1, 0)[None].astype(np.float32)
    current = (volume.grid.spacing_mm * (2, 2, 1))[::-1].tolist()
    check(data, compute_new_shape(data.shape[1:], current, spacing), current, spacing)


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = np.random.default_rng(0).normal(0, 300, (2, 30, 70, 50)).astype(np.float32)
    for current in ((1, 1, 1), (5, 1, 1)):
        words = ((41, 50, 60), current, (1, 1, 1))
        there = resample_image(torch.from_numpy(data).cuda(), *words).cpu().numpy()
        assert np.abs(there - stock(data, *words)).max() <= TOLERANCE * np.ptp(data)
