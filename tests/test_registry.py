"""Cards: sound as shipped, all problems told at once, and every one fit for nnU-Net."""

import json

import pytest

from atlas_nnunet.errors import CollectedError, RegistryError
from atlas_nnunet.registry import LABEL_MAP, card_of, read_registry
from atlas_nnunet.structures import ABDOMENATLAS_ORGANS, ABDOMENATLAS_TUMORS, PARENTS

CARDS = read_registry()
WANTED = {
    "abdomenatlas-1.0-mini", "abdomenatlas-1.1-mini", "phantom", "phantom-target",
    "totalsegmentator-v1", "totalsegmentator-v2", "msd-03-liver", "msd-06-lung",
    "msd-07-pancreas", "msd-08-hepaticvessel", "msd-09-spleen", "msd-10-colon", "amos22", "btcv",
    "flare22", "kits23", "openkbp", "totalsegmentator-dicom", "chaos-ct",
    "abdomenatlas-2.0-mini", "abdomenatlas-3.0-mini", "pants", "msd-01-braintumour",
    "msd-02-heart", "msd-04-hippocampus", "msd-05-prostate", "amos22-mr", "flare23", "word",
    "chaos-ct-dicom", "chaos-mr-t1", "chaos-mr-t2", "lits", "ct-org", "abdomenct-1k", "segthor",
    "verse", "imagecas", "raos", "autopet", "dicom-masks",
}  # fmt: skip


def test_the_shipped_registry_holds_what_it_should():
    assert set(CARDS) >= WANTED
    assert len(CARDS) >= 41


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
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    declared = CARDS[key].coding().as_dataset_json()
    manager = LabelManager(declared["labels"], declared.get("regions_class_order"))
    n = len(CARDS[key].structures)
    assert manager.num_segmentation_heads == (n if manager.has_regions else n + 1)


@pytest.mark.parametrize("key", sorted(CARDS))
def test_stock_nnunet_paints_no_whole_over_its_part(key):
    """Stock exports regions in the order of the labels, each over the last."""
    place = {s: i for i, s in enumerate(CARDS[key].structures)}
    pairs = [(w, p) for p in place for w in PARENTS.get(p, ()) if w in place]
    assert all(place[whole] < place[part] for whole, part in pairs)


def test_known_tables():
    atlas = CARDS["abdomenatlas-1.1-mini"]
    assert set(atlas.structures) == {*ABDOMENATLAS_ORGANS, *ABDOMENATLAS_TUMORS}
    assert atlas.pseudo_structures == set(ABDOMENATLAS_TUMORS)
    v1, v2 = CARDS["totalsegmentator-v1"], CARDS["totalsegmentator-v2"]
    assert (len(v1.structures), len(v2.structures)) == (104, 117)
    sizes = {name: len(members) for name, members in v1.groups.items()}
    assert sizes == {"organs": 17, "vertebrae": 24, "cardiac": 18, "muscles": 21, "ribs": 24}
    assert CARDS["flare22"].allows_external_pretraining is False
    assert {s for own in v1.groups.values() for s in own} == set(v1.structures)
    assert [CARDS[k].nnunet_dataset[7:10] for k in ("phantom", "phantom-target")] == ["711", "712"]


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


# What value 1, 2, 3, ... stands for, by the challenges' own pages; a swapped pair of kidneys is
# still a sound card, so nothing but a second copy of the table can notice it.
FLARE = (
    "liver kidney_right spleen pancreas aorta postcava adrenal_gland_right adrenal_gland_left "
    "gall_bladder esophagus stomach duodenum kidney_left"
)
AMOS = (
    "spleen kidney_right kidney_left gall_bladder esophagus liver stomach aorta postcava pancreas "
    "adrenal_gland_right adrenal_gland_left duodenum bladder prostate"
)
TABLES = {
    "amos22-mr": AMOS,
    "flare23": FLARE + " abdominal_tumor",
    "word": "liver spleen kidney_left kidney_right stomach gall_bladder esophagus pancreas "
    "duodenum colon intestine adrenal_gland rectum bladder femur_left femur_right",
    "raos": "liver spleen kidney_left kidney_right stomach gall_bladder esophagus pancreas "
    "duodenum colon intestine adrenal_gland_right adrenal_gland_left rectum bladder femur_left "
    "femur_right prostate seminal_vesicle",
    "lits": "liver liver+liver_tumor",
    "ct-org": "liver bladder lung kidney bone brain",
    "abdomenct-1k": "liver kidney spleen pancreas",
    "segthor": "esophagus heart trachea aorta",
    "imagecas": "coronary_arteries",
    "autopet": "fdg_lesion",
    "msd-01-braintumour": "brain_edema brain_tumor_non_enhancing brain_tumor_enhancing",
    "msd-02-heart": "heart_atrium_left",
    "msd-04-hippocampus": "hippocampus_anterior hippocampus_posterior",
    "msd-05-prostate": "prostate_peripheral_zone prostate_transition_zone",
    "amos22": AMOS,
    "btcv": "spleen kidney_right kidney_left gall_bladder esophagus liver stomach aorta postcava "
    "portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left",
    "flare22": FLARE,
    "kits23": "kidney kidney+kidney_tumor kidney+kidney_cyst",
    "msd-03-liver": "liver liver+liver_tumor",
    "msd-06-lung": "lung_tumor",
    "msd-07-pancreas": "pancreas pancreas+pancreas_tumor",
    "msd-08-hepaticvessel": "hepatic_vessel hepatic_vessel_tumor",
    "msd-09-spleen": "spleen",
    "msd-10-colon": "colon_tumor",
    "phantom-target": "liver liver+liver_tumor spleen kidney_right kidney_left pancreas aorta "
    "postcava vertebrae",
    # class_map["total"] of TotalSegmentator's map_to_binary.py, under our names
    "totalsegmentator-dicom": " ".join(
        [
            "spleen kidney_right kidney_left gall_bladder liver stomach pancreas "
            "adrenal_gland_right adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left "
            "lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right esophagus trachea "
            "thyroid_gland intestine duodenum colon bladder prostate kidney_cyst_left "
            "kidney_cyst_right sacrum vertebrae_s1",
            *(f"vertebrae_{part}{i}" for part, n in (("l", 5), ("t", 12), ("c", 7))
              for i in range(n, 0, -1)),
            "heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right "
            "subclavian_artery_left common_carotid_artery_right common_carotid_artery_left "
            "brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left "
            "superior_vena_cava postcava portal_vein_and_splenic_vein",
            *(f"{name}_{side}" for name in ("iliac_artery", "iliac_vena", "humerus", "scapula",
                                            "clavicula", "femur", "hip")
              for side in ("left", "right")),
            "spinal_cord",
            *(f"{name}_{side}" for name in ("gluteus_maximus", "gluteus_medius", "gluteus_minimus",
                                            "autochthon", "iliopsoas")
              for side in ("left", "right")),
            "brain skull",
            *(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)),
            "sternum costal_cartilages",
        ]
    ),
}  # fmt: skip


# Where values are not 1, 2, 3, ...
MR = {63: {"liver"}, 126: {"kidney_right"}, 189: {"kidney_left"}, 252: {"spleen"}}
SPARSE = {
    "chaos-ct-dicom": {1: {"liver"}, 255: {"liver"}},
    "chaos-mr-t1": MR,
    "chaos-mr-t2": MR,
    "verse": {
        **{i: {f"vertebrae_c{i}"} for i in range(1, 8)},
        **{7 + i: {f"vertebrae_t{i}"} for i in range(1, 13)},
        **{19 + i: {f"vertebrae_l{i}"} for i in range(1, 7)},
        28: {"vertebrae_t13"},
    },
}
# The combined maps of AbdomenAtlas and PanTS, which stand beside masks of single structures.
ATLAS = (
    "aorta gall_bladder kidney_left kidney_right liver pancreas postcava spleen stomach "
    "adrenal_gland_left adrenal_gland_right bladder celiac_trunk colon duodenum esophagus "
    "femur_left femur_right hepatic_vessel intestine lung_left lung_right "
    "portal_vein_and_splenic_vein prostate rectum"
)
COMBINED = {
    "abdomenatlas-1.0-mini": " ".join(ATLAS.split()[:9]),
    "abdomenatlas-1.1-mini": ATLAS,
    "abdomenatlas-2.0-mini": ATLAS + " uterus liver_lesion pancreas_lesion kidney_lesion "
    "colon_lesion endometrioma_tumor esophagus_tumor",
    "pants": "adrenal_gland_left adrenal_gland_right aorta bladder celiac_trunk colon "
    "common_bile_duct duodenum femur_left femur_right gall_bladder kidney_left kidney_right "
    "liver lung_left lung_right pancreas pancreas_body pancreas_head pancreas_tail "
    "pancreatic_duct postcava prostate spleen stomach superior_mesenteric_artery veins "
    "pancreas_lesion",
}


def test_every_label_map_has_a_table_to_be_held_against():
    known = TABLES.keys() | SPARSE.keys() | COMBINED.keys()
    assert known == {key for key, card in CARDS.items() if card.values.sets}


@pytest.mark.parametrize("key", [*TABLES, *SPARSE, *COMBINED])
def test_values_stand_for_what_the_set_says(key):
    rows = (TABLES | COMBINED).get(key, "").split()
    table = {i: set(names.split("+")) for i, names in enumerate(rows, 1)}
    assert CARDS[key].values.sets == SPARSE.get(key, table)


MASKS_CARD, MAP_CARD = "chaos-ct", "lits"  # the smallest of each kind
BROKEN = {
    "a template for a channel that is not": (MASKS_CARD, {"channels": ["CT", "PET"]}),
    "a place nobody fills": (MASKS_CARD, {"layout.images": ["{case}/{phase}.nii.gz"]}),
    "a stray brace": (MASKS_CARD, {"layout.images": ["{case}/ct{.nii.gz"]}),
    "a structure in an image's name": (MASKS_CARD, {"layout.images": ["{case}/{structure}.nii"]}),
    "no place for the structure": (MASKS_CARD, {"layout.masks": "{case}/masks.nii.gz"}),
    "a structure in a label map's name": (MAP_CARD, {"layout.masks": "{case}/{structure}.nii"}),
    "held out without masks": (MAP_CARD, {"layout.held_out_images": ["ts/{case}.nii.gz"]}),
    "held out without images": (MAP_CARD, {"layout.held_out_masks": "ts/{case}.nii.gz"}),
    "a name of nnU-Net's own": (MASKS_CARD, {"structures": ["liver", "background"]}),
    "a head that no value feeds": (MAP_CARD, {"structures": ["liver", "spleen", "liver_tumor"]}),
    "a value its coding cannot hold": (
        MAP_CARD, {"structures": ["liver", "spleen"], "values": {"1": ["liver", "spleen"]}},
    ),
    "a part before its whole": (MAP_CARD, {"structures": ["liver_tumor", "liver"]}),
    "a pair of one": (MASKS_CARD, {"overlaps": [["liver", "liver"]]}),
    "everything with everything": (MASKS_CARD, {"overlaps": [["*", "*"]]}),
    "a stem of two structures": (
        MASKS_CARD, {"structures": ["liver", "spleen"], "files": {"liver": ["a"], "spleen": ["A"]}},
    ),
    "a stem that is another structure": (
        MASKS_CARD, {"structures": ["liver", "postcava"], "files": {"liver": ["ivc"]}},
    ),
    "a group of strangers": (MASKS_CARD, {"groups": {"organs": ["livr"]}}),
    "a weight above 1": (MASKS_CARD, {"pseudo_weight": 1.5}),
    "a tolerance of a stranger": (
        MASKS_CARD, {"nsd_tolerance_mm": {"livr": 5}, "nsd_tolerance_source": "a paper"},
    ),
    "a tolerance of nothing": (
        MASKS_CARD, {"nsd_tolerance_mm": {"liver": 0}, "nsd_tolerance_source": "a paper"},
    ),
    "a tolerance that nobody published": (MASKS_CARD, {"nsd_tolerance_mm": {"liver": 5}}),
    "a source without tolerances": (MASKS_CARD, {"nsd_tolerance_source": "a paper"}),
    "a field nobody reads": (MASKS_CARD, {"label_prvenance": "x"}),
    "more sets than codes": (
        MASKS_CARD,
        {"structures": [f"s{i}" for i in range(9)], "overlaps": [[f"s{i}", "*"] for i in range(9)]},
    ),
}  # fmt: skip


def changed(key, changes):
    card = _raw(key)
    for name, value in changes.items():
        *outer, last = name.split(".")
        (card[outer[0]] if outer else card)[last] = value
    return card


@pytest.mark.parametrize("what", BROKEN)
def test_a_card_that_cannot_be_meant_is_refused(what, tmp_path):
    path = tmp_path / "datasets.json"
    key, changes = BROKEN[what]
    path.write_text(json.dumps({key: _raw(key)}))
    assert set(read_registry(path)) == {key}, "sound before it is broken"
    path.write_text(json.dumps({key: changed(key, changes)}))
    with pytest.raises(CollectedError) as caught:
        read_registry(path)
    assert {p.where for p in caught.value.problems} == {key}
    assert {type(p) for p in caught.value.problems} == {RegistryError}


def test_all_problems_of_one_card_are_told_at_once(tmp_path):
    path = tmp_path / "datasets.json"
    changes = {"channels": ["CT", "PET"], "structures": ["liver_tumor", "liver", "Spleen"],
               "groups": {"all": ["heart"]}}  # fmt: skip
    path.write_text(json.dumps({"x": changed("msd-03-liver", changes)}))
    with pytest.raises(CollectedError) as caught:
        read_registry(path)
    told = str(caught.value)
    for word in ("2 channels", "liver_tumor stands before", "not canonical", "heart", "no value"):
        assert word in told
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": ', "line 1 column"), ("[]", "not an object"), ('{"a": {}, "a": {}}', r"\['a'\]"),
        ('{"a": {"values": {"1": [], "2": [], "1": ["liver"]}}}', r"\['1'\]"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_or_says_a_thing_twice_is_refused(text, told, tmp_path):
    path = tmp_path / "datasets.json"
    path.write_text(text)
    with pytest.raises(CollectedError) as caught:
        read_registry(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    with pytest.raises(RegistryError, match=told):
        raise problem


def _raw(key):
    from importlib.resources import files

    return json.loads((files("atlas_nnunet") / "datasets.json").read_text("utf-8"))[key]


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(RegistryError, match="kits23"):
        card_of("kits")
