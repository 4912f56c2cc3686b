"""Every card, known or to come: a source in its layout converts voxel by voxel, and stock nnU-Net
accepts what was written."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from support import Workspace, what_was_written
from trees import AFFINE, build

from atlas_nnunet.registry import MASKS, read_registry
from atlas_nnunet.structures import canonical

CARDS = read_registry()


def convert(space, key, folder, *words):
    """Exit code, folder, conversion.json and coding."""
    code = space.run("convert", key, folder, "-np", 1, *words)
    raw = space.folder / "nnUNet_raw" / CARDS[key].nnunet_dataset
    return code, raw, *what_was_written(raw)


def check(card, tree, raw, conversion, coding):
    """Every voxel of every structure is there, or counted where a priority settled a conflict."""
    assert set(conversion["cases"]) == set(tree.truth)
    for case, truth in tree.truth.items():
        entry = conversion["cases"][case]
        part = "Ts" if entry["held_out"] else "Tr"
        image = nib.load(raw / f"labels{part}/{case}.nii.gz")
        assert np.allclose(image.affine, AFFINE, atol=1e-4)
        codes = np.asarray(image.dataobj)
        lost = dict.fromkeys(coding.structures, 0)
        for pair, voxels in entry["conflicts"].items():
            lost[pair.split(" gave way to ")[0]] += voxels
        assert {canonical(n.removeprefix("_")) for n in truth} == set(coding.structures)
        for name, mask in truth.items():
            own = canonical(name.removeprefix("_"))
            found = coding.mask_of(codes, own)
            assert not (found & ~mask).any(), (case, name)
            assert (mask & ~found).sum() == lost[own], (case, name)
        for c, channel in enumerate(tree.ct[case]):
            written = nib.load(raw / f"images{part}/{case}_{c:04d}.nii.gz")
            assert (np.asarray(written.dataobj) == channel).all()
            assert np.allclose(written.affine, AFFINE, atol=1e-4)


LAYOUTS = [
    (key, n) for key, card in sorted(CARDS.items()) for n in range(1 + len(card.other_layouts))
]


@pytest.mark.parametrize(("key", "number"), LAYOUTS, ids=lambda v: str(v))
def test_every_layout_of_every_card_converts_voxel_by_voxel(key, number, workspace, tmp_path):
    card = CARDS[key]
    layout = (card.layout, *card.other_layouts)[number]
    tree = build(card, tmp_path / "source", layout)
    code, raw, conversion, coding = convert(workspace, key, tmp_path / "source")
    assert code == 0
    check(card, tree, raw, conversion, coding)
    for entry in conversion["cases"].values():
        assert set(entry["status"].values()) <= {"pseudo"} | (
            {card.missing_value} if card.layout.kind != MASKS else set()
        )


@pytest.fixture(scope="session")
def all_converted(tmp_path_factory):
    """Every card's small source, converted into one workspace."""
    folder = tmp_path_factory.mktemp("all")
    space = Workspace(folder)
    for key, card in CARDS.items():
        build(card, folder / key)
        assert space.run("convert", key, folder / key, "-np", 1) == 0
    return space


@pytest.mark.host
def test_stock_nnunet_accepts_what_was_written_for_every_card(all_converted):
    """nnUNetv2_extract_fingerprint, with its own check of integrity, on all of them."""
    numbers = [str(int(card.nnunet_dataset[7:10])) for card in CARDS.values()]
    words = ["-d", *numbers, "--verify_dataset_integrity", "-np", "1"]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *words], env={**os.environ, **all_converted.variables},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("verify_dataset_integrity Done.") == len(CARDS)
    for card in CARDS.values():
        written = all_converted.folder / "nnUNet_preprocessed" / card.nnunet_dataset
        assert (written / "dataset_fingerprint.json").is_file(), card.key


# The stock entry point, spared what would take minutes on so many sets: workers are forked, so
# that they need not import torch each time, and intensities are sampled 10^4 times, not 10^8.
STOCK = """
import multiprocessing
fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: fork
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor as Extractor,
)
run = Extractor.run
def quick(self, *args, **options):
    self.num_foreground_voxels_for_intensitystats = 1e4
    return run(self, *args, **options)
Extractor.run = quick
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import extract_fingerprint_entry
extract_fingerprint_entry()
"""
