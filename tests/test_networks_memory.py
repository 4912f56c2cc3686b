"""Memory of the suite's networks, in the unit that nnU-Net counts its own by."""

import math

import networks
import pytest
import torch
from test_networks import PATCH, spec

from atlas_nnunet.networks.memory import KEPT_PER_COUNTED, feature_elements, kept_for_backward
from atlas_nnunet.networks.suite import NETWORKS

PATCHES = [(64, 64, 64), (96, 160, 128)]


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("residual", [False, True])
def test_nnunets_own_networks_come_out_as_nnunet_counts_them(patch, residual):
    """The constant is measured here: 6 stages with nnU-Net's widths and blocks."""
    own = networks.spec(6, width=32, residual=residual, decoder=1 if residual else 2)
    own.arch_kwargs["features_per_stage"] = [32, 64, 128, 256, 320, 320]
    if residual:
        own.arch_kwargs["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6]
    network = own.build_empty(deep_supervision=False)
    counted = network.compute_conv_feature_map_size(patch)
    assert feature_elements(network, 1, patch) == pytest.approx(counted, rel=0.01)
    if not residual:
        assert kept_for_backward(network, 1, patch) / counted == pytest.approx(
            KEPT_PER_COUNTED, abs=0.005
        )


def test_one_layer_keeps_what_it_can_be_counted_to_keep():
    """Its input, and what ReLU needs: by hand."""
    layer = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 1))
    assert kept_for_backward(layer, 1, (8, 8, 8)) == 4 * 8**3, "what is between; the image is free"
    with_relu = torch.nn.Sequential(layer, torch.nn.ReLU())
    assert kept_for_backward(with_relu, 1, (8, 8, 8)) == (4 + 2) * 8**3


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_grows_with_the_voxels(name):
    """In proportion; attention pads to whole windows, so there within a factor."""
    network = spec(name).build_empty(deep_supervision=False)
    first = PATCH[name]
    sizes = [first, (first[0] * 2, *first[1:]), tuple(2 * n for n in first)]
    counted = [network.compute_conv_feature_map_size(size) for size in sizes]
    assert counted == sorted(counted)
    assert len(set(counted)) == 3
    a_voxel = [count / math.prod(size) for count, size in zip(counted, sizes, strict=True)]
    assert max(a_voxel) / min(a_voxel) < (1.6 if name == "swinunetr" else 1.001)
    assert network.compute_conv_feature_map_size(first) == counted[0], "nothing is left behind"


def test_a_network_with_memory_is_counted_like_one_without():
    own = spec("unet")
    counted = [
        network.compute_conv_feature_map_size(PATCH["unet"])
        for network in (own.build(), own.build_empty())
    ]
    assert counted[0] == counted[1]
