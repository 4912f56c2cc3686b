"""Grids: the same voxels are recognised however the axes run, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.geometry import Grid, Relation, align, axis_codes, place, relate

orders = st.permutations([0, 1, 2])
flips = st.tuples(*[st.booleans()] * 3)


def grid(shape=(4, 5, 6), spacing=(1.0, 2.0, 3.0), origin=(-7.0, 11.0, 30.0), angle=0.0):
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


def stored_otherwise(array, own, order, flip):
    """The same volume with its axes in another order and direction."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, old in enumerate(order):
        matrix[old, new] = -1 if flip[old] else 1
        matrix[old, 3] = own.shape_vox[old] - 1 if flip[old] else 0
    cut = tuple(slice(None, None, -1 if f else 1) for f in flip)
    moved = array[cut].transpose(order)
    return moved, Grid(moved.shape, own.affine @ matrix)


@given(orders, flips, st.floats(-0.5, 0.5))
def test_any_order_and_direction_of_axes_is_undone_exactly(order, flip, angle):
    ct = grid(angle=angle)
    array = np.arange(np.prod(ct.shape_vox)).reshape(ct.shape_vox)
    moved, other = stored_otherwise(array, ct, order, flip)
    same = tuple(order) == (0, 1, 2) and not any(flip)
    assert relate(ct, other) is (Relation.SAME if same else Relation.REORIENTED)
    assert (place(moved, align(ct, other), ct) == array).all()


def test_codes_say_where_axes_point():
    assert axis_codes(grid()) == "RAS"
    _, other = stored_otherwise(np.zeros((4, 5, 6)), grid(), [2, 0, 1], [True, True, False])
    assert axis_codes(other) == "SLP"


@pytest.mark.parametrize(
    ("other", "want"),
    [
        (grid(), Relation.SAME),
        (grid(origin=(0, 0, 0)), Relation.ORIGIN_DIFFERS),
        (grid(origin=(-7.001, 11, 30)), Relation.SAME),
        (grid(spacing=(1.0, 2.0, 3.1)), Relation.ELSEWHERE),
        # Each number of the affine is within a tolerance, the far corner is not.
        (grid(spacing=(1.0, 2.0, 3.002)), Relation.ORIGIN_DIFFERS),
        (grid(shape=(4, 5, 7)), Relation.PLACED),
        (grid(shape=(4, 5, 7), origin=(-7, 11, 31)), Relation.ELSEWHERE),
        (grid(angle=0.2), Relation.ELSEWHERE),
    ],
)
def test_other_grids_are_told_apart(other, want):
    assert relate(grid(), other) is want


def test_volume_of_a_voxel_and_right_angles():
    assert grid(angle=0.3).voxel_ml == pytest.approx(0.006)
    assert grid(angle=0.3).is_orthonormal
    sheared = grid().affine.copy()
    sheared[0, 1] = 0.5
    assert not Grid((4, 5, 6), sheared).is_orthonormal
    assert align(grid(), grid(angle=0.2)) is None


spans = st.tuples(*[st.tuples(st.integers(-3, 8), st.integers(1, 9)) for _ in range(3)])


@given(orders, flips, spans, st.floats(-0.5, 0.5))
def test_a_mask_of_another_extent_comes_to_its_place_however_it_is_stored(order, flip, span, angle):
    ct = grid(shape=(6, 7, 8), angle=angle)
    first, shape = ([a for a, _ in span], tuple(n for _, n in span))
    affine = ct.affine.copy()
    affine[:3, 3] += ct.affine[:3, :3] @ first
    array = np.random.default_rng(0).random(shape)
    moved, other = stored_otherwise(array, Grid(shape, affine), order, flip)
    found = align(ct, other)
    assert found is not None
    out = place(moved, found, ct)
    assert out.shape == ct.shape_vox
    for index in np.ndindex(ct.shape_vox):  # voxel by voxel, the slow and plain way
        own = tuple(i - f for i, f in zip(index, first, strict=True))
        inside = all(0 <= o < n for o, n in zip(own, shape, strict=True))
        assert out[index] == (array[own] if inside else 0)
