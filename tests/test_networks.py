"""The suite's networks: names of the published weights, the published function, nnU-Net's ways."""

import sys

import pytest
import torch
from torch.nn import functional

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.networks import parts
from atlas_nnunet.networks.suite import BEFORE, NETWORKS, SINCE, has_deep_supervision, of_class
from atlas_nnunet.transfer.sources import layouts

monai_nets = pytest.importorskip("monai.networks.nets")

SMALL = {
    "unet": {"width": 2},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]},
    "swinunetr": {"feature_size": 12, "depths": [2, 1, 1, 1], "num_heads": [3, 6, 12, 24],
                  "window_size": 3, "patch_size": 2, "merging": BEFORE},
    "stunet": {"dims": [4, 6, 8, 10], "depth": [2, 1, 3, 1]},
}  # fmt: skip
PATCH = {"unet": (16, 24, 16), "segresnet": (16, 24, 16), "swinunetr": (32, 64, 32),
         "stunet": (16, 24, 16)}  # fmt: skip
assert SMALL.keys() == NETWORKS.keys()
FIXED = [name for name, own in NETWORKS.items() if not own.follows]  # one output, strides of 2


def spec(name, heads=("liver", "spleen", "aorta"), channels=("CT",), **changed):
    own = NETWORKS[name]
    kwargs = own.complete({**SMALL[name], **changed})
    return NetworkSpec(own.class_name, kwargs, (), tuple(channels), tuple(heads))


def randomised(network, seed=0):
    """All parameters unlike any initialisation."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ["small", "published"])
def test_parameters_have_the_published_names_and_shapes(name, which):
    own = NETWORKS[name]
    kwargs = own.complete(SMALL[name] if which == "small" else None)
    network = NetworkSpec(own.class_name, kwargs, (), ("CT", "PET"), ("a",) * 5).build_empty()
    found = {n: tuple(p.shape) for n, p in network.named_parameters()}
    assert found == layouts.layout(own.class_name, 2, 5, kwargs)
    assert list(found) == list(dict.fromkeys(found)), "no aliases"
    assert {n for n in network.state_dict() if not n.endswith("relative_position_index")} == {
        *found
    }, "no statistics to lose"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_plans_strides_are_those_of_the_feature_maps(name):
    """What `strides` says of the levels, the levels show; and every part is told by its name."""
    own = spec(name)
    network = own.build(deep_supervision=False)
    seen = []
    hooks = [m.register_forward_hook(lambda m, i, o: seen.append(o)) for m in network.levels()]
    with torch.no_grad():
        network(torch.randn(1, 1, *PATCH[name]))
    for hook in hooks:
        hook.remove()
    seen.sort(key=lambda features: -features.shape[2])
    expected = [torch.tensor(PATCH[name])]
    for stride in own.arch_kwargs["strides"][1:]:
        expected.append(expected[-1] // torch.tensor(stride))
    assert [tuple(f.shape[2:]) for f in seen] == [tuple(e.tolist()) for e in expected]
    assert NETWORKS[name].divisor(own.arch_kwargs) * expected[-1][0] == PATCH[name][0]
    groups = {parts.group_of(n) for n, _ in network.named_parameters()}
    assert groups == set(parts.GROUPS)
    heads = [p for n, p in network.named_parameters() if parts.group_of(n) == "head"]
    n_heads = 1 if name in FIXED else NETWORKS[name].halvings(own.arch_kwargs)
    assert sorted(p.ndim for p in heads) == [1] * n_heads + [5] * n_heads
    assert {len(p) for p in heads} == {3}
    wide = spec(name, channels=("CT", "PET")).build_empty()
    changed = [
        n for (n, a), b in zip(network.named_parameters(), wide.parameters(), strict=True)
        if a.shape != b.shape
    ]  # fmt: skip
    assert changed == [n for n, p in wide.named_parameters() if parts.reads_image(n)
                       and p.ndim > 1], "these read the image, and no others"  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_nnunets_way_to_build_one_output_and_the_switch(name):
    """By the host's function, from a plan's entries; deep supervision gives a list of one."""
    own = spec(name)
    network = own.build(deep_supervision=True).eval()
    image = torch.randn(1, 1, *PATCH[name])
    with torch.no_grad():
        listed = network(image)
        network.decoder.deep_supervision = False  # as the host's trainer does
        plain = network(image)
    assert isinstance(listed, list)
    assert len(listed) == 1
    assert torch.equal(listed[0], plain)
    assert tuple(plain.shape) == (1, 3, *PATCH[name])
    assert not has_deep_supervision(own.class_name)
    assert has_deep_supervision("dynamic_network_architectures.architectures.unet.PlainConvUNet")
    assert of_class(own.class_name) is NETWORKS[name]


@pytest.mark.parametrize("name", FIXED)
def test_a_plan_with_other_strides_is_refused(name):
    own = spec(name)
    flat = [[1, 1, 1], *([1, 2, 2] for _ in own.arch_kwargs["strides"][1:])]
    with pytest.raises(PlanError, match="halves all axes"):
        NetworkSpec(
            own.class_name, {**own.arch_kwargs, "strides": flat}, (), ("CT",), ("a",)
        ).build()


def functional_unet(w, image):
    """The published U-Net written out: unit = convolution, batch statistics, ReLU."""

    def unit(x, name):
        x = functional.conv3d(x, w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"], padding=1)
        mean, var = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), unbiased=False)
        own = (mean, var, w[f"{name}.bn1.weight"], w[f"{name}.bn1.bias"])
        mean, var, scale, shift = (v[:, None, None, None] for v in own)
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def double(x, name):
        return unit(unit(x, f"{name}.ops.0"), f"{name}.ops.1")

    kept, x = [], image
    for name in ("down_tr64", "down_tr128", "down_tr256", "down_tr512"):
        x = double(functional.max_pool3d(x, 2) if kept else x, name)
        kept.append(x)
    for name, skipped in zip(("up_tr256", "up_tr128", "up_tr64"), kept[2::-1], strict=True):
        up = functional.conv_transpose3d(
            x, w[f"{name}.up_conv.weight"], w[f"{name}.up_conv.bias"], stride=2
        )
        x = double(torch.cat([up, skipped], 1), name)
    return functional.conv3d(x, w["out_tr.final_conv.weight"], w["out_tr.final_conv.bias"])


@pytest.mark.parametrize("training", [True, False])
def test_the_unet_is_the_published_function(training):
    network = randomised(spec("unet").build(deep_supervision=False)).double().train(training)
    image = torch.randn(2, 1, 16, 24, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = functional_unet(dict(network.named_parameters()), image)
        assert torch.allclose(network(image), expected, atol=1e-9)


def test_the_unets_norm_sees_its_batch_and_nothing_of_the_past():
    """So prediction, one patch at a time, depends on the patch alone; a batch mixes its patches."""
    network = randomised(spec("unet").build(deep_supervision=False)).eval()
    a, b = torch.randn(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        alone = network(a)
        network.train()(b * 5 + 3)
        assert torch.equal(network.eval()(a), alone)
        together = network(torch.cat([a, b * 5]))
    assert not torch.allclose(together[:1], alone, atol=1e-2)


STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1]]


def functional_stunet(w, image, strides):
    """The published STU-Net written out: instance norm, leaky ReLU; finest output first."""

    def norm(x, name):
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), False, keepdim=True)
        scale, shift = (w[f"{name}.{k}"][:, None, None, None] for k in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(x, name, stride=(1, 1, 1)):
        weight = w[f"{name}.weight"]
        return functional.conv3d(
            x, weight, w[f"{name}.bias"], tuple(stride), padding=weight.shape[2] // 2
        )

    def leaky(x):
        return torch.where(x > 0, x, 0.01 * x)

    def stage(x, name, stride=(1, 1, 1)):
        for j in range(sum(k.startswith(f"{name}.") and k.endswith("conv1.bias") for k in w)):
            own, step = f"{name}.{j}", stride if j == 0 else (1, 1, 1)
            y = leaky(norm(conv(x, f"{own}.conv1", step), f"{own}.norm1"))
            y = norm(conv(y, f"{own}.conv2"), f"{own}.norm2")
            x = leaky(y + (x if j else conv(x, f"{own}.conv3", step)))
        return x

    kept, x = [], image
    for level, stride in enumerate(strides):
        x = stage(x, f"conv_blocks_context.{level}", stride)
        kept.append(x)
    found = []
    for u in range(len(strides) - 1):
        for axis, step in enumerate(strides[-1 - u]):
            x = x.repeat_interleave(step, axis + 2)
        x = torch.cat([conv(x, f"upsample_layers.{u}.conv"), kept[-2 - u]], 1)
        x = stage(x, f"conv_blocks_localization.{u}")
        found.append(conv(x, f"seg_outputs.{u}"))
    return found[::-1]


@pytest.mark.parametrize("strides", [STRIDES, [[1] * 3, *[[2] * 3] * 3]])
def test_stunet_is_the_published_function_at_any_strides(strides):
    """With an output of each level but the coarsest, finest first; and the finest alone."""
    own = NETWORKS["stunet"]
    kwargs = own.complete(SMALL["stunet"], strides)
    network = NetworkSpec(own.class_name, kwargs, (), ("CT",), ("a", "b")).build()
    network = randomised(network).double().eval()
    image = torch.randn(2, 1, *PATCH["stunet"], dtype=torch.float64)
    with torch.no_grad():
        expected = functional_stunet(dict(network.named_parameters()), image, strides)
        found = network(image)
        network.decoder.deep_supervision = False  # as the host's trainer does
        finest = network(image)
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    assert torch.equal(finest, found[0])
    assert has_deep_supervision(own.class_name)
    assert of_class(own.class_name) is own


@pytest.mark.parametrize(
    ("planned", "expected"),
    [
        ([[1, 1, 1], [1, 2, 2]], [[1, 1, 1], [1, 2, 2], [1, 1, 1], [1, 1, 1]]),
        ([[1, 1, 1], *[[2, 2, 2]] * 5], [[1, 1, 1], *[[2, 2, 2]] * 3]),
        (None, [[1, 1, 1], *[[2, 2, 2]] * 3]),
    ],
)
def test_stunet_has_its_own_depth_whatever_is_planned(planned, expected):
    assert NETWORKS["stunet"].complete(SMALL["stunet"], planned)["strides"] == expected
    assert NETWORKS["unet"].complete(SMALL["unet"], planned) == NETWORKS["unet"].complete(
        SMALL["unet"]
    ), "which follows nobody"


@pytest.mark.parametrize("changed", [{"depth": [1, 1]}, {"strides": STRIDES[:3]},
                                     {"strides": [[2, 2, 2]] * 4}])  # fmt: skip
def test_stunet_of_two_depths_is_refused(changed):
    own = spec("stunet")
    with pytest.raises(PlanError, match="STU-Net of 4 levels cannot have"):
        NetworkSpec(own.class_name, {**own.arch_kwargs, **changed}, (), ("CT",), ("a",)).build()


def monais(name, own):
    kwargs = {k: v for k, v in own.arch_kwargs.items() if k not in layouts.SHAPELESS}
    kind = {"segresnet": monai_nets.SegResNet, "swinunetr": monai_nets.SwinUNETR}[name]
    return kind(in_channels=1, out_channels=len(own.heads), **kwargs)


@pytest.mark.parametrize("name", ["segresnet", "swinunetr"])
def test_monais_networks_are_monais(name):
    """The same weights under the same names give the same output."""
    own = spec(name, **({"merging": SINCE} if name == "swinunetr" else {}))
    ours = randomised(own.build(deep_supervision=False)).eval()
    theirs = monais(name, own).eval()
    assert theirs.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(1, 1, *PATCH[name])
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


def test_swin_unetr_merges_as_the_published_weights_learnt_it():
    """MONAI's issue 8284 lists the neighbours that were read before 1.5."""
    from atlas_nnunet.networks.swinunetr import MergingBefore

    merge = MergingBefore(1)
    merge.norm = merge.reduction = torch.nn.Identity()
    z, y, x = torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij")
    merged = merge((z * 100 + y * 10 + x)[None, ..., None])
    assert merged.shape == (1, 2, 2, 2, 8)
    assert merged[0, 0, 0, 0].tolist() == [0, 100, 10, 1, 101, 10, 1, 111]
    assert merged[0, 1, 0, 1].tolist() == [202, 302, 212, 203, 303, 212, 203, 313]
    before, since = spec("swinunetr"), spec("swinunetr", merging=SINCE)
    a, b = (randomised(own.build(deep_supervision=False)).eval() for own in (before, since))
    image = torch.randn(1, 1, *PATCH["swinunetr"])
    with torch.no_grad():
        assert not torch.allclose(a(image), b(image), atol=1e-3), "one file, two functions"
    with pytest.raises(PlanError, match="merging 'monai_2'"):
        spec("swinunetr", merging="monai_2").build()


@pytest.mark.parametrize("name", ["segresnet", "swinunetr"])
def test_without_monai_the_command_that_installs_it_is_named(name, monkeypatch):
    own = spec(name)
    for module in [m for m in sys.modules if m.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"atlas_nnunet.networks.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(PlanError, match=r"pip install 'atlas-nnunet\[suprem\]'"):
        own.build()
    spec("unet").build()


def test_what_is_no_network_of_ours_is_no_attribute():
    import atlas_nnunet.networks as networks

    with pytest.raises(AttributeError, match="NoSuchNetwork"):
        networks.NoSuchNetwork  # noqa: B018 - raises
