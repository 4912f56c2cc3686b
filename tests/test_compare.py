"""Comparing runs: laws of the difference, and a small example that was worked out by hand."""

import json
import math
import re

import pytest

from atlas_nnunet.cli import main
from atlas_nnunet.compare.curves import mean_curve, reaching
from atlas_nnunet.compare.report import report
from atlas_nnunet.compare.result import compare
from atlas_nnunet.compare.runs import gather
from atlas_nnunet.compare.show import overview, text
from atlas_nnunet.scoring.evaluation import SCHEMA

NAMES = ("liver", "tumour")


def write(path, rows, tolerance_mm=2.0, structures=NAMES):
    """evaluation.json of {case: {structure: (dice, reference ml, prediction ml)}}."""
    cases = {
        case: {
            name: {"dice": dice, "nsd": dice, "volume_reference_ml": ref, "volume_prediction_ml": p}
            for name, (dice, ref, p) in own.items()
        }
        for case, own in rows.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "schema": SCHEMA, "tolerances_mm": dict.fromkeys(structures, tolerance_mm),
        "structures": list(structures), "cases": cases,
        "refused": {}, "not_scored": {},
    }))  # fmt: skip
    return path


def dice_of(*values, name="liver", first=0):
    return {f"case_{i}": {name: (v, 10.0, 10.0)} for i, v in enumerate(values, first)}


@pytest.fixture
def made(tmp_path):
    """A function: (arm, rows, facts) for each run -> compare's result."""

    def of(*runs, baseline=None):
        listed = []
        for number, (name, rows, known) in enumerate(runs):
            structures = known.pop("structures", NAMES)
            write(tmp_path / f"{number}" / "evaluation.json", rows, structures=structures)
            listed.append({"name": name, "evaluation": f"{number}", **known})
        (tmp_path / "runs.json").write_text(json.dumps(listed))
        return compare(gather([], tmp_path / "runs.json"), baseline)

    return of


A = dice_of(0.50, 0.40, 0.62, 0.71, 0.33, 0.58, 0.49)
B = dice_of(0.60, 0.55, 0.70, 0.75, 0.50, 0.60, 0.51)


def mean_of(result, number=0, score="dice"):
    return result["comparisons"][number][score]["mean_of_a_case"]


def test_identical_arms_differ_by_nothing(made):
    d = mean_of(made(("a", A, {}), ("b", A, {})))
    assert (d["difference"], d["low"], d["high"], d["n"]) == (0, 0, 0, 7)


def test_swapping_the_arms_negates(made):
    forth, back = made(("a", A, {}), ("b", B, {})), made(("b", B, {}), ("a", A, {}))
    one, other = mean_of(forth), mean_of(back)
    assert (one["difference"], one["low"], one["high"]) == (
        -other["difference"], -other["high"], -other["low"],
    )  # fmt: skip
    assert forth["comparisons"][0]["verdict"]["answer"] == "helps"
    assert back["comparisons"][0]["verdict"]["answer"] == "harms"
    assert mean_of(made(("b", B, {}), ("a", A, {}), baseline="a")) == one


def test_cases_are_paired_by_name_not_by_position(made):
    turned = dict(reversed(B.items()))
    assert mean_of(made(("a", A, {}), ("b", turned, {}))) == mean_of(
        made(("a", A, {}), ("b", B, {}))
    )
    unpaired = dict(zip(B, list(B.values())[::-1], strict=True))
    assert mean_of(made(("a", A, {}), ("b", unpaired, {})))["low"] < 0


def test_the_order_of_runs_does_not_matter(made):
    runs = [("a", A, {"seed": 0}), ("b", B, {"seed": 0}), ("a", B, {"seed": 1}),
            ("b", A, {"seed": 1}), ("a", A, {"seed": 2}), ("b", B, {"seed": 2})]  # fmt: skip
    forth, back = made(*runs), made(*reversed(runs), baseline="a")
    assert forth["comparisons"] == back["comparisons"]
    seeds = [[run["seed"] for run in result["runs"]["a"]] for result in (forth, back)]
    assert seeds == [[0, 1, 2]] * 2


def test_by_hand(made):
    """Liver of x: seeds .4/.6 against .5/.9; tumour of x: .2/.2 against .4/.4; y: .5 against .5.

    x: (.5 + .2) / 2 = .35 against (.7 + .4) / 2 = .55; y: .5 and .5; so .425 and .525.
    """

    def rows(liver, tumour):
        return {"x": {"liver": (liver, 9, 9), "tumour": (tumour, 1, 1)},
                "y": {"liver": (0.5, 9, 9)}}  # fmt: skip

    result = made(
        ("a", rows(0.4, 0.2), {"seed": 0}), ("a", rows(0.6, 0.2), {"seed": 1}),
        ("b", rows(0.5, 0.4), {"seed": 0}), ("b", rows(0.9, 0.4), {"seed": 1}),
    )  # fmt: skip
    d = mean_of(result)
    assert d["n"] == 2, "patients, not runs times patients"
    assert (d["mean_a"], d["mean_b"]) == pytest.approx((0.425, 0.525))
    # Two cases differ by 0.2 and 0: t of one degree of freedom is 12.7062, the standard error 0.1.
    # Seeds: x 0.15 and 0.25, y 0 and 0; mean squares 0.0025 of seeds and residual, so no more.
    ends = (d["difference"], d["low"], d["high"])
    assert ends == pytest.approx((0.1, -1.17062, 1.37062), abs=1e-5)
    assert (list(d["seeds"]), list(d["seed_errors"])) == ([2], pytest.approx([0], abs=1e-8))
    liver = result["comparisons"][0]["dice"]["structures"]["liver"]
    assert (liver["n"], liver["difference"]) == (2, pytest.approx(0.1))
    assert result["comparisons"][0]["verdict"]["answer"] == "undecided"
    assert "decide nothing" in text(result)


def test_seeds_are_matched_and_one_without_counterpart_is_said(made):
    worse = dice_of(*[0.0] * 7)
    result = made(("a", A, {"seed": 0}), ("a", worse, {"seed": 1}), ("b", B, {"seed": 0}))
    assert mean_of(result) == mean_of(made(("a", A, {}), ("b", B, {})))
    assert "1 run(s) of a left out, without counterpart at seed 1" in text(result)
    unstated = made(("a", A, {"seed": 0}), ("a", worse, {}), ("b", B, {"seed": 0}))
    assert "seed: not stated by all runs" in text(unstated)


def test_folds_of_one_arm_are_one_comparison(made):
    first, second = ({c: own for c, own in B.items() if (c < "case_4") == side}
                     for side in (True, False))  # fmt: skip
    parted = made(("a", A, {}), ("b", first, {}), ("b", second, {}))
    assert mean_of(parted) == mean_of(made(("a", A, {}), ("b", B, {})))
    assert "over patients only: the trainings were not all scored on the same cases" in text(parted)


def test_cross_validations_with_several_seeds_cover_patients_and_seeds(made):
    """Each seed has two folds; together the folds of a seed score every patient."""
    runs = [
        (name, {c: own for c, own in shifted(rows, by).items() if (c < "case_4") == fold},
         {"seed": seed})
        for seed, by in ((0, 0.0), (1, 0.02))
        for fold in (True, False)
        for name, rows in (("a", A), ("b", shifted(B, by)))
    ]  # fmt: skip
    result = made(*runs)
    assert list(mean_of(result)["seeds"]) == [2]
    assert "over patients and 2 seeds" in text(result)
    assert "over patients only" in text(made(*runs[:-1])), "a seed without all patients"


def test_cases_and_structures_of_one_arm_only_are_left_out_and_told(made):
    more = {**B, "case_7": {"liver": (0.1, 9, 9)}, "case_8": {"liver": (0.1, 9, 9)}}
    result = made(("a", A, {}), ("b", more, {}))
    assert mean_of(result) == mean_of(made(("a", A, {}), ("b", B, {})))
    assert "2 of 9 held-out cases of b are not in the other arm" in text(result)


def test_a_structure_that_one_run_lacks_counts_for_none(made):
    """Else one seed's mean would be over other structures than the next one's."""
    both = {case: {**own, "tumour": (0.0, 1.0, 1.0)} for case, own in B.items()}
    one = {"structures": NAMES[:1]}
    runs = [("a", both, {"seed": 0, "cases": 4}), ("a", A, {"seed": 1, "cases": 4} | one),
            ("b", both, {"seed": 0, "cases": 4}), ("b", both, {"seed": 1, "cases": 4}),
            ("b", both, {"seed": 0, "cases": 8})]  # fmt: skip
    result = made(*runs)
    assert result["comparisons"][0]["structures"] == ["liver"]
    assert "left out: tumour (b)" in text(result)
    assert mean_of(result)["mean_b"] == pytest.approx(4.21 / 7)
    assert [row["mean"] for row in result["by_cases"][1:]] == pytest.approx([4.21 / 7] * 2)


def test_false_positives_count_though_they_have_no_paired_dice(made):
    def rows(found_ml):
        return {case: {**own, "tumour": (0.0 if found_ml else None, 0.0, found_ml)}
                for case, own in A.items()}  # fmt: skip

    result = made(("a", rows(0.0), {}), ("b", rows(2.5), {}))
    one = result["comparisons"][0]
    assert one["dice"]["structures"]["tumour"]["n"] == 0
    assert one["false_positives"] == {
        "tumour": {"cases": 7, "found": [0.0, 7.0], "mean_ml": [0.0, 2.5]}
    }
    assert one["verdict"]["answer"] == "harms"
    assert "false positives 2.50 ml per scan against 0.00 over the 7" in text(result)
    assert "clearly more (margin 1 ml)" in text(result)
    assert "scans with any false positive: 100.0% against 0.0% of 7" in text(result)


def test_margins_are_options_and_stand_in_the_result(made, tmp_path, capsys):
    alarm = {case: {"liver": (own["liver"][0] + 0.1, 9, 9), "tumour": (0.0, 0.0, 1.5)}
             for case, own in A.items()}  # fmt: skip
    silent = {case: {**own, "tumour": (None, 0.0, 0.0)} for case, own in A.items()}
    assert made(("a", silent, {}), ("b", alarm, {}))["comparisons"][0]["verdict"]["answer"] == (
        "mixed"
    )
    command = ["compare", "--runs", str(tmp_path / "runs.json"), "-o", str(tmp_path)]
    lenient = ["--margin-false-positive-ml", "2", "--margin-false-scans", "1"]
    assert main([*command, *lenient]) == 0
    assert "b helps against a" in capsys.readouterr().out
    written = json.loads((tmp_path / "compare.json").read_text())
    assert written["schema"] == 2
    assert written["margins"]["false_positive_ml"] == 2
    assert main([*command, *lenient, "--margin-dice", "0.2"]) == 0
    assert "b against a is undecided" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--margin-dice", "-1"])


def detail(rows, structures=NAMES):
    """evaluation.json's cases with sensitivity and the largest false component."""
    return {
        case: {
            name: {"dice": dice, "volume_reference_ml": ref, "volume_prediction_ml": found,
                   "false_component_ml": component, "detected": detected}
            for name, (dice, ref, found, component, detected) in own.items()
        }
        for case, own in rows.items()
    }  # fmt: skip


def test_sensitivity_and_large_components_are_counted(tmp_path):
    """Scans 0 to 3 have no tumour; b's false components there are 0.1, 0.6, 0.6 and 0.6 ml."""
    for arm in "ab":
        rows = {}
        for i in range(8):
            false = 0.0 if arm == "a" else (0.1, 0.6, 0.6, 0.6)[i % 4]
            tumour = (0.0, 0.0, false, false, None) if i < 4 else (
                0.5, 1.0, 1.0, None, float(arm == "b" or i == 4))  # fmt: skip
            rows[f"c{i}"] = {"liver": (0.9, 9.0, 9.0, None, 1.0), "tumour": tumour}
        (tmp_path / arm).mkdir()
        (tmp_path / arm / "evaluation.json").write_text(json.dumps({
            "schema": SCHEMA, "tolerances_mm": dict.fromkeys(NAMES, 2.0),
            "structures": list(NAMES), "cases": detail(rows),
            "refused": {}, "not_scored": {},
        }))  # fmt: skip
    result = compare(gather([f"{arm}={tmp_path / arm}" for arm in "ab"], None))
    one = result["comparisons"][0]
    assert one["sensitivity"] == {"liver": {"cases": 8, "detected": [1.0, 1.0]},
                                  "tumour": {"cases": 4, "detected": [0.25, 1.0]}}  # fmt: skip
    scans = one["verdict"]["measures"]["false_scans"]
    assert (scans["n"], scans["mean_a"], scans["mean_b"]) == (4, 0.0, 0.75)
    assert (
        "scans with a false component of more than 0.5 ml: 75.0% against 0.0% of 4"
        in (one["verdict"]["reason"])
    )
    said = text(result)
    assert re.search(r"tumour +4 +0 +4 +0\.00 +0\.47 +4 +0\.250 +1\.000", said)
    assert re.search(r"liver +0 +- +- +- +- +8 +1\.000 +1\.000", said)


def shifted(rows, by):
    return {case: {"liver": (own["liver"][0] + by, 9, 9)} for case, own in rows.items()}


def test_several_seeds_widen_the_interval_and_it_says_what_it_covers(made):
    """Seeds that disagree: +0.02, +0.10, +0.18 for every patient alike."""
    shifts = {0: 0.02, 1: 0.10, 2: 0.18}
    paired_runs = [
        (name, shifted(rows, by if name == "b" else 0.0), {"seed": seed})
        for seed, by in shifts.items()
        for name, rows in (("a", A), ("b", A))
    ]
    seeds = made(*paired_runs)
    d = mean_of(seeds)
    # The standard error of three seeds with deviation 0.08, and t of two degrees of freedom.
    assert d["difference"] == pytest.approx(0.1)
    assert d["low"] == pytest.approx(0.1 - 4.302653 * 0.08 / 3**0.5)
    assert seeds["comparisons"][0]["verdict"]["answer"] == "undecided"
    assert "95 % intervals over patients and 3 seeds" in text(seeds)
    assert "over patients and 3 seeds" in report(seeds)
    assert "no number of cases would decide with these trainings" in text(seeds)
    alone = made(*paired_runs[:2])
    assert alone["comparisons"][0]["verdict"]["answer"] == "helps"
    assert "95 % intervals over patients only: one training each" in text(alone)
    assert "7 patients may include none of the rare large differences" in text(alone)


def test_seeds_that_are_not_paired_are_a_set_for_each_arm(made):
    runs = [("a", A, {}), ("a", shifted(A, 0.02), {}), ("b", B, {}), ("b", shifted(B, 0.04), {})]
    both = made(*runs)
    assert list(mean_of(both)["seeds"]) == [2, 2]
    # Deviations 0.02 / sqrt(2) and 0.04 / sqrt(2) of two trainings: standard errors 0.01 and 0.02.
    assert list(mean_of(both)["seed_errors"]) == pytest.approx([0.01, 0.02])
    assert "over patients and seeds (2 trainings of a, 2 of b)" in text(both)
    one = made(*runs[:3])
    assert list(mean_of(one)["seeds"]) == [2]
    assert "over patients and 2 seeds of a, but b was trained once" in text(one)
    other = made(runs[0], *runs[2:])
    assert "over patients and 2 seeds of b, but a was trained once" in text(other)


SIZES = [
    (name, dice_of(*(v["liver"][0] + shift for v in rows.values())), {"cases": n, "seed": seed})
    for n, shift in ((4, 0.0), (8, 0.1), (16, 0.15))
    for seed in (0, 1)
    for name, rows in (("a", A), ("b", B))
]


def test_several_numbers_of_training_cases_make_a_curve(made):
    result = made(*SIZES)
    assert [one["cases"] for one in result["comparisons"]] == [4, 8, 16]
    rows = result["by_cases"]
    assert [(r["arm"], r["cases"], r["runs"], r["n"]) for r in rows] == [
        (arm, n, 2, 7) for arm in "ab" for n in (4, 8, 16)
    ]
    assert rows[0]["mean"] == pytest.approx(3.63 / 7)
    assert rows[0]["low"] < rows[0]["mean"] < rows[0]["high"]
    assert result["by_iterations"] == []
    assert "Dice by training cases" in text(result)
    assert "Dice against training cases" in report(result)


def test_trainings_of_several_lengths_make_a_curve_each(made):
    runs = [
        (name, rows, {"cases": n, "iterations": length})
        for name, rows in (("a", A), ("b", B))
        for n in (4, 8)
        for length in (250, 1000)
    ]
    result = made(*runs)
    assert [one["setting"] for one in result["comparisons"]] == [
        "4 training cases, 250 iterations", "4 training cases, 1000 iterations",
        "8 training cases, 250 iterations", "8 training cases, 1000 iterations",
    ]  # fmt: skip
    assert len(result["by_iterations"]) == len(result["by_cases"]) == 8
    for words in ("Dice against training cases", "Dice against iterations"):
        assert words in report(result)


def test_trainings_of_one_length_each_are_compared_and_the_lengths_told(made):
    result = made(("a", A, {"iterations": 1000}), ("b", B, {"iterations": 250}))
    assert mean_of(result) == mean_of(made(("a", A, {}), ("b", B, {})))
    assert "iterations: a 1000, b 250" in text(result)
    assert result["by_iterations"] == []


def test_a_curve_over_points_without_a_common_case_is_not_drawn(made):
    elsewhere = {f"other_{case}": own for case, own in A.items()}
    result = made(("a", A, {"cases": 4}), ("b", B, {"cases": 4}),
                  ("a", elsewhere, {"cases": 8}), ("b", elsewhere, {"cases": 8}))  # fmt: skip
    assert [row["n"] for row in result["by_cases"]] == [0] * 4
    assert "over the 0 that all points share" in text(result)
    assert "data:image" not in report(result)
    assert "nan" not in text(result)


def test_a_curve_over_one_case_has_no_interval(made):
    one = dice_of(0.25)
    result = made(("a", one, {"cases": 4}), ("b", one, {"cases": 4}),
                  ("a", one, {"cases": 8}), ("b", one, {"cases": 8}))  # fmt: skip
    assert text(result).splitlines()[-1].split() == ["b", "8", "1", "0.250"]
    assert "nan" not in text(result)


def test_a_false_alarm_does_not_bend_the_curve(made):
    alarm = {case: {**own, "tumour": (0.0, 0.0, 1.0)} for case, own in A.items()}
    result = made(("a", A, {"cases": 4}), ("a", A, {"cases": 8}),
                  ("b", alarm, {"cases": 4}), ("b", alarm, {"cases": 8}))  # fmt: skip
    assert len({row["mean"] for row in result["by_cases"]}) == 1


CURVE_A = [[100, 0.1], [200, 0.3], [300, 0.5], [400, 0.48]]
CURVE_B = [[100, 0.47], [200, 0.49], [300, 0.6], [400, 0.6]]


def test_iterations_to_reach_the_baselines_end(made):
    result = made(("a", A, {"curve": CURVE_A}), ("b", B, {"curve": CURVE_B}))
    assert result["comparisons"][0]["reaching"] == {
        "final_dice": 0.48, "baseline_iterations": 300, "arm_iterations": 200, "ratio": 1.5,
    }  # fmt: skip
    assert "b after 200 (ratio 1.50)" in text(result)
    never = made(("b", B, {"curve": CURVE_B}), ("a", A, {"curve": CURVE_A}))
    assert never["comparisons"][0]["reaching"]["arm_iterations"] is None
    assert "a never." in text(never)
    same = made(("a", A, {"curve": CURVE_B}), ("b", B, {"curve": CURVE_B}))
    assert same["comparisons"][0]["reaching"]["ratio"] == 1
    assert made(("a", A, {}), ("b", B, {}))["comparisons"][0]["reaching"] is None


def test_curves_are_averaged_where_all_runs_were_measured(made, tmp_path):
    made(("a", A, {"seed": 0, "curve": [[1, 0.2], [2, 0.4], [4, 0.6]]}),
         ("a", A, {"seed": 1, "curve": [[2, 0.6], [3, None], [4, 0.7]]}), ("b", B, {}))  # fmt: skip
    runs = gather([], tmp_path / "runs.json")["a"]
    assert mean_curve(runs) == ((2, 0.5), (4, pytest.approx(0.65)))
    assert reaching(mean_curve(runs), ()) is None


def test_the_command_writes_the_same_bytes_each_time(made, tmp_path, capsys):
    made(*[(n, r, {**k, "curve": CURVE_A if n == "a" else CURVE_B}) for n, r, k in SIZES])
    for folder in ("one", "two"):
        assert main(["compare", "--runs", str(tmp_path / "runs.json"), "-o",
                     str(tmp_path / folder)]) == 0  # fmt: skip
    for name in ("compare.json", "compare.html"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["compare.html", "compare.json"]
    html = (tmp_path / "one" / "compare.html").read_text()
    assert html.count("data:image/png") == 2
    assert not re.findall(r"(?:src|href)=(?!['\"]?data:)", html)
    content = json.loads((tmp_path / "one" / "compare.json").read_text())
    assert list(content) == sorted(content)
    assert "b helps against a at 4 training cases" in capsys.readouterr().out


def test_a_single_case_has_no_interval_and_no_nan_in_the_file(made, tmp_path):
    made(("a", dice_of(0.1), {}), ("b", dice_of(0.2), {}))
    assert main(["compare", "--runs", str(tmp_path / "runs.json"), "-o", str(tmp_path)]) == 0
    written = (tmp_path / "compare.json").read_text()
    assert "NaN" not in written
    assert json.loads(written)["comparisons"][0]["dice"]["mean_of_a_case"]["low"] is None
    assert math.isclose(mean_of(json.loads(written))["difference"], 0.1)


def test_several_comparisons_have_a_table_of_all(made):
    known = {"cases": 4, "iterations": 200}
    curves = {"a": [[100, 0.2], [200, 0.4]], "b": [[100, 0.5], [200, 0.6]], "c": [[100, 0.1]]}
    runs = [(arm, rows, {**known, "curve": curves[arm]})
            for arm, rows in (("a", A), ("b", B), ("c", A))]  # fmt: skip
    assert overview(made(*runs[:2])) is None, "one comparison is its own overview"
    result = made(*runs)
    title, header, rows = overview(result)
    assert title == "all arms against a, mean of a case"
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert (first["arm"], first["training cases"], first["verdict"]) == ("b", "4", "helps")
    assert (first["where a ends after"], second["where a ends after"]) == ("100", "never")
    assert first["Dice of a"] == f"{mean_of(result)['mean_a']:.3f}"
    assert second["difference [95 %]"] == "+0.000 [+0.000, +0.000]"
    said = text(result)
    assert said.startswith(title)
    assert said.count("helps against a") == 1
    page = report(result)
    assert "All arms against a" in page
    assert page.count("Verdict (") == 2


def test_each_structure_is_printed_with_its_tolerance(tmp_path):
    for name in "ab":
        path = write(tmp_path / name / "evaluation.json", A)
        own = {"liver": 7.0, "tumour": 2.0}
        path.write_text(json.dumps({**json.loads(path.read_text()), "tolerances_mm": own}))
    result = compare(gather([f"{name}={tmp_path / name}" for name in "ab"], None))
    assert result["comparisons"][0]["tolerances_mm"] == {"liver": 7, "tumour": 2}
    assert "normalised surface distance at 2 mm: tumour; 7 mm: liver" in text(result)
