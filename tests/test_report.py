"""The demo's report: the table is decided by scores alone, the page needs nothing from outside."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from atlas_nnunet.demo.figures import cases_picture, curves_picture, overlay_picture
from atlas_nnunet.demo.report import report, write_report
from atlas_nnunet.demo.result import DemoResult, headline, result_table
from atlas_nnunet.labelmap import Coding

NAMES = ["liver", "<tumour>"]


def arm(shift):
    cases = {
        f"case_{i}": {n: {"dice": 0.5 + 0.03 * i + shift, "nsd": 0.4 + shift} for n in NAMES}
        for i in range(8)
    }
    cases["case_3"][NAMES[1]] = {"dice": None, "nsd": None}
    return {
        "structures": NAMES, "cases": cases, "tolerances_mm": dict.fromkeys(NAMES, 2.0),
        "empty_policy": "stated",
        "not_scored": {"case_9": ["liver"]}, "refused": {"case_8": "no <prediction>"},
    }  # fmt: skip


@pytest.fixture
def result():
    shares = {"copied": 0.9, "adapted": 0.06, "kept": 0.04}
    curve = {"train_loss": [1.0, 0.5], "val_loss": [1.1, 0.6], "dice": [0.1, 0.4]}
    return DemoResult(
        title="a & b",
        arms={"scratch": arm(0.0), "transfer": arm(0.1)},
        transfer_report={"shares": shares, "heads": {"liver": "liver", "<tumour>": None},
                         "groups": dict.fromkeys(("encoder", "decoder", "head"), shares)},
        curves=dict.fromkeys(("pretrain", "scratch", "transfer"), curve),
        seconds={"convert": 3.2},
        pictures={"Curves": curves_picture({"pretrain": curve})},
        notes=["a note"],
    )  # fmt: skip


def test_the_table_says_what_the_scores_say(result):
    table = result_table(result)
    assert "+0.100 [+0.100, +0.100]" in table
    assert re.search(r"<tumour>\s+7\s", table), "the case with an empty tumour does not count"
    assert "1 references are unlabelled" in table
    assert "case_8" in table
    assert "transfer is better than scratch" in headline(result)


def test_a_loss_and_a_draw_are_told_as_readily(result):
    lost = replace(result, arms={"scratch": arm(0.1), "transfer": arm(0.0)})
    assert "transfer is worse than scratch" in headline(lost)
    draw = replace(result, arms={"scratch": arm(0.0), "transfer": arm(0.0)})
    assert "is undecided" in headline(draw)


def test_times_change_the_page_and_not_the_table(result):
    slower = replace(result, seconds={"convert": 99.0})
    assert result_table(slower) == result_table(result)
    assert report(slower) != report(result)


def test_the_page_is_whole_and_nothing_is_fetched_or_injected(result, tmp_path):
    write_report(result, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert html == report(result)
    assert not re.findall(r"(?:src|href)=(?!['\"]?data:)", html)
    assert "<tumour>" not in html
    assert "&lt;tumour&gt;" in html
    assert "a &amp; b" in html
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_pictures_are_png_and_repeat(tmp_path):
    coding = Coding.of(["liver", "liver_tumor"], [frozenset(("liver", "liver_tumor"))])
    codes = np.zeros((9, 8, 7), np.uint8)
    codes[2:6, 2:6, 3] = 1
    codes[3, 3, 3] = 3
    for name, array in (("ct", codes.astype(np.int16) * 40), ("mask", codes)):
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 3, 1])), tmp_path / f"{name}.nii.gz")
    masks = dict.fromkeys(("reference", "transfer"), tmp_path / "mask.nii.gz")
    made = [
        (overlay_picture(tmp_path / "ct.nii.gz", masks, coding.as_dataset_json()),
         cases_picture([(0.1, 0.3), (0.2, 0.1)]))
        for _ in range(2)
    ]  # fmt: skip
    assert made[0] == made[1]
    assert all(png.startswith(b"\x89PNG") for png in made[0])
