"""`atlas-nnunet transfer`: what it writes, when it writes nothing, and what its options change."""

import json

import pytest
import torch
from networks import DATASET, plans, source_of, spec
from support import Workspace

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

OLD = {"0": {"mean": 100.0, "std": 50.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0}}
NEW = {"0": {"mean": 40.0, "std": 80.0, "percentile_00_5": -900.0, "percentile_99_5": 800.0}}
NAME = "Dataset507_Target"


def planned(own, intensities, spacing_mm=1.0):
    content = plans(own, foreground_intensity_properties_per_channel=intensities)
    content["configurations"]["3d_fullres"] |= {
        "spacing": [spacing_mm] * 3, "patch_size": [16, 16, 16], "data_identifier": "x",
    }  # fmt: skip
    return {**content, "dataset_name": NAME}


@pytest.fixture
def transfer(tmp_path):
    """Plan a target, run the command; gives its status and what it wrote, by file ending."""
    source, _ = source_of(spec())
    torch.save({
        "network_weights": dict(source.parameters), "trainer_name": "T",
        "init_args": {"plans": planned(spec(), OLD), "configuration": "3d_fullres",
                      "dataset_json": DATASET},
    }, tmp_path / "c.pth")  # fmt: skip
    folder = tmp_path / "nnUNet_preprocessed" / NAME
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET))

    def run(own, *words, spacing_mm=1.0):
        (folder / "Plans.json").write_text(json.dumps(planned(own, NEW, spacing_mm)))
        common = ("transfer", 507, "-p", "Plans", "--from", tmp_path / "c.pth")
        status = Workspace(tmp_path).run(*common, *words)
        wrote = folder / "atlas_nnunet/Plans__3d_fullres"
        return status, {
            end: wrote.with_name(wrote.name + end)
            for end in (".transferred.pth", ".transfer_report.json", ".transfer_report.html")
        }

    return run


def test_it_writes_weights_report_and_page_and_does_nothing_twice(transfer, capsys):
    status, files = transfer(spec())
    assert status == 0
    first = {end: path.read_bytes() for end, path in files.items()}
    report = json.loads(first[".transfer_report.json"])
    assert report["normalisation"]["folded"] == [[1.6, -1.2]]
    assert report["forward"]["patch"].startswith("noise")
    assert all(row["correlation"] > 0.9 for row in report["forward"]["rows"])
    assert b"Every parameter" in first[".transfer_report.html"]
    said = capsys.readouterr().out
    assert "encoder level 3" in said
    assert "head rows copied: liver, kidney_left, kidney_right" in said
    assert "of these in the target" in said
    assert [row["how"] for row in report["head_rows"]] == ["copied"] * 3
    assert len(report["forward"]["voxels"]) == 3
    assert transfer(spec())[0] == 0
    assert "done before" in capsys.readouterr().out
    assert {end: path.read_bytes() for end, path in files.items()} == first


def test_options_change_the_weights_and_say_so(transfer, capsys):
    _, files = transfer(spec(), "--no-fold")
    report = json.loads(files[".transfer_report.json"].read_text())
    assert report["normalisation"]["folded"] == []
    assert report["shares"] == {"copied": 1, "adapted": 0, "kept": 0}
    transfer(spec())
    again = json.loads(files[".transfer_report.json"].read_text())
    assert again["shares"]["adapted"] > 0
    own = spec(3)
    _, files = transfer(own, "--levels", "auto", "--floor", 0, spacing_mm=2.0)
    report = json.loads(files[".transfer_report.json"].read_text())
    assert report["levels"]["shift"] == 1
    assert "levels by spacing" in capsys.readouterr().out


def test_below_the_floor_nothing_is_written(transfer, capsys):
    status, files = transfer(spec(residual=True, blocks=8))
    assert status != 0
    assert not any(path.exists() for path in files.values())
    said = capsys.readouterr().err
    assert "--mode aligned" in said
    assert "new_block_inside" in said
    assert transfer(spec(), "--dry-run")[0] == 0
    assert not any(path.exists() for path in files.values())


def test_a_transfer_that_was_done_under_a_lower_floor_is_refused_under_a_higher(transfer, capsys):
    own = spec(residual=True, blocks=8)
    assert transfer(own, "--floor", 0)[0] == 0
    assert transfer(own)[0] == 2
    assert "below the floor of 50%" in capsys.readouterr().err
    assert transfer(own, "--floor", 0)[0] == 0
    assert "done before" in capsys.readouterr().out


@pytest.mark.parametrize("parts", [("encoder",), ("encoder", "decoder"), ("decoder", "head")])
def test_parts_that_are_not_asked_for_stay_at_their_start(transfer, parts):
    status, files = transfer(spec(), "--parts", *parts, "--no-fold", "--floor", 1)
    assert status == 0
    report = json.loads(files[".transfer_report.json"].read_text())
    for group, shares in report["groups"].items():
        assert shares["copied" if group in parts else "kept"] == 1
    assert {row["rule"] for row in report["rows"] if row["kept"]} == {"unasked"}
    joined = [name for name, of in report["heads"].items() if of]
    assert bool(joined) == ("head" in parts)


def test_a_head_alone_is_refused(transfer, capsys):
    status, files = transfer(spec(), "--parts", "head")
    assert status == 2
    assert not any(path.exists() for path in files.values())
    assert "head alone" in capsys.readouterr().err
