"""Whole transfers between real nnU-Net networks: identity, levels, receipts, safe reading."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import DATASET, plans, source_of, spec

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.checkpoints import read_checkpoint
from atlas_nnunet.transfer.receipt import receipt, refuse_below
from atlas_nnunet.transfer.shares import Shares, forecast
from atlas_nnunet.transfer.starting import start_target, write_checkpoint

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")


@pytest.mark.parametrize("residual", [False, True])
def test_between_equal_plans_a_transfer_is_the_identity(residual):
    source, network = source_of(spec(residual=residual))
    target, decisions, _ = start_target(source, spec(residual=residual), {}, seed=5)
    x = torch.randn(1, 1, 16, 16, 16)
    for a, b in zip(network(x), target.eval()(x), strict=True):
        assert torch.equal(a, b)
    assert Shares.of(decisions).fractions() == {"copied": 1, "adapted": 0, "kept": 0}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("target_stages", [3, 5])
def test_networks_of_other_depth_share_their_upper_levels(residual, target_stages):
    source, _ = source_of(spec(residual=residual))
    own = spec(target_stages, residual=residual)
    target, decisions, _ = start_target(source, own, {}, seed=5)
    rule = {d.parameter: d for d in decisions}
    assert set(rule) == {n for n, _ in target.named_parameters()}
    shared = min(4, target_stages)
    for name, parameter in target.named_parameters():
        if name.startswith("decoder.stages."):
            index = int(name.split(".")[2])
            level = target_stages - 2 - index
            rest = name.split(".", 3)[3]
            if level <= shared - 2:
                there = f"decoder.stages.{4 - 2 - level}.{rest}"
                assert torch.equal(parameter, source.parameters[there])
    share = Shares.of(decisions).body_from_source
    assert share == 1 if target_stages == 3 else 0.1 < share < 1


@pytest.mark.parametrize(
    "target",
    [spec(), spec(3), spec(5), spec(kernel=1), spec(stride=1), spec(channels=("CT", "PET")),
     spec(heads=("background", "liver", "spleen")), spec(width=8), spec(residual=True),
     spec(width=3), spec(blocks=3), spec(axes=2), spec(kernel=5), spec(n=3, width=8)],
)  # fmt: skip
def test_the_forecast_is_what_then_happens(target):
    source, _ = source_of(spec())
    _, decisions, _ = start_target(source, target, {}, seed=0)
    shares = Shares.of(decisions)
    assert forecast(source.spec, target, {}) == shares
    for groups in ((), ("encoder",), ("decoder",), ("head",)):
        assert sum(shares.fractions(*groups).values()) == pytest.approx(1)
    total = sum(p.numel() for p in target.build_empty().parameters())
    assert sum(n for own in shares.counts.values() for n in own.values()) == total


@pytest.mark.parametrize("target", [spec(6), spec(residual=True, blocks=8)])
def test_next_to_nothing_loaded_is_refused_by_name(target):
    source, _ = source_of(spec())
    _, decisions, _ = start_target(source, target, {}, seed=0)
    with pytest.raises(TransferError, match=r"only \d+\.\d% of encoder.*encoder\.") as caught:
        refuse_below(0.5, decisions, "x.pth")
    assert "AtlasTransferPlanner" in caught.value.do


def test_synonyms_join_heads_and_the_receipt_says_so():
    source, _ = source_of(spec(heads=("liver", "postcava", "spleen")))
    own = spec(heads=("inferior_vena_cava", "liver", "heart"))
    target, decisions, heads = start_target(source, own, {"inferior_vena_cava": "postcava"}, seed=0)
    name = "decoder.seg_layers.2.weight"
    got, have = dict(target.named_parameters())[name], source.parameters[name]
    assert torch.equal(got[0], have[1])
    assert torch.equal(got[1], have[0])
    content = receipt(source, decisions, heads, plans(own), "3d_fullres", "key")
    assert content["heads"] == {"postcava": "postcava", "liver": "liver", "heart": None}
    assert content["normalisation"]["identical"] is True
    assert len(content["rows"]) == len(dict(target.named_parameters()))


def nnunet_checkpoint(own, **extra):
    """What nnUNetTrainer.save_checkpoint writes (nnunetv2 2.8.1), numpy numbers in the log."""
    torch.manual_seed(0)
    return {
        "network_weights": own.build().state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float64(0.5)], "dice": [[np.float32(0.1)]]},
        "_best_ema": np.float64(0.3),
        "current_epoch": 3,
        "init_args": {"plans": plans(own), "configuration": "3d_fullres", "fold": 0,
                      "dataset_json": DATASET},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **extra,
    }  # fmt: skip


@pytest.mark.parametrize("residual", [False, True])
def test_a_genuine_checkpoint_is_read_and_its_aliases_dropped(tmp_path, residual):
    own = spec(residual=residual)
    stored = nnunet_checkpoint(own)
    torch.save(stored, tmp_path / "c.pth")
    source = read_checkpoint(tmp_path / "c.pth")
    assert source.spec == own
    names = [n for n, _ in own.build().named_parameters()]
    assert list(source.parameters) == names
    assert len(stored["network_weights"]) > len(names), "the host stores aliases too"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_untrusted_checkpoint_runs_no_code(tmp_path):
    touched = tmp_path / "touched"
    torch.save(nnunet_checkpoint(spec(), evil=Evil(touched)), tmp_path / "torch.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(touched)))
    for name in ("torch.pth", "plain.pth"):
        with pytest.raises(TransferError, match="safely"):
            read_checkpoint(tmp_path / name)
        assert not touched.exists()


def test_damaged_and_foreign_files_are_refused_in_words(tmp_path):
    torch.save(nnunet_checkpoint(spec()), tmp_path / "good.pth")
    data = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    torch.save(nnunet_checkpoint(spec()) | {"network_weights": {}}, tmp_path / "empty.pth")
    for name, words in (("cut", "safely"), ("other", "network_weights"), ("empty", "missing"),
                        ("none", "no such")):  # fmt: skip
        with pytest.raises(TransferError, match=words) as caught:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert caught.value.do


@pytest.mark.parametrize("residual", [False, True])
def test_stock_nnunet_loads_what_we_write_and_bytes_repeat(tmp_path, residual):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from atlas_nnunet.training.weights import start_from

    source, _ = source_of(spec(residual=residual))
    own = spec(3, residual=residual)
    for name in ("a", "b"):
        network, _, _ = start_target(source, own, {}, seed=0)
        write_checkpoint(tmp_path / name, network, plans(own), "3d_fullres", DATASET, "0" * 64)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    stock, ours = own.build(), own.build()
    load_pretrained_weights(stock, str(tmp_path / "a"))
    assert start_from(ours, tmp_path / "a") == len(dict(network.named_parameters()))
    for name, want in network.named_parameters():
        assert torch.equal(dict(ours.named_parameters())[name], want)
        if ".seg_layers." not in name:  # stock leaves the head out
            assert torch.equal(dict(stock.named_parameters())[name], want)


def test_weights_of_another_plan_are_refused_by_the_trainer(tmp_path):
    from atlas_nnunet.training.weights import start_from

    source, _ = source_of(spec())
    network, _, _ = start_target(source, spec(), {}, seed=0)
    write_checkpoint(tmp_path / "c", network, plans(spec()), "3d_fullres", DATASET, "0" * 64)
    for other in (spec(5), spec(3), spec(width=8)):
        with pytest.raises(TransferError, match="do not fit"):
            start_from(other.build(), tmp_path / "c")


def test_another_seed_changes_only_what_does_not_come_from_the_source():
    source, _ = source_of(spec())
    own = replace(spec(5), heads=("liver", "heart"))
    one, decisions, _ = start_target(source, own, {}, seed=0)
    two, _, _ = start_target(source, own, {}, seed=1)
    whole = {d.parameter for d in decisions if not d.kept}
    changed = {
        n for (n, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }  # fmt: skip
    assert changed
    assert not changed & whole
