"""Cards: sound as shipped, all problems told at once, and every one fit for nnU-Net."""

import json

import pytest

from atlas_nnunet.cli import main
from atlas_nnunet.errors import CollectedError, RegistryError
from atlas_nnunet.registry import LABEL_MAP, card_of, read_registry
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS

CARDS = read_registry()
WANTED = {
    "abdomenatlas-1.0-mini", "abdomenatlas-1.1-mini", "phantom", "phantom-target",
    "totalsegmentator-v1", "totalsegmentator-v2", "msd-03-liver", "msd-06-lung",
    "msd-07-pancreas", "msd-08-hepaticvessel", "msd-09-spleen", "msd-10-colon", "amos22", "btcv",
    "flare22", "kits23", "openkbp",
}  # fmt: skip


def test_the_shipped_registry_holds_what_it_should():
    assert set(CARDS) >= WANTED
    assert len(CARDS) >= 17


@pytest.mark.parametrize("key", sorted(CARDS))
def test_a_card_says_what_its_masks_mean(key):
    card = CARDS[key]
    coding = card.coding()
    assert coding.structures == card.structures
    if card.layout.kind == LABEL_MAP:
        assert card.values.structures == set(card.structures)
    for group, members in card.groups.items():
        assert set(members) <= set(card.structures), group
    assert f"atlas-nnunet convert {key} DIR" in card.obtain or "demo" in card.obtain


@pytest.mark.host
@pytest.mark.parametrize("key", sorted(CARDS))
def test_nnunet_accepts_the_labels_of_every_card(key):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    declared = CARDS[key].coding().as_dataset_json()
    manager = LabelManager(declared["labels"], declared.get("regions_class_order"))
    n = len(CARDS[key].structures)
    assert manager.num_segmentation_heads == (n if manager.has_regions else n + 1)


def test_known_tables():
    atlas = CARDS["abdomenatlas-1.1-mini"]
    assert set(atlas.structures) == {*ABDOMENATLAS_ORGANS, *ABDOMENATLAS_TUMORS}
    assert atlas.pseudo_structures == set(ABDOMENATLAS_TUMORS)
    v1, v2 = CARDS["totalsegmentator-v1"], CARDS["totalsegmentator-v2"]
    assert (len(v1.structures), len(v2.structures)) == (104, 117)
    sizes = {name: len(members) for name, members in v1.groups.items()}
    assert sizes == {"organs": 17, "vertebrae": 24, "cardiac": 18, "muscles": 21, "ribs": 24}
    assert CARDS["flare22"].values.sets[2] == {"kidney_right"}
    assert CARDS["flare22"].values.sets[13] == {"kidney_left"}
    assert CARDS["kits23"].values.sets[2] == {"kidney", "kidney_tumor"}
    assert CARDS["flare22"].allows_external_pretraining is False


def test_all_problems_are_told_at_once(tmp_path):
    good = json.loads(json.dumps(_raw("chaos-ct")))
    cards = {
        "a": {**good, "nnunet_dataset": "Dataset7_A"},
        "b": {**good, "nnunet_dataset": "Dataset602_B", "role": "?"},
        "c": {**good, "nnunet_dataset": "Dataset603_C"},
        "d": {**good, "nnunet_dataset": "Dataset603_D"},
        "e": {**good, "nnunet_dataset": "Dataset604_E", "structures": ["right_kidney"]},
        "f": {**good, "nnunet_dataset": "Dataset605_F", "pseudo_structures": ["spleen"]},
        "g": {**good, "nnunet_dataset": "Dataset606_G", "values": {"1": ["liver"]}},
    }
    path = tmp_path / "datasets.json"
    path.write_text(json.dumps(cards))
    with pytest.raises(CollectedError) as caught:
        read_registry(path)
    assert {p.where for p in caught.value.problems} == {"a", "b", "d", "e", "f", "g"}
    assert all(p.do for p in caught.value.problems)


def _raw(key):
    from importlib.resources import files

    return json.loads((files("atlas_nnunet") / "datasets.json").read_text())[key]


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(RegistryError, match="kits23"):
        card_of("kits")


def test_the_command_lists_and_shows(capsys):
    assert main(["datasets"]) == 0
    listed = capsys.readouterr().out
    assert all(key in listed for key in CARDS)
    assert main(["datasets", "kits23"]) == 0
    shown = capsys.readouterr().out
    assert "kidney_tumor" in shown
    assert "anti-diagonal" in shown
    assert main(["datasets", "kits23", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == _raw("kits23")
    assert main(["datasets", "nothing"]) == 2
