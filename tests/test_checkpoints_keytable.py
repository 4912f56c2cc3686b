"""A key table explains a checkpoint that no format claims, and is itself held to its fields."""

import argparse
import json

import checkpoint_files as files
import pytest
import torch
from test_transfer import DATASET, plans, source_of, spec

from atlas_nnunet.errors import CollectedError, PlanError, TransferError
from atlas_nnunet.plan.command import arguments
from atlas_nnunet.transfer.checkpoints import read_checkpoint, read_key_table
from atlas_nnunet.transfer.sources import layouts
from atlas_nnunet.transfer.sources.keytable import FIELDS

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

OWN = spec(3, heads=("liver", "spleen"))
NETWORK = {"class_name": OWN.class_name, "arch_kwargs": dict(OWN.arch_kwargs),
           "requires_import": list(OWN.requires_import)}  # fmt: skip
TABLE = {
    "network": NETWORK, "weights": "ema", "prefix": ["net."], "keys": {r"^trunk\.": "encoder."},
    "drop": {r"^proj\.": "projection", r"\.all_modules\.|^decoder\.encoder\.": "again"},
    "channels": ["CT"], "heads": ["liver", "spleen"],
}  # fmt: skip


def table(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_key_table(path)


def foreign(path):
    """Weights of OWN under a stranger's keys, and OWN's network."""
    _, network = source_of(OWN)
    state = {"net." + k.replace("encoder.", "trunk.") if k.startswith("encoder.") else k: v
             for k, v in network.state_dict().items()}  # fmt: skip
    state["proj.weight"] = torch.zeros(3)
    raw = {"ema": state, "epoch": 3}
    torch.save(raw, path)
    return network


def test_a_table_names_network_keys_and_what_is_left_out(tmp_path):
    network = foreign(tmp_path / "c.pth")
    with pytest.raises(TransferError):
        read_checkpoint(tmp_path / "c.pth")
    source = read_checkpoint(tmp_path / "c.pth", table(tmp_path, TABLE))
    assert source.format == "key_table"
    assert source.spec == OWN
    for name, parameter in network.named_parameters():
        assert torch.equal(source.parameters[name], parameter)
    assert source.dropped["proj.weight"] == "projection"


@pytest.mark.parametrize(
    ("change", "words"),
    [({"drop": {}}, "unknown key"), ({"keys": {}}, "unknown key"), ({"weights": "swa"}, "swa"),
     ({"heads": ["liver"]}, "another shape"), ({"prefix": []}, "unknown key"),
     ({"keys": {".*": "x"}}, "two keys are one parameter"),
     ({"network": {**NETWORK, "class_name": "no.such.Network"}}, "cannot be built")],
)  # fmt: skip
def test_a_table_that_explains_too_little_stops(tmp_path, change, words):
    foreign(tmp_path / "c.pth")
    with pytest.raises(TransferError, match=words) as caught:
        read_checkpoint(tmp_path / "c.pth", table(tmp_path, TABLE | change))
    assert caught.value.do


def test_an_encoder_needs_its_network_and_the_word_that_the_rest_is_absent(tmp_path):
    state = files.state_of(OWN.build_empty())
    state = {k: v for k, v in state.items() if k.startswith("encoder.")}
    torch.save(state, tmp_path / "c.pth")
    content = {k: TABLE[k] for k in ("network", "drop", "channels", "heads")}
    with pytest.raises(TransferError, match="missing"):
        read_checkpoint(tmp_path / "c.pth", table(tmp_path, content))
    content["absent"] = {r"^decoder\.": "only the encoder was published"}
    source = read_checkpoint(tmp_path / "c.pth", table(tmp_path, content))
    assert all(n.startswith("encoder.") for n in source.parameters)
    assert all(n.startswith("decoder.") for n in source.absent)
    assert set(source.absent.values()) == {"only the encoder was published"}


def test_a_plan_beside_its_dataset_json_names_the_network(tmp_path):
    state = files.state_of(spec(3).build_empty())
    torch.save(state, tmp_path / "c.pth")
    (tmp_path / "plans.json").write_text(json.dumps(plans(spec(3))))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    drop = {r"\.all_modules\.": "again", r"^decoder\.encoder\.": "again"}
    source = read_checkpoint(tmp_path / "c.pth",
                             table(tmp_path, {"plans": "plans.json", "drop": drop}))  # fmt: skip
    assert source.spec == spec(3)
    assert source.dataset_json == DATASET
    assert source.plans["plans_name"] == "Plans"


def test_without_a_network_a_table_adds_names_to_a_known_format(tmp_path):
    torch.save(files.state_of(spec(3).build_empty()), tmp_path / "c.pth")
    heads = ["liver", "kidney_left", "kidney_right"]
    source = read_checkpoint(tmp_path / "c.pth",
                             table(tmp_path, {"heads": heads, "channels": ["CT"]}))  # fmt: skip
    assert (source.format, source.spec.heads, source.spec.channels) == (
        "nnunet_weights", tuple(heads), ("CT",),
    )  # fmt: skip
    with pytest.raises(TransferError, match="names 1 heads, the weights have 3"):
        read_checkpoint(tmp_path / "c.pth", table(tmp_path, {"heads": ["liver"]}))


def test_a_network_whose_layout_is_known_needs_no_package(tmp_path):
    made = files.models_genesis()
    torch.save({f"my.{k}": v for k, v in made.state.items()}, tmp_path / "c.pth")
    network = {"class_name": layouts.UNET3D, "arch_kwargs": {"width": 2}}
    content = {"network": network, "prefix": ["my.module."], "channels": ["CT"], "heads": ["x"],
               "drop": {"running_|num_batches": "statistics"}}  # fmt: skip
    source = read_checkpoint(tmp_path / "c.pth", table(tmp_path, content))
    assert set(source.parameters) == made.names


WRONG = {
    "network": {"class_name": 3}, "plans": 3, "configuration": [], "weights": None,
    "prefix": "module.", "keys": {"(": "x"}, "drop": ["a"], "absent": {"a": 1},
    "channels": [1], "heads": "liver",
}  # fmt: skip


def test_every_wrong_field_is_told_at_once(tmp_path):
    assert set(WRONG) == set(FIELDS)
    with pytest.raises(CollectedError) as caught:
        table(tmp_path, {**WRONG, "head": ["liver"]})
    told = str(caught.value)
    assert all(f'"{name}" is' in told for name in (*WRONG, "head"))
    assert "both" in told
    for content, words in (([], "an object"), ({"network": NETWORK}, '"channels" beside it')):
        with pytest.raises(CollectedError, match=words):
            table(tmp_path, content)
    with pytest.raises(PlanError, match="not JSON"):
        table(tmp_path, "no")
    with pytest.raises(PlanError, match="no such file"):
        read_key_table(tmp_path / "none.json")


def test_the_planner_reads_sources_of_every_format(tmp_path):
    from atlas_nnunet.planners import AtlasTransferPlanner

    foreign(tmp_path / "c.pt")
    table(tmp_path, TABLE)
    found = AtlasTransferPlanner.read_source(tmp_path / "c.pt", "x", tmp_path / "table.json")
    assert found.spec == OWN
    parser = argparse.ArgumentParser()
    arguments(parser)
    assert parser.parse_args(["7", "--key-table", "t.json"]).key_table.name == "t.json"
