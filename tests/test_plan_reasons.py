"""`plan --explain` tells the plan's own numbers: each is computed here a second time."""

import json
import math

import numpy as np
import pytest
from fingerprints import abdominal, isotropic, prostate, sagittal, tiny, write_set
from support import Workspace

from atlas_nnunet.plan.method import Method
from atlas_nnunet.plan.reasons import Facts, spacing_reason, times

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

SETS = {501: prostate(), 502: isotropic(), 503: sagittal(), 504: tiny(6), 505: abdominal(9)}
GB, BUDGET = 2, {3: 560e6 * 2 / 8, 2: 85e6 * 2 / 8}  # default_experiment_planner.py:46-47
METHOD = Method(3, 4, GB, BUDGET, {3: 2, 2: 12}, BUDGET, 2, 0.05, 0.25)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """number -> plans and text, by the default U-Net for 2 GB."""
    from contextlib import redirect_stdout
    from io import StringIO

    space = Workspace(tmp_path_factory.mktemp("reasons"))
    found = {}
    for number, fingerprint in SETS.items():
        folder = write_set(space, number, *fingerprint)
        with redirect_stdout(StringIO()) as told:
            words = ("--preset", "unet", "--memory-gb", GB, "--explain")
            assert space.run("plan", number, *words) == 0
        plans = json.loads((folder / "AtlasPretrainPlans.json").read_text())
        found[number] = plans, told.getvalue().split("why:\n")[1]
    return found


def part(told, name):
    """The lines about one configuration."""
    lines = told.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"  {name}, at "))
    return "\n".join(line for line in lines[first + 1 : first + 6] if line.startswith("    "))


def estimate(config):
    """Feature-map voxels, as tests/test_stages.py holds them to be stock's."""
    from test_plan import without_memory

    arch = config["architecture"]
    return without_memory(config["patch_size"], 1, 3, arch["network_class_name"],
                          arch["arch_kwargs"], arch["_kw_requires_import"])  # fmt: skip


@pytest.mark.parametrize("number", SETS)
def test_patch_batch_and_network_have_the_plans_numbers(explained, number):
    plans, told = explained[number]
    spacings, shapes = map(np.array, SETS[number])
    target = plans["configurations"]["3d_fullres"]
    forward = plans["transpose_forward"]
    mm = np.array([target["spacing"][i] for i in plans["transpose_backward"]])
    median = np.median(np.round(spacings / mm * shapes), 0)[forward]
    assert f"the median image has {times(median)} voxels" in told
    for name in ("2d", "3d_fullres"):
        config, lines = plans["configurations"][name], part(told, name)
        arch = config["architecture"]["arch_kwargs"]
        n_axes, patch, need = len(config["patch_size"]), config["patch_size"], estimate(config)
        assert f"patch {times(patch)}:" in lines
        cube = 1 / np.array(config["spacing"])
        cube = cube * ({3: 256**3, 2: 2048**2}[n_axes] / cube.prod()) ** (1 / n_axes)
        start = np.minimum(cube.round(), median[-n_axes:])
        assert f"median image: {times(np.ceil(start))}." in lines
        pools = np.array(arch["strides"]).prod(0)
        fits = (np.ceil(start / pools) * pools == patch).all()
        assert ("it fits:" in lines) is True
        assert ("cut again and again" in lines) is not fits
        allowed = BUDGET[n_axes] * {3: 1, 2: 6}[n_axes]  # line 321: two patches of twelve
        assert need <= allowed
        for count in (need, allowed, BUDGET[n_axes]):
            assert f"{count / 1e6:,.0f}" in lines or f"{count / 1e6:.3g}" in lines
        letters = ["zyx"[i] for i in forward][-n_axes:]
        halvings = [sum(s[i] == 2 for s in arch["strides"]) for i in range(n_axes)]
        counted = ", ".join(f"{a} {n}" for a, n in zip(letters, halvings, strict=True))
        assert f"halvings {counted}." in lines
        assert f"has {times(np.array(patch) // 2 ** np.array(halvings))}." in lines
        assert f"PlainConvUNet of {max(halvings) + 1} stages" in lines
        assert f"{arch['features_per_stage']} features" in lines
        voxels = median.prod() * len(spacings)
        by_memory = round(BUDGET[n_axes] / need * {3: 2, 2: 12}[n_axes])
        by_data = round(voxels * 0.05 / np.prod(patch))
        assert f"batch {config['batch_size']}: memory holds {by_memory} " in lines
        assert f"voxels are {by_data} patches; at least 2" in lines
        assert config["batch_size"] == max(2, min(by_memory, by_data))
    if number == 504:
        assert by_data < by_memory, "the tiny set is bounded by its own size"


def test_kernels_of_one_voxel_are_told_with_the_spacings_that_ask_for_them(explained):
    plans, told = explained[501]
    config = plans["configurations"]["3d_fullres"]
    kernels = config["architecture"]["arch_kwargs"]["kernel_sizes"]
    flat = sum(k[0] == 1 for k in kernels)
    assert flat >= 2
    mm = ", ".join(f"{0.6 * 2**i:.4g}" for i in range(flat))
    assert 0.6 * 2 ** (flat - 1) * 2 <= config["spacing"][0] < 0.6 * 2**flat * 2
    assert (
        f"1 along z in stages 1 to {flat} of {len(kernels)}, where {config['spacing'][0]:.4g} mm "
        f"lie 2 times or more above the finest axis ({mm} mm); 3 elsewhere" in told
    )
    assert "kernels: 3.\n" in part(explained[502][1], "3d_fullres")
    assert "1 along x in stage" in part(explained[503][1], "3d_fullres")
    assert "axes: x, z, y; the coarsest axis comes first" in explained[503][1]


@pytest.mark.parametrize("number", SETS)
def test_lowres_is_told_as_it_is(explained, number):
    plans, told = explained[number]
    full = plans["configurations"]["3d_fullres"]
    shape = np.array(full["median_image_size_in_voxels"])
    covered = math.prod(full["patch_size"]) / shape.prod()
    assert f"covers {covered:.1%} of the median image" in told
    lowres = plans["configurations"].get("3d_lowres")
    assert (lowres is not None) == (number == 505)
    if lowres is None:
        assert "not less than 25%: not needed" in told or "less than 2 times smaller" in told
        assert "3d_lowres, at" not in told
        return
    ratio = np.array(full["spacing"]) / lowres["spacing"]
    small = math.prod(lowres["patch_size"]) / (shape * ratio).prod()
    assert small >= 0.25
    assert "less than 25%: spacing grows by 3% a step" in told
    assert f"to {times(lowres['spacing'])} mm, where its patch covers {small:.1%} of" in told
    assert "3d_cascade_fullres: as 3d_fullres, with the labels of 3d_lowres" in told
    voxels = (shape * ratio).prod() * len(SETS[number][0])
    by_data = round(voxels * 0.05 / np.prod(lowres["patch_size"]))
    assert f"are {by_data} patches" in part(told, "3d_lowres")


def facts(spacings, shapes, **others):
    fingerprint = {"spacings": spacings, "shapes_after_crop": shapes}
    return Facts(fingerprint, [0, 1, 2], [1, 1, 1], 1, {3: METHOD}, {}, **others)


@pytest.mark.parametrize(
    ("z_mm", "z_vox", "words"),
    [
        ([2.0, 2.0, 2.0], 20, "not more than 3 times as coarse as the others (2 against 1 mm)"),
        ([3.0, 4.0, 5.0], 200, "but not that much shorter (200 against 300 voxels)"),
        ([3.0, 4.0, 5.0], 100, "but not that much shorter (100 against 300 voxels)"),
        ([3.0, 4.0, 5.0], 99, "short (99 against 300 voxels): there it is the 10th percentile of "
                              "the cases, 3.2 mm"),
        ([0.5, 4.0, 5.0], 20, "1.2 mm"),
        ([0.5, 4.0, 4.0, 0.5, 4.0], 20, "0.5 mm, lest thin slices be lost; but not finer than the "
                                        "others, so 1 mm"),
    ],
)  # fmt: skip
def test_the_rule_for_coarse_axes_is_told_with_its_numbers(z_mm, z_vox, words):
    said = spacing_reason(facts([[z, 1.0, 0.9] for z in z_mm], [[z_vox, 300, 310]] * len(z_mm)))
    assert words in said
    assert f"the median of {len(z_mm)} cases is z {np.median(z_mm):.4g}, y 1, x 0.9 mm" in said


def test_what_was_said_about_spacing_is_what_the_host_does(explained):
    for number, (spacings, _) in SETS.items():
        plans, told = explained[number]
        forward = plans["transpose_forward"]
        planned = plans["configurations"]["3d_fullres"]["spacing"]
        median = np.median(spacings, 0)[forward]
        if "10th percentile" in told:
            assert planned[0] == np.percentile(np.array(spacings)[:, forward[0]], 10)
            assert f"10th percentile of the cases, {planned[0]:.4g} mm" in told
            assert planned[1:] == list(median[1:])
        else:
            assert planned == list(median)
            assert "It is taken" in told
    assert "10th percentile" in explained[501][1]


def test_what_was_not_decided_by_the_method_is_said(explained, tmp_path, capsys):
    space = Workspace(tmp_path)
    folder = write_set(space, 502, *isotropic())
    words = ("--preset", "cpu", "--memory-gb", 0.5, "--explain")
    assert space.run("plan", 502, *words, "--spacing", 2, 2, 2) == 0
    assert "It is not taken: --spacing was given" in capsys.readouterr().out
    transfer = ("-pl", "AtlasTransferPlanner", "--from", folder / "AtlasPretrainPlans.json")
    assert space.run("plan", 502, *words, *transfer) == 0
    assert "class, blocks and widths are the source's" in capsys.readouterr().out
    smaller = (*words[:3], 0.1, "--explain")
    assert space.run("plan", 502, *smaller, *transfer, "--mode", "inherit") == 0
    told = capsys.readouterr().out
    for sentence in ("It is not taken: it is the source's", "as in the source's plan",
                     "the source's, with its strides and kernels", ": too many",
                     "not planned: resolution is the source's"):  # fmt: skip
        assert sentence in told


def test_a_batch_is_bounded_by_memory_by_the_data_set_and_from_below():
    patch = [40, 40, 40]
    for fills, voxels, size in ((5, 1e9, 5), (5, 4e6, 3), (5, 1e5, 2), (1, 1e9, 2)):
        assert METHOD.batch(BUDGET[3] * 2 / fills, patch, voxels).size == size
