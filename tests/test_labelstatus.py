"""Label status: what is known decides what counts, case by case and structure by structure."""

import json
import re
from pathlib import Path

import pytest
import torch

from atlas_nnunet.errors import SourceError
from atlas_nnunet.labelstatus import (
    Status,
    case_weights,
    find_by_name,
    find_conversion,
    read_conversion,
    status_of,
    structures_with,
    weight_of,
)
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
    with pytest.raises(SourceError, match="does not know this case"):
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
    with pytest.raises(SourceError, match="no such file"):
        StatusWeights.of_dataset(ours, path)
    path.write_text(json.dumps(CONVERSION))
    read = StatusWeights.of_dataset(ours, path)
    assert read.conversion == CONVERSION
    assert "1 absent, 1 pseudo, 1 unlabelled" in read.summary()


def test_the_look_up_answers_for_every_status_and_refuses_what_it_does_not_know():
    assert status_of(None, "x", "anything") is Status.ANNOTATED, "somebody else's data set"
    assert status_of(CONVERSION, "a", "liver") is Status.PSEUDO
    assert status_of(CONVERSION, "a", "spleen") is Status.UNLABELLED
    assert status_of(CONVERSION, "b", "colon") is Status.ABSENT
    assert status_of(CONVERSION, "b", "liver") is Status.ANNOTATED
    known = {**CONVERSION, "structures": ["liver", "gall_bladder"]}
    known["cases"] = {"a": {"status": {"gall_bladder": "unlabelled"}}}
    assert status_of(known, "a", "Gallbladder") is Status.UNLABELLED, "a synonym"
    assert structures_with(known, "a", ["liver", "gallbladder"], Status.UNLABELLED) == [
        "gallbladder"
    ]
    with pytest.raises(SourceError, match="does not know the structure 'kidney'"):
        status_of(known, "a", "kidney")
    broken = {"cases": {"a": {"status": {"liver": "perhaps"}}}}
    with pytest.raises(SourceError, match="no such label status: 'perhaps'"):
        status_of(broken, "a", "liver")


def test_a_folder_of_references_leads_to_its_conversion(tmp_path):
    raw, preprocessed = tmp_path / "raw" / "Dataset501_X", tmp_path / "pre" / "Dataset501_X"
    for folder in (raw / "labelsTr", raw / "labelsTs", preprocessed / "gt_segmentations"):
        folder.mkdir(parents=True)
        assert find_conversion(folder) is None, "nobody says that there is one"
        (folder.parent / "dataset.json").write_text(json.dumps(FLAT))
        assert find_conversion(folder) is None, "somebody else's data set"
        (folder.parent / "dataset.json").write_text(json.dumps({**FLAT, "atlas_nnunet": {}}))
        with pytest.raises(SourceError, match=r"no conversion\.json"):
            find_conversion(folder)
        (folder.parent / "conversion.json").write_text(json.dumps(CONVERSION))
        assert find_conversion(folder) == folder.parent / "conversion.json"
        for name in ("dataset.json", "conversion.json"):
            (folder.parent / name).rename(folder.parent / f"moved_{name}")
    (raw / "moved_conversion.json").rename(raw / "conversion.json")
    linked = tmp_path / "linked"
    linked.symlink_to(raw / "labelsTr")
    assert find_conversion(linked) == raw / "conversion.json"


def test_a_data_sets_name_leads_to_its_conversion(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(variable, raising=False)
    assert find_by_name("Dataset501_X") is None
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        assert find_by_name("Dataset501_X") in (None, tmp_path / "nnUNet_raw/Dataset501_X"
                                                / "conversion.json")  # fmt: skip
        path = tmp_path / variable / "Dataset501_X/conversion.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert find_by_name("Dataset501_X") == path


@pytest.mark.parametrize("text", ["[]", "{}", '{"cases": []}', "{"])
def test_a_file_that_is_no_conversion_is_refused(tmp_path, text):
    path = tmp_path / "conversion.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"not (a conversion|JSON)") as caught:
        read_conversion(path, "convert again")
    assert caught.value.do == "convert again"


def test_no_second_place_looks_label_status_up():
    """`convert` writes it, this module reads it; whoever else reads it would have its own rule."""
    package = Path(__file__).parent.parent
    folders = [package / name for name in ("atlas_nnunet", "trainers", "planners")]
    reads = re.compile(r"""\[["']status["']\]|get\(["']status["']""")
    found = {
        str(path.relative_to(package))
        for folder in folders
        for path in folder.rglob("*.py")
        if reads.search(path.read_text())
    }
    assert found == {"atlas_nnunet/labelstatus.py", "atlas_nnunet/convert/outcome.py"}
