"""Region probabilities -> codes: stock's painting, with organs whole under their tumours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.labelmap import Coding
from atlas_nnunet.predict.case import join_codes

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

NAMES = ("liver", "kidney_left", "kidney_right", "liver_tumor", "kidney_tumor")
OVERLAPS = [
    frozenset(pair)
    for pair in (
        ("liver", "liver_tumor"), ("kidney_left", "kidney_tumor"), ("kidney_right", "kidney_tumor"),
    )
]  # fmt: skip
CODING = Coding.of(NAMES, OVERLAPS)
LAST = np.array([max((NAMES.index(m) + 1 for m in c), default=0) for c in CODING.codes])


def probabilities(seed):
    return np.random.default_rng(seed).random((len(NAMES), 4, 5, 6)).astype(np.float32)


@given(st.integers(0, 9999))
def test_the_last_region_of_each_voxel_is_stocks(seed):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    description = CODING.as_dataset_json()
    manager = LabelManager(description["labels"], description["regions_class_order"])
    p = probabilities(seed)
    codes = join_codes(p, description)
    assert (LAST[codes] == manager.convert_probabilities_to_segmentation(p)).all()
    assert (codes > len(NAMES)).any(), "some voxels hold two structures"


@given(st.integers(0, 9999))
def test_a_region_loses_voxels_only_to_a_later_one_it_may_not_overlap(seed):
    p = probabilities(seed)
    codes = join_codes(p, CODING.as_dataset_json())
    for i, name in enumerate(NAMES):
        rivals = [
            j for j in range(i + 1, len(NAMES)) if frozenset((name, NAMES[j])) not in OVERLAPS
        ]
        wanted = (p[i] > 0.5) & ~(p[rivals] > 0.5).any(0)
        assert (CODING.mask_of(codes, name) == wanted).all(), name
