"""Weights of cases and structures: what is drawn is what the plan says and the log announces."""

import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import Workspace

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.errors import PlanError
from atlas_nnunet.settings import PRETRAINING, SAMPLINGS, Sampling, Training, of_plans
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS
from atlas_nnunet.training.sampling import (
    CaseFacts,
    case_probabilities,
    centred_shares,
    check_cases,
    check_structures,
    is_lesion,
    structure_probabilities,
)

UNIFORM = SAMPLINGS["uniform"]
STRUCTURES = ("liver", "spleen", "liver_tumor")
FACTS = {
    "a": CaseFacts("large", frozenset(STRUCTURES)),
    "b": CaseFacts("large", frozenset({"liver", "spleen"})),
    "c": CaseFacts("large", frozenset()),
    "d": CaseFacts("large", frozenset({"spleen"})),
    "e": CaseFacts("small", frozenset({"liver", "spleen"})),
}


def test_lesions_of_the_vocabulary_are_known_and_no_organ_is_one():
    assert all(map(is_lesion, ABDOMENATLAS_TUMORS))
    assert not any(map(is_lesion, ABDOMENATLAS_ORGANS))
    assert is_lesion("Pancreatic Lesion")
    assert is_lesion("kidney_cyst_left")
    assert not is_lesion("cystic_duct")


def test_uniform_weights_are_uniform():
    assert case_probabilities(UNIFORM, FACTS).tolist() == [0.2] * 5
    assert structure_probabilities(UNIFORM, STRUCTURES) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_source_of_n_cases_gets_n_to_the_power_of_one_minus_the_balance(balance):
    p = case_probabilities(Sampling(source_balance=balance), FACTS)
    assert p[:4].sum() / p[4] == pytest.approx(4 ** (1 - balance))
    assert p.sum() == pytest.approx(1)


def test_a_tumour_bearing_case_weighs_what_the_plan_says():
    p = case_probabilities(Sampling(tumor_cases=3.0, cases={"b": 0.0, "d": 0.5}), FACTS)
    assert p / p[2] == pytest.approx([3, 0, 1, 0.5, 1])


def test_tumours_get_their_share_of_foreground_whatever_their_number():
    sampling = Sampling(tumor_share=0.5, structures={"spleen": 3.0})
    p = structure_probabilities(sampling, STRUCTURES)
    assert p == pytest.approx([0.125, 0.375, 0.5])
    assert structure_probabilities(sampling, ("liver", "spleen")) == pytest.approx([0.25, 0.75])
    assert structure_probabilities(sampling, ("liver_tumor",)) == pytest.approx([1])
    assert not structure_probabilities(Sampling(structures={"liver": 0.0}), ("liver",)).any()
    never = structure_probabilities(replace(sampling, structures={"liver_tumor": 0.0}), STRUCTURES)
    assert never == pytest.approx([0.5, 0.5, 0])


def test_centred_shares_add_up_to_the_foreground_that_has_a_structure():
    shares = centred_shares(PRETRAINING, FACTS, STRUCTURES, 0.5)
    empty = case_probabilities(PRETRAINING, FACTS)[2]
    assert sum(shares.values()) == pytest.approx(0.5 * (1 - empty))


@pytest.mark.parametrize("wrong", [
    {"source_balance": 2.0}, {"source_balance": -0.1}, {"tumor_cases": 0.0},
    {"tumor_cases": float("nan")}, {"tumor_cases": float("inf")}, {"tumor_share": 1.5},
    {"tumor_share": float("nan")}, {"structures": {"liver": -1.0}},
    {"structures": {"liver": float("nan")}, }, {"cases": {"a": "2"}}, {"cases": {"a": True}},
])  # fmt: skip
def test_impossible_weights_are_refused_in_words(wrong):
    with pytest.raises(PlanError, match=r"must be|is .*, not a finite number"):
        Sampling(**wrong)
    plans = {"plans_name": "P", "atlas_nnunet": {"training": {"sampling": wrong}}}
    with pytest.raises(PlanError):
        of_plans(plans)


def test_unknown_names_and_weights_that_are_all_zero_are_refused_in_words():
    with pytest.raises(PlanError, match=r"\['pancreas'\], which the data set does not have"):
        check_structures(Sampling(structures={"pancreas": 2.0}), STRUCTURES, "D")
    with pytest.raises(PlanError, match="every structure has weight 0"):
        check_structures(Sampling(structures=dict.fromkeys(STRUCTURES, 0)), STRUCTURES, "D")
    with pytest.raises(PlanError, match=r"\['zz'\], which are not among"):
        check_cases(Sampling(cases={"zz": 2.0, "a": 1.0}), FACTS, "D")
    with pytest.raises(PlanError, match="every training case of this fold has weight 0"):
        case_probabilities(Sampling(cases=dict.fromkeys(FACTS, 0.0)), FACTS)


def test_a_plan_keeps_the_weights_and_an_older_plan_draws_as_nnunet():
    sampling = replace(PRETRAINING, structures={"liver": 2.0}, cases={"a": 0.5})
    section = json.loads(json.dumps(Training(sampling=sampling).as_json()))
    assert of_plans({"atlas_nnunet": {"training": section}}).sampling == sampling
    del section["sampling"]
    assert of_plans({"atlas_nnunet": {"training": section}}).sampling == UNIFORM


# With nnU-Net's loader


class Cases:
    """Stands for a preprocessed data set: cases of FACTS, structures well inside of them."""

    shape = (1, 24, 24, 24)

    def __init__(self):
        self.identifiers = list(FACTS)

    def load_case(self, case):
        seg = np.zeros(self.shape, np.int8)
        spots = {"liver": np.s_[0, 8:12, 8:12, 8:12], "spleen": np.s_[0, 13:16, 13:16, 13:16],
                 "liver_tumor": np.s_[0, 16:17, 8:9, 8:10]}  # fmt: skip
        for value, name in enumerate(STRUCTURES, 1):
            if name in FACTS[case].structures:
                seg[spots[name]] = value
        found = {value: np.argwhere(seg == value) for value in (1, 2, 3)}
        locations = {value: v if len(v) else [] for value, v in found.items()}
        return np.zeros(self.shape, np.float32), seg, None, {"class_locations": locations}


def loader_of(sampling, batch_size=3, data=None, patch=(6, 6, 6), facts=FACTS):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    from atlas_nnunet.training.weighted_loading import Drawing, WeightedLoader

    labels = {"background": 0, **{name: i for i, name in enumerate(STRUCTURES, 1)}}
    keys = {name: i for i, name in enumerate(STRUCTURES, 1)}
    drawing = None if sampling is None else Drawing(sampling, keys, facts)
    return WeightedLoader(data or Cases(), batch_size, patch, patch, LabelManager(labels, None),
                          0.33, drawing=drawing)  # fmt: skip


def within_chance(n_found, n, p):
    """Five standard deviations of a binomial count, and one for rounding."""
    return abs(n_found - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1


@pytest.mark.host
@pytest.mark.parametrize(
    "sampling",
    [UNIFORM, PRETRAINING, Sampling(tumor_share=0.9, tumor_cases=4.0, cases={"b": 3.0}),
     Sampling(structures={"spleen": 0.0, "liver_tumor": 5.0}, source_balance=1.0)],
)  # fmt: skip
def test_what_is_drawn_is_what_was_announced(sampling):
    from atlas_nnunet.training.expected_sampling import expected_sampling

    n, size = 100, 30
    loader = loader_of(sampling, size)
    expected = expected_sampling(loader, seed=7)
    assert expected["foreground_share"] == pytest.approx(1 / 3)
    np.random.seed(5)
    cases, centres, contained = Counter(), Counter(), Counter()
    for _ in range(n):
        batch = loader.generate_train_batch()
        cases.update(batch["keys"])
        target = batch["target"][:, 0].numpy()
        # The last third of a batch has forced foreground.
        centres.update(int(v) for v in target[-size // 3 :, 3, 3, 3])
        contained.update(int(v) for sample in target for v in set(np.unique(sample)))
    for case, p in zip(FACTS, case_probabilities(sampling, FACTS), strict=True):
        assert within_chance(cases[case], n * size, p), case
    for value, name in enumerate(STRUCTURES, 1):
        row = expected["structures"][name]
        centred = row["centred"] / expected["foreground_share"]
        # Patches of cases that show nothing to centre on can have no structure in their centre,
        # and with a weight of 0 only spleens are left to chance.
        by_chance = 0.02 if 0.0 in sampling.structures.values() else 0.0
        n_forced = n * size // 3
        slack = 5 * np.sqrt(n_forced * max(centred * (1 - centred), by_chance)) + 1
        assert n_forced * centred - slack <= centres[value], name
        assert centres[value] <= n_forced * (centred + by_chance) + slack, name
        wrong_by = abs(contained[value] / (n * size) - row["contained"])
        assert wrong_by <= 5 * np.hypot(row["standard_error"], 0.5 / np.sqrt(n * size)), name
    assert expected["any_tumor"]["centred"] == expected["structures"]["liver_tumor"]["centred"]


@pytest.mark.host
def test_looking_ahead_leaves_the_random_state_as_it_was():
    from atlas_nnunet.training.expected_sampling import expected_sampling

    loader = loader_of(PRETRAINING)
    np.random.seed(1)
    undisturbed = np.random.rand()
    np.random.seed(1)
    first = expected_sampling(loader, seed=3)
    assert np.random.rand() == undisturbed
    assert expected_sampling(loader, seed=3) == first


@pytest.mark.host
def test_of_many_cases_a_sample_is_looked_at(monkeypatch):
    """And it estimates the same."""
    from atlas_nnunet.training import expected_sampling

    loader = loader_of(PRETRAINING)
    exact = expected_sampling.expected_sampling(loader, 1)["any_tumor"]
    monkeypatch.setattr(expected_sampling, "ESTIMATE_CASES", 4)
    found = [expected_sampling.expected_sampling(loader, seed) for seed in range(40)]
    assert found[0]["estimate"]["n_cases"] == 4
    mean = np.mean([one["any_tumor"]["contained"] for one in found])
    assert abs(mean - exact["contained"]) < 0.05


@pytest.fixture
def prepared(planned, tmp_path, monkeypatch):
    """Dataset, preprocessed folder and dataset.json of a copy of the tiny data set."""
    space = Workspace(tmp_path / "space")
    shutil.copytree(planned.folder, space.folder)
    for name, value in space.variables.items():
        monkeypatch.setenv(name, value)
    dataset = Dataset("Dataset701_Tiny")
    dataset_json = json.loads((dataset.preprocessed / "dataset.json").read_text())
    return dataset, dataset.preprocessed / "AtlasPretrainPlans_3d_fullres", dataset_json


def real_loader(prepared, sampling, kind=None):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from atlas_nnunet.training.weighted_loading import Drawing, WeightedLoader

    dataset, folder, dataset_json = prepared
    plans = PlansManager(str(dataset.plans("AtlasPretrainPlans")))
    data = nnUNetDatasetBlosc2(str(folder))
    common = (data, 3, (20, 16, 16), (16, 16, 16), plans.get_label_manager(dataset_json), 0.67)
    if kind is nnUNetDataLoader:
        return nnUNetDataLoader(*common)
    drawing = Drawing.of_training(sampling, dataset, folder, data.identifiers, (), dataset_json)
    return WeightedLoader(*common, drawing=drawing)


def batches(loader, workers=0, n=6):
    from atlas_nnunet.training.loading import Batches, SeededBatches

    seeded = SeededBatches(loader, 3, 0, "train")
    return [(b["keys"], b["data"].numpy().tobytes(), b["target"].numpy().tobytes())
            for b in Batches(seeded, 0, n, workers, False, 2)]  # fmt: skip


@pytest.mark.host
def test_uniform_weights_give_nnunets_batches_bit_for_bit(prepared):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    stock = batches(real_loader(prepared, None, nnUNetDataLoader))
    assert batches(real_loader(prepared, UNIFORM)) == stock
    twice = Sampling(structures=dict.fromkeys(("liver", "kidney_left", "kidney_right",
                                               "liver_tumor"), 2.0))  # fmt: skip
    assert batches(real_loader(prepared, twice)) == stock
    assert batches(real_loader(prepared, PRETRAINING)) != stock


@pytest.mark.host
def test_weighted_batches_do_not_depend_on_the_number_of_workers(prepared):
    sampling = replace(PRETRAINING, cases={"case_000": 3.0})
    alone = batches(real_loader(prepared, sampling))
    for workers in (1, 3):
        assert batches(real_loader(prepared, sampling), workers) == alone


@pytest.mark.host
def test_what_a_case_shows_is_read_once(prepared, monkeypatch):
    from atlas_nnunet.training import weighted_loading

    dataset, folder, dataset_json = prepared
    keys = weighted_loading.structure_keys(dataset_json)
    cases = sorted(p.stem for p in folder.glob("*.pkl"))
    cache = Path(dataset.preprocessed) / "facts.json"
    reads = []
    read = weighted_loading._present
    monkeypatch.setattr(
        weighted_loading, "_present", lambda p, k: reads.append(p.stem) or read(p, k)
    )

    def facts(conversion=None):
        reads.clear()
        return weighted_loading.read_facts(folder, cases, keys, cache, conversion)

    first = facts()
    assert reads == cases
    assert first["case_000"].structures == set(keys)
    assert facts() == first
    assert not reads
    path = folder / "case_001.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_locations"][keys["liver_tumor"]] = []
    path.write_bytes(pickle.dumps(content))
    known = {"key": "own", "cases": {"case_002": {"source": "MSD"}, "case_001": {}}}
    changed = facts(known)
    assert reads == ["case_001"]
    assert not changed["case_001"].has_tumor
    assert {c: f.source for c, f in changed.items()} == {
        c: "MSD" if c == "case_002" else "own" for c in cases
    }
    path.unlink()
    with pytest.raises(PlanError, match="properties of a preprocessed case are missing"):
        facts()


@pytest.mark.host
def test_keys_are_those_of_preprocessing(prepared):
    from atlas_nnunet.training.weighted_loading import structure_keys

    _, folder, dataset_json = prepared
    stored = pickle.loads((folder / "case_000.pkl").read_bytes())["class_locations"]
    assert list(structure_keys(dataset_json).values()) == list(stored)
    plain = {"labels": {"background": 0, "spleen": 2, "liver": [1]}}
    assert structure_keys(plain) == {"liver": 1, "spleen": 2}


@pytest.mark.host
def test_the_plan_holds_the_weights_and_the_run_what_they_lead_to(pretrained):
    results = pretrained.folder / "nnUNet_results/Dataset701_Tiny"
    run = results / "AtlasPretrainTrainer__AtlasPretrainPlans__3d_fullres"
    plans = json.loads((run / "plans.json").read_text())["atlas_nnunet"]
    assert Sampling(**plans["training"]["sampling"]) == PRETRAINING
    expected = json.loads((run / "fold_all/sampling.json").read_text())
    assert plans["expected_sampling"] == expected
    assert expected["n_tumor_cases"] == expected["n_cases"] == 4
    assert expected["structures"]["liver_tumor"]["centred"] == pytest.approx(0.25)
    log = next((run / "fold_all").glob("training_log*.txt")).read_text()
    assert log.index("expected sampling: 50.0% of patches") < log.index("Epoch 0")
    assert "prefetch: 0 worker(s) for training" in log


@pytest.mark.host
def test_validation_is_drawn_as_nnunet_draws_it():
    loader = loader_of(None)
    assert loader.sampling_probabilities is None
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    found = []
    for get_bbox in (type(loader).get_bbox, nnUNetDataLoader.get_bbox):
        np.random.seed(2)
        locations = Cases().load_case("a")[3]["class_locations"]
        found.append([get_bbox(loader, np.array((24, 24, 24)), True, locations) for _ in range(20)])
    assert found[0] == found[1]


@pytest.mark.parametrize(("words", "message"), [
    (("--structure-weight", "pancreas=2"), "which the data set does not have"),
    (("--structure-weight", "liver"), "is not of the form NAME=WEIGHT"),
    (("--structure-weight", "liver=2", "liver=3"), "is given twice"),
    (("--structure-weight", "liver=nan"), "not a finite number"),
    (("--tumor-cases", "-1"), "tumor_cases must be positive"),
    (("--prefetch-gb", "-1"), "prefetch_gb"),
])  # fmt: skip
@pytest.mark.host
def test_plan_refuses_impossible_weights_in_words(planned, capsys, words, message):
    assert planned.run("plan", 701, "-p", "Refused", "--preset", "cpu", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(planned.folder.rglob("Refused.json"))


@pytest.mark.host
def test_plan_options_change_single_values_of_a_preset(planned):
    words = ("--preset", "cpu", "--memory-gb", 0.05, "-p", "Weighted")
    assert (
        planned.run(
            "plan",
            701,
            *words,
            "--sampling",
            "uniform",
            "--tumor-share",
            "0.25",
            "--structure-weight",
            "liver=2",
            "--case-weight",
            "case_000=3",
        )
        == 0
    )
    path = next(planned.folder.rglob("Weighted.json"))
    found = of_plans(json.loads(path.read_text())).sampling
    path.unlink()
    assert found == Sampling(tumor_share=0.25, structures={"liver": 2.0}, cases={"case_000": 3.0})


@pytest.mark.host
def test_a_case_of_the_plan_that_does_not_exist_stops_the_training(prepared):
    with pytest.raises(PlanError, match="case_999"):
        real_loader(prepared, Sampling(cases={"case_999": 2.0}))
