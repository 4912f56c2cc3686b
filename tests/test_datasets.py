"""The command: what it prints is what the cards say, and its example can be pasted."""

import json
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

from atlas_nnunet.cli import main
from atlas_nnunet.datasets import command
from atlas_nnunet.registry import MASKS, read_registry

ROOT = Path(__file__).parent.parent
CARDS = read_registry()
SOURCE = json.loads((ROOT / "datasets.json").read_text("utf-8"))


def test_the_list_has_one_line_for_each_card(capsys):
    assert main(["datasets"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(CARDS) == len(SOURCE) > 0
    for row, (key, card) in zip(rows, CARDS.items(), strict=True):
        words = row.split()
        inside = card.inside_abdomenatlas["overlap"]
        assert words[:4] == [key, card.role, str(len(card.structures)), inside]
        assert row.endswith(card.licence)


@pytest.mark.parametrize("key", sorted(CARDS))
def test_a_card_is_shown_whole(key, capsys):
    assert main(["datasets", key]) == 0
    shown, card = capsys.readouterr().out, CARDS[key]
    told = [
        card.title, card.nnunet_dataset, card.licence, card.source, card.obtain,
        card.label_provenance, card.inside_abdomenatlas["evidence"], *card.structures,
        *card.channels, *card.layout.images, card.layout.masks, *card.layout.held_out_images,
        card.layout.held_out_masks, card.layout.combined, card.unverified, *card.groups,
        *card.splits, *card.inside_abdomenatlas.get("cases", {}),
        *(text for one in card.other_layouts for text in (*one.images, one.masks)),
        *(t for q in card.quirks for t in q.values()),
    ]  # fmt: skip
    assert [text for text in told if text not in shown] == []
    assert shown.count("value ") >= len(card.values.sets)
    if card.layout.kind != MASKS:
        assert f"without a voxel in a case: {card.missing_value}" in shown


def test_a_value_of_two_structures_and_a_refusal_are_told_in_words(capsys):
    main(["datasets", "kits23"])
    assert "value     2 = kidney + kidney_tumor" in capsys.readouterr().out
    main(["datasets", "chaos-ct"])
    assert "a structure without a file: the case is refused" in capsys.readouterr().out


def test_json_is_the_file_itself(capsys):
    assert main(["datasets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SOURCE
    assert main(["datasets", "--json", "openkbp"]) == 0
    assert json.loads(capsys.readouterr().out) == SOURCE["openkbp"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_unknown_key_ends_with_2_and_the_nearest(flags, capsys):
    assert main(["datasets", "abdomenatlas-1.1", *flags]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "abdomenatlas-1.1-mini" in err


def test_the_example_can_be_pasted(capsys):
    parser = ArgumentParser()
    command.arguments(parser)
    program, *words = shlex.split(str(parser.epilog).splitlines()[-1])
    assert (program, main(words)) == ("atlas-nnunet", 0)


def test_the_installed_file_is_the_repository_s():
    shipped = ROOT / "atlas_nnunet" / "datasets.json"
    assert shipped.is_symlink()
    assert shipped.resolve() == (ROOT / "datasets.json").resolve()
