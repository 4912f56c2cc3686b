"""Label status: what is known decides what counts, case by case and structure by structure."""

import json

import pytest
import torch

from atlas_nnunet.errors import PlanError
from atlas_nnunet.labelstatus import Status, case_weights, weight_of
from atlas_nnunet.training.status import StatusWeights

CONVERSION = {
    "pseudo_weight": 0.25,
    "cases": {"a": {"status": {"liver": "pseudo", "spleen": "unlabelled"}},
              "b": {"status": {"colon": "absent"}}},
}  # fmt: skip
FLAT = {"labels": {"background": 0, "liver": 1, "spleen": 2, "colon": 3}}
REGIONS = {
    "labels": {"background": 0, "liver": [1, 4], "spleen": 2, "colon": 3, "liver_tumor": 4},
    "regions_class_order": [1, 2, 3, 4],
}


def test_every_status_has_its_weight_and_an_unknown_one_is_an_error():
    weights = {status.value: weight_of(status.value, 0.25) for status in Status}
    assert weights == {"annotated": 1.0, "pseudo": 0.25, "unlabelled": 0.0, "absent": 1.0}
    with pytest.raises(ValueError, match="maybe"):
        weight_of("maybe", 0.25)


def test_weights_come_in_the_order_of_structures_and_a_case_must_be_known():
    assert case_weights(CONVERSION, "a", ["colon", "spleen", "liver"]) == [1.0, 0.0, 0.25]
    assert case_weights(CONVERSION, "b", ["colon", "spleen"]) == [1.0, 1.0]
    with pytest.raises(KeyError):
        case_weights(CONVERSION, "c", ["colon"])


def test_a_batch_has_a_row_a_case_and_a_column_a_head():
    cpu = torch.device("cpu")
    flat = StatusWeights(FLAT, CONVERSION)(["a", "b", "a"], cpu)
    assert flat.tolist() == [[1, 0.25, 0, 1], [1, 1, 1, 1], [1, 0.25, 0, 1]]
    regions = StatusWeights(REGIONS, CONVERSION)(["a", "b"], cpu)
    assert regions.tolist() == [[0.25, 0, 1, 1], [1, 1, 1, 1]]
    assert StatusWeights(REGIONS, None)(["x"], cpu).tolist() == [[1, 1, 1, 1]]


def test_who_converted_a_data_set_decides_whether_the_file_may_be_missing(tmp_path):
    path = tmp_path / "conversion.json"
    assert StatusWeights.of_dataset(FLAT, path).conversion is None, "somebody else's"
    ours = {**FLAT, "atlas_nnunet": {"key": "x"}}
    with pytest.raises(PlanError, match="no such file"):
        StatusWeights.of_dataset(ours, path)
    path.write_text(json.dumps(CONVERSION))
    read = StatusWeights.of_dataset(ours, path)
    assert read.conversion == CONVERSION
    assert "1 absent, 1 pseudo, 1 unlabelled" in read.summary()
