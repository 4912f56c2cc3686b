"""What is read: stock nnU-Net's own summary, folders of a training, lists of runs; and refusals."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from atlas_nnunet.cli import main
from atlas_nnunet.compare.folds import facts
from atlas_nnunet.compare.runs import KEYS, gather
from atlas_nnunet.compare.scores import find, read
from atlas_nnunet.errors import CollectedError, ComparisonError, SourceError
from atlas_nnunet.scoring.evaluation import SCHEMA

PLAIN = {"background": 0, "liver": 1, "tumour": 2}
REGIONS = {"background": 0, "liver": [1, 2], "tumour": 2}


def label_maps(folder, seed, tumour_in=("c0", "c1", "c2")):
    """Three small maps: a liver, and a tumour in some."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for case in ("c0", "c1", "c2"):
        codes = np.zeros((9, 8, 7), np.uint8)
        codes[2:7, 1:6, 1:5] = rng.random((5, 5, 4)) < 0.8
        if case in tumour_in:
            codes[3:5, 3:5, 2:4] = 2
        nib.save(nib.Nifti1Image(codes, np.diag([1, 1, 2, 1])), folder / f"{case}.nii.gz")


@pytest.mark.host
@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_stock_nnunets_summary_says_what_our_evaluation_says(tmp_path, labels, capsys):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2

    label_maps(tmp_path / "labelsTs", 0, ("c0",))
    label_maps(tmp_path / "predicted", 1, ("c0", "c1"))  # a false alarm in c1
    description = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz",
                   "numTraining": 3, "regions_class_order": [1, 2]}  # fmt: skip
    (tmp_path / "predicted" / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "plans.json").write_text("{}")
    compute_metrics_on_folder2(
        str(tmp_path / "labelsTs"), str(tmp_path / "predicted"),
        str(tmp_path / "predicted" / "dataset.json"), str(tmp_path / "plans.json"),
        num_processes=1,
    )  # fmt: skip
    ours = tmp_path / "ours.json"
    words = ["evaluate", tmp_path / "predicted", tmp_path / "labelsTs", "-o", ours, "-np", "1"]
    assert main([str(word) for word in words]) == 0
    theirs = read(find(tmp_path / "predicted"))
    own = read(ours)
    assert theirs.structures == own.structures == ("liver", "tumour")
    assert theirs.cases == own.cases == {"c0", "c1", "c2"}
    for measure in ("dice", "false_positives", "detected"):
        for case, structures in own.scores[measure].items():
            assert theirs.scores[measure][case] == pytest.approx(structures, nan_ok=True)
    assert theirs.scores["false_positives"]["c1"]["tumour"] == 1
    assert own.scores["false_positive_ml"]["c1"]["tumour"] == pytest.approx(0.016)
    assert own.scores["false_component_ml"]["c1"]["tumour"] == pytest.approx(0.016)
    assert theirs.scores["detected"]["c0"] == {"liver": 1, "tumour": 1}
    assert theirs.scores["detected"]["c1"] == pytest.approx(
        {"liver": 1, "tumour": float("nan")}, nan_ok=True
    )
    assert main(["compare", f"stock={tmp_path / 'predicted'}", f"ours={ours}"]) == 0
    printed = capsys.readouterr().out
    assert "scans with any false positive: 50.0% against 50.0% of 2" in printed
    assert re.search(r"tumour +2 +1 +1 +unknown", printed), "stock's summary knows no millimetres"
    assert theirs.scores["detected"]["c0"] == {"liver": 1.0, "tumour": 1.0}
    assert np.isnan(theirs.scores["detected"]["c1"]["tumour"]), "not in the reference"


def metrics(dice, n_ref, n_pred):
    return {"Dice": dice, "IoU": dice, "n_ref": n_ref, "n_pred": n_pred}


def training(tmp_path, trainer, plans, fold="0", training_cases=((3, 3, 4)), curves=None):
    """A folder as nnU-Net leaves it, with a validation of one case."""
    model = tmp_path / "results" / "Dataset507_Ours" / f"{trainer}__Plans__3d_fullres"
    folder = model / f"fold_{fold}"
    (folder / "validation").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(
        json.dumps({"labels": PLAIN, "numTraining": 5, "file_ending": ".nii.gz"})
    )
    summary = {
        "metric_per_case": [{"reference_file": "/there/c0.nii.gz", "prediction_file": "c0.nii.gz",
                             "metrics": {"1": metrics(0.5, 9, 9), "2": metrics(0.25, 4, 5)}}],
        "mean": {"1": {}, "2": {}},
    }  # fmt: skip
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))
    if curves:
        (folder / "curves.json").write_text(json.dumps(curves))
    preprocessed = tmp_path / "preprocessed" / "Dataset507_Ours"
    preprocessed.mkdir(parents=True, exist_ok=True)
    splits = [{"train": [f"t{i}" for i in range(n)], "val": ["c0"]} for n in training_cases]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return folder


SECTION = {"atlas_nnunet": {"training": {"epochs": 3, "iterations": 20, "seed": 7}}}


def test_a_folder_of_nnunets_says_how_it_was_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    curves = {"dice": [0.1, float("nan"), 0.3]}
    ours = training(tmp_path, "AtlasTransferTrainer", SECTION, curves=curves)
    (run,) = gather([f"transfer={ours}"], None)["transfer"]
    assert (run.facts.cases, run.facts.iterations, run.facts.seed) == (3, 60, 7)
    assert run.facts.curve == ((20, 0.1), (60, 0.3))
    assert run.evaluation.scores["dice"] == {"c0": {"liver": 0.5, "tumour": 0.25}}
    assert facts(ours / "validation") == facts(ours) == run.facts


@pytest.mark.parametrize(
    ("trainer", "fold", "sizes", "cases", "iterations"),
    [
        ("nnUNetTrainer", "0", (4, 4, 5), 4, 250_000),
        ("nnUNetTrainer", "2", (4, 4, 5), 4, 250_000),  # of one cross-validation
        ("nnUNetTrainer", "2", (4, 8, 16), 16, 250_000),  # a split made to vary the number
        ("nnUNetTrainer", "all", (4,), 5, 250_000),
        ("nnUNetTrainer", "3", (4,), None, 250_000),
        ("nnUNetTrainer_100epochs", "0", (4,), 4, None),  # nobody says how long
    ],
)
def test_cases_and_iterations_of_stock_trainings(
    tmp_path, monkeypatch, trainer, fold, sizes, cases, iterations
):
    folder = training(tmp_path, trainer, SECTION, fold, sizes)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    found = facts(folder)
    assert (found.cases, found.iterations, found.seed) == (cases, iterations, None)
    monkeypatch.delenv("nnUNet_preprocessed")
    assert facts(folder).cases == (5 if fold == "all" else None)


def test_an_evaluation_that_heeds_status_goes_before_any_summary(tmp_path):
    names = ("evaluation.json", "validation/evaluation.json", "summary.json",
             "validation/summary.json")  # fmt: skip
    (tmp_path / "validation").mkdir()
    for name in reversed(names):
        (tmp_path / name).write_text("{}")
        assert find(tmp_path) == tmp_path / name


def test_ours_goes_before_nnunets_and_a_row_before_the_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    folder = training(tmp_path, "AtlasTransferTrainer", SECTION)
    row = {"name": "a", "evaluation": str(folder.relative_to(tmp_path)), "cases": 9, "seed": 0}
    (tmp_path / "runs.json").write_text(json.dumps([row]))
    (run,) = gather([], tmp_path / "runs.json")["a"]
    assert (run.facts.cases, run.facts.iterations, run.facts.seed) == (9, 60, 0)
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(ComparisonError, match=r"neither an evaluation\.json"):
        gather([f"a={folder}"], None)


BAD_ROWS = [
    ({"folds": 3}, "unknown key 'folds'"),
    ({"cases": 0}, "cases is a whole number"),
    ({"seed": True}, "seed is a whole number"),
    ({"iterations": 2.5}, "iterations is a whole number"),
    ({"name": ""}, "name is a text"),
    ({"evaluation": None}, "evaluation is a text"),
    ({"curve": [[1, 0.1], [1, 0.2]]}, "ascend"),
    ({"curve": [0.1]}, r"list of \[iterations, Dice\]"),
]


def test_every_bad_row_is_told_in_one_pass(tmp_path):
    rows = [{"name": "a", "evaluation": "e", **change} for change, _ in BAD_ROWS]
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    with pytest.raises(CollectedError) as caught:
        gather(["nonsense"], tmp_path / "runs.json")
    assert len(caught.value.problems) == len(rows) + 1
    for (change, said), problem in zip(BAD_ROWS, caught.value.problems[1:], strict=True):
        with pytest.raises(ComparisonError, match=said):
            raise problem
        assert set(change) <= {*KEYS, "folds"}


def evaluation(folder, cases=("c0",), structures=("liver",), tolerance_mm=2.0, schema=SCHEMA):
    folder.mkdir()
    own = {s: {"dice": 0.5, "nsd": 0.5} for s in structures}
    (folder / "evaluation.json").write_text(json.dumps({
        "schema": schema, "tolerances_mm": dict.fromkeys(structures, tolerance_mm),
        "structures": list(structures), "cases": dict.fromkeys(cases, own),
    }))  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to compare"),
        (("a=A",), "one arm only"),
        (("a=A", "a=B"), "one arm only"),
        (("a=A", "A"), "not NAME=DIR"),
        (("a=A", "b="), "not NAME=DIR"),
        (("a=A", "b=nowhere"), "no evaluation: none of"),
        (("a=A", "b=B", "--baseline", "c"), "no arm is called 'c'"),
        (("a=A", "b=cases"), "no held-out case in both a and b"),
        (("a=A", "b=structures"), "no structure in all runs"),
        (("a=A", "b=tolerance"), "different tolerances"),
        (("a=A", "b=old"), "structures that nobody labelled may have been scored as absent"),
        (("a=A", "--runs", "nowhere.json"), "cannot be read"),
        (("a=A", "b=unnamed"), "no dataset.json"),
    ],
)
def test_refusals_end_with_2_and_in_words(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    for name in "AB":
        evaluation(tmp_path / name)
    evaluation(tmp_path / "cases", cases=("other",))
    evaluation(tmp_path / "structures", structures=("spleen",))
    evaluation(tmp_path / "tolerance", tolerance_mm=3.0)
    evaluation(tmp_path / "old", schema=1)
    (tmp_path / "unnamed").mkdir()
    (tmp_path / "unnamed" / "summary.json").write_text('{"metric_per_case": [], "mean": {}}')
    assert main(["compare", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "\n  -> " in told


def test_arms_that_share_no_setting_are_refused(tmp_path, capsys):
    rows = [{"name": name, "evaluation": "A", "cases": n}
            for name, own in (("a", (4, 8)), ("b", (16, 32))) for n in own]  # fmt: skip
    evaluation(tmp_path / "A")
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    assert main(["compare", "--runs", str(tmp_path / "runs.json")]) == 2
    assert "no run of b matches one of a" in capsys.readouterr().err


def test_tolerances_are_compared_structure_by_structure(tmp_path, capsys):
    """The same structure at two tolerances is refused; different structures may differ."""
    for name, own in {"a": {"liver": 5.0, "spleen": 3.0}, "b": {"liver": 5.0, "spleen": 3.0},
                      "c": {"liver": 5.0, "spleen": 2.0}, "d": {"liver": 5.0}}.items():  # fmt: skip
        folder = evaluation(tmp_path / name, structures=tuple(own))
        path = folder / "evaluation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tolerances_mm": own}))
    assert read(tmp_path / "a" / "evaluation.json").tolerance_mm is None, "there is not one"
    assert read(tmp_path / "d" / "evaluation.json").tolerance_mm == 5
    for other in "bd":
        assert set(gather([f"a={tmp_path / 'a'}", f"x={tmp_path / other}"], None)) == {"a", "x"}
    with pytest.raises(ComparisonError, match=r"spleen are at different tolerances: 2 mm .* 3 mm"):
        gather([f"{name}={tmp_path / name}" for name in "abc"], None)


def test_what_was_unlabelled_or_a_pseudo_label_can_be_read(tmp_path):
    folder = evaluation(tmp_path / "a", cases=("c0", "c1"), structures=("liver", "spleen"))
    path = folder / "evaluation.json"
    content = json.loads(path.read_text())
    del content["cases"]["c1"]["spleen"]
    path.write_text(json.dumps({**content, "pseudo": {"c0": ["spleen"]}}))
    found = read(path)
    assert found.pseudo == {"c0": frozenset({"spleen"})}
    assert set(found.scores["dice"]["c1"]) == {"liver"}


def test_a_stock_summary_of_a_converted_set_heeds_status_by_case_name(tmp_path, monkeypatch):
    folder = training(tmp_path, "nnUNetTrainer", SECTION)
    model = folder.parent
    content = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps({**content, "atlas_nnunet": {"key": "x"}}))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    with pytest.raises(ComparisonError, match="counts unlabelled structures as absent"):
        gather([f"a={folder}"], None)
    conversion = tmp_path / "preprocessed/Dataset507_Ours/conversion.json"
    status = {"liver": "pseudo", "tumour": "unlabelled"}
    conversion.write_text(json.dumps({"cases": {"c0": {"status": status}}}))
    (run,) = gather([f"a={folder}"], None)["a"]
    assert run.evaluation.scores["dice"] == {"c0": {"liver": 0.5}}
    assert run.evaluation.pseudo == {"c0": frozenset({"liver"})}
    conversion.write_text(json.dumps({"cases": {"other": {"status": {}}}}))
    with pytest.raises(SourceError, match="does not know this case"):
        gather([f"a={folder}"], None)
