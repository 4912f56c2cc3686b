"""One pre-training plan for several targets: what is compared is what then happens."""

import json

import pytest
from fingerprints import abdominal, isotropic, prostate, sagittal, tiny, write_set
from support import Workspace

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

PRESET = ("--preset", "cpu", "--memory-gb", 1)
PLANS = {"aligned": "AtlasTransferPlans", "native": "AtlasTransferNativePlans",
         "inherit": "AtlasTransferInheritPlans"}  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("for"))
    write_set(found, 701, *abdominal())
    write_set(found, 501, *prostate(), ("T2", "ADC"))
    write_set(found, 502, *isotropic(), labels={"background": 0, "Spleen": 1, "heart": 2})
    write_set(found, 503, *sagittal())
    write_set(found, 504, *tiny())
    return found


def folder(space, number):
    return space.folder / f"nnUNet_preprocessed/Dataset{number}_Set"


def read(space, number, name="AtlasPretrainPlans"):
    return json.loads((folder(space, number) / f"{name}.json").read_text())


def rows(told):
    """(target, mode) -> the cells of the printed table."""
    cells = [line.split() for line in told.splitlines() if line.startswith("Dataset50")]
    return {(c[0], c[1]): c[2:] for c in cells if len(c) > 2 and c[1] in PLANS}


def spacing(plans, name="3d_fullres"):
    mm = plans["configurations"][name]["spacing"]
    return [mm[axis] for axis in plans["transpose_backward"]]


def test_a_deeper_target_asks_for_a_deeper_network(space, capsys):
    """At its own spacing the pre-training network lacks the prostate's coarsest level."""
    assert space.run("plan", 701, *PRESET, "-p", "Own") == 0
    assert space.run("plan", 501, *PRESET) == 0
    deep, own = (
        p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["n_stages"]
        for p in (read(space, 501), read(space, 701, "Own"))
    )
    assert deep > own
    capsys.readouterr()
    assert space.run("plan", 701, *PRESET, "--for", 501, 502) == 0
    told = capsys.readouterr().out
    plans = read(space, 701)
    chosen = plans["atlas_nnunet"]["chosen_for"]
    assert chosen["targets"] == ["Dataset501_Set", "Dataset502_Set"]
    assert chosen["spacing_of"] == ["Dataset501_Set"]
    assert spacing(plans) == spacing(read(space, 501))
    assert chosen["why"] in told
    assert "more than any other" in chosen["why"]
    table = rows(told)
    assert len(table) == 2 * len(PLANS)
    for (target, mode), cells in table.items():
        served = chosen["served"][target][mode]
        shares = (served[c] for c in ("encoder", "decoder", "head", "all"))
        assert cells[:4] == [f"{share:.1%}" for share in shares]
    # Background and spleen of three heads, by synonyms; "heart" is not in the source.
    assert table["Dataset502_Set", "aligned"][2] == "66.7%"


def test_the_table_is_what_the_targets_plans_will_say(space, capsys):
    """`plan --for`, then `plan -pl AtlasTransferPlanner` for each target and mode: equal shares."""
    given = ("--spacing", 2.5, 0.8, 0.8)  # too shallow for the prostate: not everything is served
    assert space.run("plan", 701, *PRESET, *given, "--for", 501) == 0
    table = rows(capsys.readouterr().out)
    assert float(table["Dataset501_Set", "aligned"][3].rstrip("%")) < 70
    source = folder(space, 701) / "AtlasPretrainPlans.json"
    for (target, mode), cells in table.items():
        words = ("-pl", "AtlasTransferPlanner", "--from", source, "--mode", mode)
        assert space.run("plan", target, *PRESET, *words) == 0
        told = capsys.readouterr().out
        lines = told[told.index("3d_fullres, parameters") :].splitlines()[2:6]
        assert len(lines) == 4 <= len(cells)
        for line, served in zip(lines, cells[:4], strict=True):
            at_start = float(line.split()[-1].rstrip("%"))
            assert float(served.rstrip("%")) == pytest.approx(100 - at_start, abs=0.11), line


def test_where_all_serve_alike_the_sets_own_spacing_stays(space, capsys):
    assert space.run("plan", 701, *PRESET, "-p", "Own") == 0
    assert space.run("plan", 701, *PRESET, "-p", "Both", "--for", 502, 504, 502) == 0
    both = read(space, 701, "Both")
    section = both["atlas_nnunet"].pop("chosen_for")
    assert section["spacing_of"] == ["Dataset701_Set"]
    assert "2 of 2 candidates equal it, the first is taken" in section["why"]
    assert section["targets"] == ["Dataset502_Set", "Dataset504_Set"]
    own = json.dumps(read(space, 701, "Own")).replace("Own", "Both")
    assert both == json.loads(own)
    # 502 and 504 have one spacing: one candidate for both. A given spacing is the only one.
    capsys.readouterr()
    words = ("--for", 504, "--spacing", 1.5, 1.5, 1.5, "--explain")
    assert space.run("plan", 701, *PRESET, "-p", "Given", *words) == 0
    assert "the candidates coincide" in capsys.readouterr().out
    assert spacing(read(space, 701, "Given")) == [1.5] * 3


def test_what_is_compared_is_what_would_be_planned(space, monkeypatch):
    from atlas_nnunet.planners import AtlasPretrainPlanner
    from atlas_nnunet.planners.choice import by_reader_axis

    for name, value in space.variables.items():
        monkeypatch.setenv(name, value)
    for number in (501, 503, 504):
        planner = AtlasPretrainPlanner(f"Dataset{number}_Set", preset="cpu", memory_target_gb=1)
        alone = planner.plan_fullres()
        whole = planner.plan_experiment()
        ours, wanted = (p["configurations"]["3d_fullres"] for p in (alone, whole))
        for key in ("spacing", "patch_size", "batch_size", "architecture", "data_identifier",
                    "median_image_size_in_voxels"):  # fmt: skip
            assert json.dumps(ours[key]) == json.dumps(wanted[key])
        assert alone["transpose_backward"] == whole["transpose_backward"]
        if number == 503:
            assert by_reader_axis(alone) == (0.8, 0.9, 3.0), "z, y, x: as the images have it"


def test_targets_that_cannot_be_compared_are_all_named(space, capsys):
    for number in (507, 508):
        write_set(space, number, *tiny())
        (folder(space, number) / "dataset_fingerprint.json").unlink()
    write_set(space, 509, [[999.0, 1.0, 1.0]] * 4, [[1, 200, 200]] * 4)
    before = (folder(space, 701) / "AtlasPretrainPlans.json").read_bytes()
    for targets, words in (
        ((501, 507, 508), "atlas-nnunet fingerprint Dataset507_Set Dataset508_Set"),
        ((501, 509), "flat"),
        ((501, 999), "Dataset999_"),
        (("Dataset777_Gone",), "no dataset.json"),
    ):
        assert space.run("plan", 701, *PRESET, "--for", *targets) == 2
        assert words in capsys.readouterr().err
    assert (folder(space, 701) / "AtlasPretrainPlans.json").read_bytes() == before
