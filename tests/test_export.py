"""Logits -> label map: what nnU-Net's own export gives, voxel by voxel."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from atlas_nnunet.images import as_integers, read_nifti
from atlas_nnunet.kernels import cells, export
from atlas_nnunet.kernels.arrays import NanError, rounded
from atlas_nnunet.kernels.export import Target, logits_to_labels, painting
from atlas_nnunet.kernels.probabilities import labels_of, probability_slabs

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

RESAMPLING = {
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None,
    },
}  # fmt: skip


def managers(labels, spacing, order=None):
    """nnU-Net's plan, configuration and labels for an export, and nothing else."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager({
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d": {"spacing": list(spacing), "architecture": {}, **RESAMPLING}},
    })  # fmt: skip
    description = {"labels": labels} | ({"regions_class_order": order} if order else {})
    return plans, plans.get_configuration("3d"), plans.get_label_manager(description)


def stock(logits, target, labels, order=None, **options):
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )

    properties = {
        "spacing": list(target.new_spacing),
        "shape_after_cropping_and_before_resampling": target.shape,
        "shape_before_cropping": target.whole,
        "bbox_used_for_cropping": [[s.start, s.stop] for s in target.crop],
    }
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, *managers(labels, target.current_spacing, order), properties, num_threads_torch=1,
        **options,
    )  # fmt: skip


def softmax_labels(n_heads):
    return {"background": 0} | {f"s{k}": k for k in range(1, n_heads)}


def region_labels(n_heads):
    return {"background": 0} | {f"r{k}": list(range(k, n_heads + 1)) for k in range(1, n_heads + 1)}


def network_like(rng, n_heads, shape, smooth, scale):
    """Logits in lumps, as a network gives them, or noise where `smooth` is 0."""
    logits = rng.normal(0, 1, (n_heads, *shape))
    return np.stack([gaussian_filter(head, smooth) for head in logits]) * scale


sizes = st.tuples(*[st.integers(1, 9)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 2.0, 5.0])] * 3)
margins = st.tuples(*[st.integers(0, 2)] * 6)
dtypes = st.sampled_from([np.float16, np.float32])
kinds = st.sampled_from([(0.0, 1.0), (0.0, 0.01), (1.0, 20.0), (2.0, 300.0)])
cases = st.tuples(sizes, sizes, spacings, spacings, margins, st.integers(2, 6), kinds, dtypes,
                  st.integers(0, 999))  # fmt: skip


def drawn(old, new, current, wanted, margin, n_heads, kind, dtype, seed):
    rng = np.random.default_rng(seed)
    logits = network_like(rng, n_heads, old, *kind)
    if seed % 3 == 0:
        logits = np.round(logits)  # equal heads, everywhere
    box = [(a, a + n) for a, n in zip(margin[:3], new, strict=True)]
    full = tuple(end + b for (_, end), b in zip(box, margin[3:], strict=True))
    return logits.astype(dtype), Target(new, current, wanted, full, box)


@given(cases)
@example(((4, 4, 4), (8, 8, 8), (2, 2, 2), (1, 1, 1), (0,) * 6, 4, (0.0, 1.0), np.float32, 0))
@example(((6, 9, 9), (7, 5, 8), (5, 0.5, 0.5), (4, 1, 0.4), (1,) * 6, 3, (0.0, 1.0), np.float16, 1))
@example(((5, 5, 5), (5, 5, 5), (1, 1, 1), (1, 1, 1), (0,) * 6, 5, (0.0, 1.0), np.float16, 0))
@settings(max_examples=300)
def test_labels_are_stocks(case):
    logits, target = drawn(*case)
    theirs = stock(logits, target, softmax_labels(len(logits)))
    before = logits.copy()
    ours = logits_to_labels(logits, target)
    assert np.array_equal(logits, before)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_heads_a_last_bit_apart_are_stocks(dtype):
    """One leads everywhere, by so little that rounding makes them equal here and there."""
    rng = np.random.default_rng(0)
    first = (2.0 ** rng.uniform(-3, 6, (20, 21, 22))).astype(dtype)
    logits = np.stack([first, np.nextafter(first, dtype(np.inf)), -first])
    target = Target((37, 33, 41), (1, 1, 1), (1, 1, 1))
    theirs = stock(logits, target, softmax_labels(3))
    assert 0.01 < (theirs == 0).mean() < 0.99, "they are equal in some voxels and not in others"
    assert np.array_equal(logits_to_labels(logits, target), theirs)


@given(cases)
@settings(max_examples=150)
def test_regions_are_stocks(case):
    logits, target = drawn(*case)
    order = np.random.default_rng(0).permutation(len(logits)) + 1
    theirs = stock(logits, target, region_labels(len(logits)), order.tolist())
    ours = logits_to_labels(logits, target, paint=painting(order.tolist()))
    assert np.array_equal(ours, theirs)
    tensor = logits_to_labels(torch.from_numpy(logits), target, paint=painting(order.tolist()))
    assert np.array_equal(tensor, theirs)


@given(cases, st.booleans())
@settings(max_examples=150)
def test_probabilities_are_stocks_and_so_are_their_labels(case, is_regions):
    logits, target = drawn(*case)
    n = len(logits)
    order = list(range(n, 0, -1))
    words = (region_labels(n), order) if is_regions else (softmax_labels(n),)
    their_labels, theirs = stock(logits, target, *words, return_probabilities=True)
    paint = painting(order) if is_regions else None
    own = [slab for _, slab in probability_slabs(logits, target, is_regions=is_regions)]
    inside = (slice(None), *target.crop)
    np.testing.assert_allclose(np.concatenate(own, axis=1), theirs[inside], atol=1e-6)
    labels = np.concatenate([labels_of(slab, paint) for slab in own])
    assert np.array_equal(labels, their_labels[target.crop])


@pytest.mark.real
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (6.0, 1.2, 1.2)])
def test_a_true_label_map_is_exported_as_by_stock(real_data, spacing):
    """Logits as of a network that learnt it: sure within organs, less so at borders."""
    volume = read_nifti(real_data / "labels-only/BDMAP_00000006_combined_labels.nii.gz")
    labels = as_integers(volume.array, "x")[180:330:2, 180:330:2, 100:300:3].transpose(2, 1, 0)
    n = int(labels.max()) + 1
    current = (volume.grid.spacing_mm * (2, 2, 3))[::-1].tolist()
    shape = tuple(round(k * a / b) for k, a, b in zip(labels.shape, current, spacing, strict=True))
    noise = np.random.default_rng(0).normal(0, 0.5, (n, *labels.shape))
    of = [gaussian_filter((labels == k).astype(float), 0.8) * 16 - 8 for k in range(n)]
    logits, target = (np.stack(of) + noise).astype(np.float16), Target(shape, current, spacing)
    assert len(np.unique(labels)) > 15
    theirs = stock(logits, target, softmax_labels(n))
    assert np.array_equal(logits_to_labels(logits, target), theirs)
    order = list(range(1, n + 1))
    theirs = stock(logits, target, region_labels(n), order)
    assert np.array_equal(logits_to_labels(logits, target, paint=painting(order)), theirs)


def test_many_regions_take_a_second_word(monkeypatch):
    rng = np.random.default_rng(3)
    logits = network_like(rng, 9, (6, 7, 8), 0.7, 3).astype(np.float32)
    target = Target((9, 11, 6), (1, 1, 1), (1, 1, 1))
    theirs = stock(logits, target, region_labels(9), list(range(1, 10)))
    monkeypatch.setattr(export, "HEADS_A_WORD", 4)
    assert np.array_equal(logits_to_labels(logits, target, paint=painting(range(1, 10))), theirs)


def test_slabs_and_pieces_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    logits = network_like(rng, 5, (10, 9, 8), 1, 9).astype(np.float16)
    target = Target((17, 12, 11), (1, 1, 1), (0.6, 0.7, 0.7))
    whole = logits_to_labels(logits, target)
    monkeypatch.setattr(cells, "SLAB_VOXELS", 300)
    monkeypatch.setattr(export, "CHUNK", 300)
    monkeypatch.setattr(cells, "SCORED", 7)
    assert np.array_equal(logits_to_labels(logits, target), whole)


def test_more_than_254_labels_are_written_wide():
    logits = np.zeros((257, 2, 2, 2), np.float32)
    logits[256] = 1
    theirs = stock(logits, Target((3, 3, 3), (1,) * 3, (1,) * 3), softmax_labels(257))
    ours = logits_to_labels(logits, Target((3, 3, 3), (1,) * 3, (1,) * 3), wide=True)
    assert ours.dtype == theirs.dtype
    assert (ours == 256).all()
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("paint", [None, painting([1, 2])])
def test_nan_is_refused(paint):
    logits = np.zeros((2, 3, 3, 3), np.float16)
    logits[1, 1, 1, 1] = np.nan
    target = Target((4, 4, 4), (1,) * 3, (1,) * 3)
    with pytest.raises(NanError, match="NaN"):
        logits_to_labels(logits, target, paint=paint)
    with pytest.raises(NanError, match="NaN"):
        list(probability_slabs(logits, target, is_regions=paint is not None))


@given(st.lists(st.floats(-70000, 70000), min_size=1), st.integers(0, 999))
def test_float16_is_rounded_once(values, seed):
    halves = np.random.default_rng(seed).normal(0, 3, 50).astype(np.float16).astype(float)
    middles = (halves[:-1] + halves[1:]) / 2
    above = np.nextafter(middles.astype(np.float32), np.float32(np.inf)).astype(float)
    between = middles * (1 + np.array([[0.0], [1e-13], [-1e-13]]))
    nearly = middles + (above - middles) * np.array([[0.4], [0.6], [0.9], [1.1]])
    exact = np.concatenate([values, between.ravel(), nearly.ravel(), halves * 1e-6])
    with np.errstate(over="ignore"):
        wanted = exact.astype(np.float16)
    assert np.array_equal(rounded(torch.from_numpy(exact), torch.float16).numpy(), wanted)


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(1)
    logits = network_like(rng, 7, (20, 19, 18), 1, 9).astype(np.float16)
    target = Target((37, 22, 31), (1, 1, 1), (0.6, 0.7, 0.7))
    there = torch.from_numpy(logits).cuda()
    assert np.array_equal(logits_to_labels(there, target), logits_to_labels(logits, target))
    paint = painting(range(1, 8))
    assert np.array_equal(logits_to_labels(there, target, paint=paint),
                          logits_to_labels(logits, target, paint=paint))  # fmt: skip
