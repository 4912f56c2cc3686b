"""The suite's networks through plan, training and stock prediction, on a tiny data set."""

import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from support import Workspace, run_all
from test_networks import FIXED, SMALL

from atlas_nnunet.hosttraining import use_our_trainers
from atlas_nnunet.networks.parts import group_of
from atlas_nnunet.networks.suite import NETWORKS

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")
pytest.importorskip("monai")

SHORT = ("--preset", "cpu", "--epochs", 2, "--iterations", 2, "--val-iterations", 1,
         "--no-final-validation")  # fmt: skip
GB = {"unet": 0.015, "segresnet": 0.03, "swinunetr": 0.13, "stunet": 0.02}  # two patches near 32^3


@pytest.fixture(scope="module", params=NETWORKS)
def suite(request, planned, tmp_path_factory):
    """A network's name, and a tiny data set preprocessed for a small copy of it."""
    name = request.param
    space = Workspace(tmp_path_factory.mktemp(name) / "space")
    shutil.copytree(planned.folder, space.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, name, replace(NETWORKS[name], published=SMALL[name]))
        for key, value in {**space.variables, "nnUNet_n_proc_DA": "0"}.items():
            patch.setenv(key, value)
        patch.setenv("nnUNet_extTrainer", "")
        patch.setattr(os, "sched_getaffinity", lambda process: {0})  # one thread: it is tiny
        use_our_trainers()
        run_all(space.run,
                ("plan", 701, "--network", name, "-p", "Suite", "--memory-gb", GB[name], *SHORT),
                ("preprocess", 701, "-p", "Suite", "-np", 1))  # fmt: skip
        yield name, space


def results(space, trainer, plans):
    return space.folder / f"nnUNet_results/Dataset701_Tiny/{trainer}__{plans}__3d_fullres"


def predicted(space, model, out):
    """By the stock predictor, as nnUNetv2_predict does."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(model), ["all"])
    out.mkdir()
    images = sorted((space.folder / "nnUNet_raw/Dataset701_Tiny/imagesTr").glob("*.nii.gz"))[:1]
    assert images
    predictor.predict_from_files_sequential(
        [[str(images[0])]], [str(out / "case")], folder_with_segs_from_prev_stage=None
    )
    labels, image = nib.load(out / "case.nii.gz"), nib.load(images[0])
    assert labels.shape == image.shape
    return np.asarray(labels.dataobj)


def test_plan_train_predict_and_transfer_to_itself(suite, tmp_path):
    """Two epochs by our trainer, a label map by the stock predictor; then fine-tuned and again."""
    name, space = suite
    assert space.run("train", 701, "3d_fullres", "all", "-p", "Suite", "-device", "cpu") == 0
    model = results(space, "AtlasPretrainTrainer", "Suite")
    curves = json.loads((model / "fold_all/curves.json").read_text())
    assert len(curves["train_loss"]) == 2
    assert np.isfinite(curves["train_loss"]).all()
    again = ("train", 701, "3d_fullres", "all", "-p", "Suite", "-device", "cpu", "--overwrite")
    assert space.run(*again) == 0
    assert json.dumps(curves) == json.dumps(
        json.loads((model / "fold_all/curves.json").read_text())
    ), "the same training twice"
    labels = predicted(space, model, tmp_path / "p")
    known = json.loads((model / "dataset.json").read_text())["labels"]
    codes = {c for v in known.values() for c in (v if isinstance(v, list) else [v])}
    assert set(np.unique(labels)) <= codes

    checkpoint = model / "fold_all/checkpoint_final.pth"
    run_all(
        space.run,
        ("plan", 701, "-pl", "AtlasTransferPlanner", "--from", checkpoint, "--memory-gb",
         GB[name], *SHORT),
        ("preprocess", 701, "-p", "AtlasTransferPlans", "-np", 1),
        ("transfer", 701, "--from", checkpoint, "--floor", 1),
        ("train", 701, "3d_fullres", "all", "-tr", "AtlasTransferTrainer", "-p",
         "AtlasTransferPlans", "-device", "cpu"),
    )  # fmt: skip
    folder = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/atlas_nnunet"
    report = json.loads(
        (folder / "AtlasTransferPlans__3d_fullres.transfer_report.json").read_text()
    )
    assert report["shares"]["copied"] == 1
    assert {row["correlation"] for row in report["forward"]["rows"]} == {1.0}
    assert report["forward"]["patch"].endswith("in case_000"), "a real patch"
    tuned = results(space, "AtlasTransferTrainer", "AtlasTransferPlans")
    assert predicted(space, tuned, tmp_path / "q").shape == labels.shape


def trainer_of(space, kind):
    plans = space.folder / "nnUNet_preprocessed/Dataset701_Tiny/Suite.json"
    dataset_json = plans.with_name("dataset.json")
    content = {**json.loads(plans.read_text()), "continue_training": False}
    made = kind(content, "3d_fullres", "all",
                json.loads(dataset_json.read_text()), torch.device("cpu"))  # fmt: skip
    torch.manual_seed(0)
    made.initialize()
    return made


def test_what_stock_trainers_make_of_it(suite):
    """Without deep supervision the same loss as ours sees; with it a part of that, and no crash."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.network_architecture import (
        nnUNetTrainerNoDeepSupervision as without,
    )

    name, space = suite
    plain = trainer_of(space, without.nnUNetTrainerNoDeepSupervision)
    deep = trainer_of(space, nnUNetTrainer)
    patch = plain.configuration_manager.patch_size
    image = torch.randn(2, 1, *patch)
    heads = plain.label_manager.num_segmentation_heads
    target = (torch.rand(2, heads, *patch) > 0.5).float()
    scales = deep._get_deep_supervision_scales()
    assert len(scales) == NETWORKS[name].halvings(SMALL[name])
    steps = [[round(1 / share) for share in level] for level in scales]
    targets = [target[..., ::z, ::y, ::x] for z, y, x in steps]
    losses = []
    for trainer, given in ((plain, target), (deep, targets)):
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        with torch.no_grad():
            losses.append(float(trainer.loss(trainer.network(image), given)))
        step = trainer.train_step({"data": image, "target": given})
        assert np.isfinite(step["loss"])
        assert np.isfinite(trainer.validation_step({"data": image, "target": given})["loss"])
    if name in FIXED:
        part = 1 / sum(0.5**i for i in range(len(scales) - 1))  # nnUNetTrainer.py:456-468, 2.8.1
        assert losses[1] == pytest.approx(part * losses[0], rel=1e-4)


def test_our_trainer_supervises_every_output_and_finds_the_heads(suite):
    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer

    name, space = suite
    trainer = trainer_of(space, AtlasPretrainTrainer)
    outputs = 1
    if name in FIXED:
        assert not trainer.enable_deep_supervision
        assert trainer._get_deep_supervision_scales() is None
        assert not trainer.network.decoder.deep_supervision
    else:
        assert trainer.network.decoder.deep_supervision
        outputs = len(trainer._get_deep_supervision_scales())
        assert outputs == NETWORKS[name].halvings(SMALL[name])
    groups = {group["part"]: group["params"] for group in trainer.optimizer.param_groups}
    assert len(groups) == len(trainer.optimizer.param_groups) == 3
    named = dict(trainer.network.named_parameters())
    for part, parameters in groups.items():
        own = {id(p) for n, p in named.items() if group_of(n) == part}
        assert {id(p) for p in parameters} == own
    assert len(groups["head"]) == 2 * outputs
    assert sum(map(len, groups.values())) == len(named)
