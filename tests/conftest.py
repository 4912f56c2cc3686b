"""Shared by the tests: where real CTs lie, and a tiny data set that went through every stage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# nnU-Net validates in eight processes, each of which imports torch; it reads this when imported.
os.environ.setdefault("nnUNet_def_n_proc", "1")

import pytest
from hypothesis import settings
from support import Workspace, run_all, write_tiny_dataset

# No timed tests; and a red test is red for everybody, at every run.
settings.register_profile("atlas", deadline=None, derandomize=True)
settings.load_profile("atlas")

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("ATLAS_REAL_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real CTs, or a skip that says what is missing."""
    if not REAL.is_dir():
        pytest.skip(f"no real CTs at {REAL}; set ATLAS_REAL_DATA")
    return REAL


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def pretrained(planned: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of `planned`, and its pre-training."""
    space = Workspace(tmp_path_factory.mktemp("pretrained") / "space")
    shutil.copytree(planned.folder, space.folder)
    run_all(space.run, ("train", 701, "3d_fullres", "all", "-device", "cpu"))
    return space


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny data set, fingerprinted, planned and preprocessed for a pre-training of 2 epochs."""
    space = Workspace(tmp_path_factory.mktemp("planned"))
    write_tiny_dataset(space.folder / "nnUNet_raw", "Dataset701_Tiny", 4, seed=1)
    run_all(
        space.run,
        ("fingerprint", 701, "-np", 1),
        ("plan", 701, "--preset", "cpu", "--memory-gb", 0.05, "--epochs", 2, "--iterations", 3,
         "--val-iterations", 1, "--save-every", 1),
        ("preprocess", 701, "-np", 1),
    )  # fmt: skip
    return space
