"""Prediction in half precision: nnU-Net's own numbers, and float32 where they would overflow."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("nnunetv2")

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from atlas_nnunet.errors import SourceError
from atlas_nnunet.volume.predictor import SteadyPredictor

pytestmark = pytest.mark.host


def network(scale):
    """Two convolutions with a norm between them: any scale of the first is normalised away."""
    torch.manual_seed(0)
    first, second = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 3, padding=1)
    with torch.no_grad():
        first.weight *= scale
        first.bias *= scale
    return torch.nn.Sequential(first, torch.nn.InstanceNorm3d(4), torch.nn.LeakyReLU(), second)


def predicted(kind, net, x, mirrored=False):
    predictor = kind(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirrored)
    predictor.network, predictor.allowed_mirroring_axes = net.eval(), (0, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        return predictor._internal_maybe_mirror_and_predict(x), predictor


@pytest.fixture
def x():
    return torch.randn((1, 1, 8, 8, 8), generator=torch.manual_seed(1))


@pytest.mark.parametrize("mirrored", [False, True])
def test_within_the_range_of_float16_logits_are_nnunets(x, mirrored):
    mine, predictor = predicted(SteadyPredictor, network(1), x, mirrored)
    stock, _ = predicted(nnUNetPredictor, network(1), x, mirrored)
    assert mine.dtype is torch.float16
    assert torch.equal(mine, stock)
    assert predictor.n_repeated == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_beyond_it_they_are_float32s(x, mirrored, capsys):
    net = network(1e6)
    stock, _ = predicted(nnUNetPredictor, net, x, mirrored)
    assert not torch.isfinite(stock).all()
    mine, predictor = predicted(SteadyPredictor, net, x, mirrored)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        predictor.network = net
        exact = nnUNetPredictor._internal_maybe_mirror_and_predict(predictor, x)
    assert torch.equal(mine, exact)
    assert predictor.n_repeated == 1
    assert capsys.readouterr().out.count("float32") == 1


def test_the_weights_are_not_taken_from_the_cache_of_half_precision(x):
    """Autocast keeps a copy of each weight; the second patch must not meet the first one's."""
    net = network(1e6)
    once, predictor = predicted(SteadyPredictor, net, x)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        again = predictor._internal_maybe_mirror_and_predict(x)
    assert torch.equal(once, again)
    assert predictor.n_repeated == 2


def test_without_half_precision_nothing_is_computed_twice(x):
    predictor = SteadyPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.network = torch.nn.Conv3d(1, 1, 1)
    with torch.no_grad():
        predictor.network.weight.fill_(float("nan"))
        assert predictor._internal_maybe_mirror_and_predict(x).isnan().all()
    assert predictor.n_repeated == 0


def test_logits_beyond_nnunets_sums_are_refused_in_words(x):
    predictor = SteadyPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.network = torch.nn.Conv3d(1, 1, 1)
    predictor.configuration_manager = SimpleNamespace(patch_size=[8, 8, 8])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=1)
    with torch.no_grad():
        predictor.network.weight.fill_(1e6)
    with pytest.raises(SourceError, match=r"65,504"):
        predictor.predict_sliding_window_return_logits(x[0])
    with torch.no_grad():
        predictor.network.weight.fill_(1.0)
    assert torch.isfinite(predictor.predict_sliding_window_return_logits(x[0])).all()


def test_predict_and_final_validation_use_it(monkeypatch):
    from atlas_nnunet.training import validation

    with validation.our_export():
        assert validation.host.nnUNetPredictor is SteadyPredictor
    assert validation.host.nnUNetPredictor is nnUNetPredictor
