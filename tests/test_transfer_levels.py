"""Levels by feature maps in mm: the shift that brings them together, and why."""

import pytest
from networks import plans, spec

from atlas_nnunet.errors import PlanError
from atlas_nnunet.transfer.levels import (
    advice,
    choose_levels,
    feature_spacings_mm,
    fitting_levels,
    octaves_apart,
)


def pyramid(mm, n=5):
    return [[mm * 2**level] * 3 for level in range(n)]


def planned(mm, own=None):
    content = plans(own or spec())
    content["configurations"]["3d_fullres"]["spacing"] = [mm] * 3
    return content, "3d_fullres"


def test_spacing_grows_by_the_strides():
    assert feature_spacings_mm(*planned(1.5, spec(3, stride=1))) == [
        [1.5, 1.5, 1.5], [1.5, 3, 3], [3, 6, 6],
    ]  # fmt: skip


@pytest.mark.parametrize(("target_mm", "shift"), [(1, 0), (1.2, 0), (2, 1), (4, 2), (0.5, -1)])
def test_the_shift_brings_feature_maps_together(target_mm, shift):
    found = fitting_levels(pyramid(1.0), pyramid(target_mm))
    assert found.shift == shift
    assert octaves_apart(pyramid(1.0), pyramid(target_mm), shift) < 0.3
    assert ("from the top" if shift == 0 else "by spacing") in found.why.split(":")[0]


def test_a_shift_that_would_gain_little_is_not_taken_unless_asked_for():
    source, target = planned(1.0), planned(1.6)  # 0.68 octaves from the top, 0.32 after a shift
    assert choose_levels("auto", source, target).shift == 0
    assert choose_levels("spacing", source, target).shift == 1
    assert choose_levels("top", planned(1.0), planned(8.0)).shift == 0


def test_half_of_the_levels_are_served():
    assert fitting_levels(pyramid(1.0, 4), pyramid(1024.0, 4)).shift == 2


def test_slices_are_compared_in_their_plane():
    volume = [[3.0, *mm[1:]] for mm in pyramid(1.0)]
    assert fitting_levels(volume, [mm[1:] for mm in pyramid(1.0)]).shift == 0
    assert octaves_apart(volume, [mm[1:] for mm in pyramid(1.0)], 0) == 0


def test_a_plan_without_spacing_says_what_to_do():
    with pytest.raises(PlanError, match="no spacing") as caught:
        choose_levels("auto", (plans(spec()), "3d_fullres"), planned(1.0))
    assert "--levels top" in caught.value.do


def test_the_planner_says_which_match_fits_and_what_to_type():
    near, far = advice(planned(1.0), planned(1.1)), advice(planned(1.0), planned(2.0))
    assert near.startswith("levels from the top: feature maps lie 0.14 octaves apart")
    assert far.startswith("levels by spacing: with source level 1 for target level 0")
    assert far.endswith("give transfer --levels spacing")
    for foreign in (plans(spec()), {}):  # a plan without spacing, and none at all
        assert "does not say" in advice((foreign, "3d_fullres"), planned(1.0))
