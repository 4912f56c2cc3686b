"""A checkpoint is read without running a line of it, and what is refused is named."""

import argparse
import collections
import io
import os
import pickle
import random
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.sources.safely import load_safely


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *words):
        self.call = (function, words)

    def __reduce__(self):
        return self.call


def refused(path: Path, words: str) -> TransferError:
    with pytest.raises(TransferError, match=words) as caught:
        load_safely(path)
    assert caught.value.do
    assert caught.value.where == str(path)
    return caught.value


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_a_command_runs_none(tmp_path, zipped):
    touched = tmp_path / "touched"
    for i, evil in enumerate(
        (Calls(os.system, f"touch {touched}"), Calls(Path.touch, touched),
         Calls(eval, f"open({str(touched)!r}, 'w')"), Calls(exec, f"open({str(touched)!r}, 'w')"))
    ):  # fmt: skip
        path = tmp_path / f"{i}.pth"
        torch.save({"network_weights": {"a": torch.zeros(1)}, "evil": evil}, path,
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        refused(path, "safely")
        assert not touched.exists()
    pickle.loads(pickle.dumps(Calls(Path.touch, touched)))
    assert touched.exists(), "this test's files would have run, had anybody let them"


@pytest.mark.parametrize(
    ("value", "name"),
    [(random.Random(0), r"random\.Random"), (PurePosixPath("x"), r"pathlib\.\w*PosixPath"),
     (collections.defaultdict(list), r"collections\.defaultdict"),
     (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear")],
)  # fmt: skip
def test_what_is_refused_is_named(tmp_path, value, name):
    torch.save({"a": torch.zeros(1), "other": value}, tmp_path / "c.pth")
    error = refused(tmp_path / "c.pth", name)
    assert "weights_only" not in str(error), "torch's advice to switch safety off is not passed on"
    assert "state dict alone" in error.do


def test_what_genuine_checkpoints_hold_is_read(tmp_path):
    held = {
        "scalar": np.float64(0.5), "array": np.arange(3), "device": torch.device("cuda", 1),
        "options": argparse.Namespace(roi_x=96), "ordered": collections.OrderedDict(a=1),
        "size": torch.Size([2]), "type": torch.float16, "axes": (0, 1, 2), "none": None,
    }  # fmt: skip
    torch.save(held, tmp_path / "c.pth")
    found = load_safely(tmp_path / "c.pth")
    assert found.keys() == held.keys()
    assert found["scalar"] == held["scalar"]
    assert (found["array"] == held["array"]).all()
    assert found["options"] == held["options"]


@pytest.mark.parametrize("value", [np.float64(0.5), np.float32(0.5), np.arange(4), np.bool_(True)])
def test_numbers_written_under_numpy_1_are_read(tmp_path, value):
    """numpy 1 called `numpy._core` `numpy.core`; released checkpoints name it so."""
    buffer = io.BytesIO()
    torch.save({"a": value}, buffer, _use_new_zipfile_serialization=False)
    assert b"numpy._core.multiarray" in buffer.getvalue()
    old = buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "c.pth").write_bytes(old)
    assert np.array_equal(load_safely(tmp_path / "c.pth")["a"], value)


def test_damaged_files_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    for name, data in (
        ("cut", good[: len(good) // 2]), ("tail", good[len(good) // 2 :]), ("zeros", bytes(4096)),
        ("empty", b""), ("text", b"<!DOCTYPE html><title>sign in</title>\n" * 40),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "safely")
    refused(tmp_path / "none.pth", "no such")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "no such")


def rewritten(path: Path, target: Path, change, compression=zipfile.ZIP_STORED) -> None:
    """A torch archive with another pickle, or compressed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"a": torch.zeros(2_000_000)}, tmp_path / "c.pth")
    rewritten(tmp_path / "c.pth", tmp_path / "bomb.pth", bytes, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    refused(tmp_path / "bomb.pth", "unpacks to more than it is")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    """K is pickle's one-byte integer, J its four-byte one: the storage says 2^30, the shape 200."""
    torch.save({"a": torch.zeros(200)}, tmp_path / "c.pth")
    huge = b"J" + (2**30).to_bytes(4, "little")

    def change(data: bytes) -> bytes:
        assert data.count(b"K\xc8") == 2, "size of the storage, then the shape"
        return data.replace(b"K\xc8", huge)

    rewritten(tmp_path / "c.pth", tmp_path / "big.pth", change)
    refused(tmp_path / "big.pth", "safely")
