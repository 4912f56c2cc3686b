"""A cascade's next stage sees in prediction what it saw in training, whoever predicts.

On a dataset of `convert`, with regions that overlap: liver and a tumour in it are one code there,
where nnU-Net paints the tumour's label.
"""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from test_predict import CODING, by_stock, model, ours
from test_preprocess import LABELS

from atlas_nnunet.errors import SourceError
from atlas_nnunet.predict.previous_stage import as_painted, refuse_joined

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

OURS = {**CODING.as_dataset_json(), "atlas_nnunet": {"key": "tiny", "schema": 1}}
TOP = len(CODING.structures)


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Models of both stages on one dataset of ours, untrained."""
    monkeypatch.setitem(LABELS, "ours", OURS)
    return {
        name: model(tmp_path / name, name, "ours", (1, 0, 2), n=1)
        for name in ("3d_lowres", "3d_cascade_fullres")
    }


def labels_in(folder):
    return np.asarray(nib.load(folder / "c0.nii.gz").dataobj)


def next_stage_input(results, images, previous):
    """What our `predict` gives to the next stage's network."""
    from atlas_nnunet.predict.case import Job, prepare_case
    from atlas_nnunet.predict.model import Model

    model_of = Model(results, ("0",), "checkpoint_final.pth", 0.5, False, "cpu", False, 1, True,
                     False)  # fmt: skip
    files = tuple(images / f"c0_{channel:04d}.nii.gz" for channel in range(2))
    out = previous / "next"
    job = Job("c0", files, previous / "c0.nii.gz", out / "c0.nii.gz", out / "c0.json", model_of, "")
    return prepare_case(job).data


def stock_input(results, images, previous):
    """What nnUNetv2_predict gives to it (`preprocess_fromfiles_save_to_queue`, 2.8.1)."""
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(results / "plans.json"))
    configuration = plans.get_configuration("3d_cascade_fullres")
    description = json.loads((results / "dataset.json").read_text())
    data, seg, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(images / f"c0_{channel:04d}.nii.gz") for channel in range(2)],
        str(previous / "c0.nii.gz"), plans, configuration, description,
    )  # fmt: skip
    values = plans.get_label_manager(description).foreground_labels
    return np.vstack([data, convert_labelmap_to_one_hot(seg[0], values, data.dtype)])


def test_the_next_stages_input_does_not_depend_on_who_predicted_the_previous(
    workspace, tmp_path, stages, capsys
):
    low, high = stages["3d_lowres"], stages["3d_cascade_fullres"]
    images = tmp_path / "3d_lowres" / "images"
    by_stock(low, images, tmp_path / "stock")
    assert ours(workspace.run, low, images, tmp_path / "ours") == 0
    assert "3d_cascade_fullres by nnUNetv2_predict" in capsys.readouterr().out
    assert (labels_in(tmp_path / "ours") > TOP).any(), "some voxels hold two structures"
    assert (labels_in(tmp_path / "stock") <= TOP).all()
    wanted = stock_input(high, images, tmp_path / "stock")
    for folder in ("stock", "ours"):
        found = next_stage_input(high, images, tmp_path / folder)
        assert np.array_equal(found[2:], wanted[2:]), folder
        assert found[2:].any()
        assert np.allclose(found[:2], wanted[:2], atol=1e-5)


def test_the_next_stage_is_trained_on_what_nnunet_paints(tmp_path, stages):
    """The host's function and ours for the files that the final validation of the previous stage
    leaves for the training of the next."""
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from atlas_nnunet.training import validation

    results = stages["3d_lowres"]
    plans = PlansManager(str(results / "plans.json"))
    description = json.loads((results / "dataset.json").read_text())
    logits = torch.randn((TOP, 9, 8, 10), generator=torch.manual_seed(0)).half()
    properties = {
        "spacing": [2.0, 1.0, 1.5], "shape_before_cropping": (17, 14, 15),
        "shape_after_cropping_and_before_resampling": (15, 14, 15),
        "bbox_used_for_cropping": [[1, 16], [0, 14], [0, 15]],
    }  # fmt: skip

    def save(name):
        (tmp_path / name).mkdir()
        validation.host.resample_and_save(
            logits, [19, 16, 18], str(tmp_path / name / "case"), plans,
            plans.get_configuration("3d_lowres"), properties, description, 1, nnUNetDatasetBlosc2,
        )  # fmt: skip
        return blosc2.open(str(tmp_path / name / "case.b2nd"))[:]

    stock = save("stock")
    with validation.our_export():
        found = save("ours")
    assert np.array_equal(found, stock)
    assert stock.max() == TOP


def test_labels_that_nnunet_painted_are_left_as_they_are():
    painted = np.arange(TOP + 1, dtype=np.int16)
    assert np.array_equal(as_painted(painted, OURS, "x"), painted)


def test_without_regions_nothing_is_changed():
    labels = np.array([0, 3, 7], np.int16)
    assert as_painted(labels, {"labels": {"background": 0, "liver": 1}}, "x") is labels


@pytest.mark.parametrize("label", [99, -3])
def test_an_unknown_label_is_refused(label):
    with pytest.raises(SourceError, match=str(label)):
        as_painted(np.array([0, 1, label], np.int16), OURS, "previous/c0.nii.gz")


def test_another_preprocessor_takes_painted_labels_only(stages, tmp_path, monkeypatch):
    """It reads the file itself, and would resample codes of several regions as labels of their
    own."""
    from atlas_nnunet.predict import case

    refuse_joined(np.arange(TOP + 1), OURS, "x")
    results, images = stages["3d_cascade_fullres"], tmp_path / "3d_lowres" / "images"
    image = nib.load(images / "c0_0000.nii.gz")
    (tmp_path / "ours").mkdir()
    codes = np.full(image.shape, TOP + 1, np.uint8)
    nib.save(nib.Nifti1Image(codes, image.affine), tmp_path / "ours" / "c0.nii.gz")
    monkeypatch.setattr(case, "is_stock_preprocessor", lambda _: False)
    with pytest.raises(SourceError, match="--regions stock"):
        next_stage_input(results, images, tmp_path / "ours")
