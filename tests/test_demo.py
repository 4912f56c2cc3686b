"""The whole flow in one command, shortened: everything runs, nothing is learnt."""

import json
import re

import pytest

from atlas_nnunet.artefacts import ROOTS
from atlas_nnunet.cli import main

pytest.importorskip("nnunetv2")


@pytest.fixture
def own_environment(monkeypatch):
    """The demo sets nnU-Net's folders for its process: put back what was there."""
    for name in (*ROOTS, "nnUNet_n_proc_DA", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")


def results(out):
    """Everything that a second call must not make again: path -> time of writing."""
    found = {
        p: p.stat().st_mtime_ns
        for pattern in (
            "nnUNet_results/**/checkpoint_final.pth",
            "**/*.b2nd",
            "predicted/**/*.nii.gz",
        )
        for p in out.glob(pattern)
    }
    assert len(found) > 8
    return found


def check_page(out, pictures=3):
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == pictures
    assert not re.findall(r"(?:src|href)=['\"]?https?:", page), "nothing is fetched"
    table = (out / "table.txt").read_text()
    for line in table.splitlines()[4:6]:
        assert line.split()[0] in page
    stages = json.loads((out / "seconds.json").read_text())
    assert {"convert", "pre-train", "transfer", "predict", "evaluate"} <= set(stages)
    return table


@pytest.mark.slow
def test_on_the_phantom_and_a_second_call_resumes(tmp_path, own_environment, capsys):
    words = ["demo", "-o", str(tmp_path), "--quick", "--source-cases", "3",
             "--target-cases", "2", "--held-out", "1"]  # fmt: skip
    assert main(words) == 0
    assert "atlas-nnunet transfer Dataset712_PhantomTarget" in capsys.readouterr().out
    table = check_page(tmp_path)
    for name in ("liver", "kidney_left", "vertebrae", "liver_tumor", "mean of a case"):
        assert f"\n{name} " in table
    case = tmp_path / "phantom/atlas/BDMAP_00000001"
    assert {"ct.nii.gz", "combined_labels.nii.gz", "segmentations"} <= {
        p.name for p in case.iterdir()
    }
    before = results(tmp_path)
    assert main(words) == 0
    assert results(tmp_path) == before
    assert check_page(tmp_path) == table


@pytest.mark.real
@pytest.mark.slow
def test_on_real_partially_labelled_cts(tmp_path, real_data, own_environment, monkeypatch):
    """OpenKBP, shortened; on the way, the fingerprint of real CTs is held to stock's."""
    folder = real_data / "openkbp"
    words = ["demo", "-o", str(tmp_path), "--quick", "--source", f"openkbp={folder}",
             "--target", f"openkbp={folder}", "--source-cases", "6", "--target-cases", "2",
             "--held-out", "2",
             "--target-structures", "parotid_left", "parotid_right", "ptv70"]  # fmt: skip
    assert main(words) == 0
    table = check_page(tmp_path)
    assert "ptv70" in table
    conversions = [
        json.loads((tmp_path / "nnUNet_raw" / name / "conversion.json").read_text())
        for name in ("Dataset721_DemoSource", "Dataset722_DemoTarget")
    ]
    source, target = (set(c["cases"]) for c in conversions)
    assert not source & target, "no patient is in both"
    assert len(source) == 6
    assert sum(entry["held_out"] for entry in conversions[1]["cases"].values()) == 2
    assert any("unlabelled" in e["status"].values() for e in conversions[0]["cases"].values())

    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    path = tmp_path / "nnUNet_preprocessed/Dataset721_DemoSource/dataset_fingerprint.json"
    ours = json.loads(path.read_text())
    DatasetFingerprintExtractor("Dataset721_DemoSource", 2).run(overwrite_existing=True)
    assert json.loads(path.read_text()) == ours
