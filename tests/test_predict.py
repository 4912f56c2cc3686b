"""Prediction: nnUNetv2_predict's label maps, also in overlap, in parts, and after a break."""

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_preprocess import CONFIGURATIONS, CT, FULL, LABELS

from atlas_nnunet.artefacts import file_hash
from atlas_nnunet.errors import AtlasError, SourceError
from atlas_nnunet.kernels.export import Target, logits_to_labels
from atlas_nnunet.kernels.probabilities import labels_of
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.predict import overlap
from atlas_nnunet.predict.inputs import cases_of
from atlas_nnunet.settings import Training

pytestmark = pytest.mark.host
pytest.importorskip("nnunetv2")

NAMES = ("liver", "kidney_left", "kidney_right", "liver_tumor", "kidney_tumor")
OVERLAPS = [
    frozenset(pair)
    for pair in (
        ("liver", "liver_tumor"), ("kidney_left", "kidney_tumor"), ("kidney_right", "kidney_tumor"),
    )
]  # fmt: skip
CODING = Coding.of(NAMES, OVERLAPS)
LAST = np.array([max((NAMES.index(m) + 1 for m in c), default=0) for c in CODING.codes])


def joined(probabilities):
    """By both kernels: from probabilities, and from their logits."""
    codes = labels_of(probabilities, CODING.join)
    logits = np.log(probabilities / (1 - probabilities)).astype(np.float32)
    target = Target(probabilities.shape[1:], (1, 1, 1), (1, 1, 1))
    assert (logits_to_labels(logits, target, paint=CODING.join) == codes).all()
    return codes


def probabilities(seed):
    return np.random.default_rng(seed).uniform(0.01, 0.99, (len(NAMES), 4, 5, 6)).astype(np.float32)


@given(st.integers(0, 9999))
def test_the_last_region_of_each_voxel_is_stocks(seed):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    description = CODING.as_dataset_json()
    manager = LabelManager(description["labels"], description["regions_class_order"])
    p = probabilities(seed)
    codes = joined(p)
    assert (LAST[codes] == manager.convert_probabilities_to_segmentation(p)).all()
    assert (codes > len(NAMES)).any(), "some voxels hold two structures"


@given(st.integers(0, 9999))
def test_a_region_loses_voxels_only_to_a_later_one_it_may_not_overlap(seed):
    p = probabilities(seed)
    codes = joined(p)
    for i, name in enumerate(NAMES):
        rivals = [
            j for j in range(i + 1, len(NAMES)) if frozenset((name, NAMES[j])) not in OVERLAPS
        ]
        wanted = (p[i] > 0.5) & ~(p[rivals] > 0.5).any(0)
        assert (CODING.mask_of(codes, name) == wanted).all(), name


NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2, "features_per_stage": [6, 8], "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1], "conv_bias": True, "dropout_op": None,
        "dropout_op_kwargs": None, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}  # fmt: skip


def network(n_axes):
    own = {
        "conv_op": f"torch.nn.modules.conv.Conv{n_axes}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{n_axes}d",
        "nonlin": "torch.nn.LeakyReLU", "kernel_sizes": [[3] * n_axes] * 2,
        "strides": [[1] * n_axes, [2] * n_axes],
    }  # fmt: skip
    return {**NETWORK, "arch_kwargs": {**NETWORK["arch_kwargs"], **own}}


def model(folder, configuration, labels, transpose, folds=("0",), n=3, spacing=(1.3, 0.9, 1.1)):
    """A network of random weights, as nnU-Net leaves a trained one; and images to predict."""
    from atlas_nnunet.host import network_spec

    probabilities = {**FULL["resampling_fn_probabilities_kwargs"], "order": 1}
    configurations = json.loads(json.dumps(CONFIGURATIONS))
    configurations["3d_fullres"]["architecture"] = network(3)
    configurations["3d_fullres"]["patch_size"] = [24, 24, 24]  # few windows
    configurations["3d_fullres"]["spacing"] = list(spacing)
    configurations["3d_fullres"]["resampling_fn_probabilities_kwargs"] = probabilities
    configurations["2d"]["architecture"] = network(2)
    configurations["torch_logits"] = {  # not a function that our export equals
        "inherits_from": "3d_fullres",
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
    }
    plans = {
        "plans_name": "P", "dataset_name": "Dataset009_X", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose), "transpose_backward": np.argsort(transpose).tolist(),
        "label_manager": "LabelManager", "configurations": configurations,
        "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
    }  # fmt: skip
    description = {"channel_names": {"0": "CT", "1": "MR"}, "file_ending": ".nii.gz",
                   **LABELS[labels]}  # fmt: skip
    results = folder / "nnUNet_results/Dataset009_X" / f"nnUNetTrainer__P__{configuration}"
    spec = network_spec(plans, configuration, description)
    for number, fold in enumerate(folds):
        (results / f"fold_{fold}").mkdir(parents=True)
        torch.manual_seed(number)
        torch.save(
            {"network_weights": spec.build(deep_supervision=False).state_dict(),
             "trainer_name": "nnUNetTrainer", "init_args": {"configuration": configuration},
             "inference_allowed_mirroring_axes": (0, 1)},
            results / f"fold_{fold}/checkpoint_final.pth",
        )  # fmt: skip
    (results / "plans.json").write_text(json.dumps(plans))
    (results / "dataset.json").write_text(json.dumps(description))
    write_images(folder / "images", n)
    return results


def write_images(folder, n):
    from scipy.ndimage import gaussian_filter

    folder.mkdir()
    for case in range(n):
        rng = np.random.default_rng(case)
        for channel in range(2):
            image = gaussian_filter(rng.normal(0, 900, (25, 26 + case, 21)), 1.5)
            image[:3] = 0
            path = folder / f"c{case}_{channel:04d}.nii.gz"
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.diag([1.5, 1.0, 2.0, 1])), path)


def by_stock(results, images, out, folds=(0,), previous=None, **options):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), list(folds))
    out.mkdir()
    predictor.predict_from_files_sequential(
        str(images), str(out), folder_with_segs_from_prev_stage=previous, **options
    )


def ours(run, results, images, out, *words):
    return run("predict", "-i", images, "-o", out, "-m", results, "-device", "cpu", "-f", 0, *words)


def same_maps(a, b, n=3):
    names = sorted(p.name for p in a.glob("*.nii.gz"))
    assert len(names) == n
    for name in names:
        one, other = nib.load(a / name), nib.load(b / name)
        assert np.array_equal(one.affine, other.affine)
        assert one.get_data_dtype() == other.get_data_dtype()
        values = np.asarray(one.dataobj)
        assert len(np.unique(values)) > 1
        assert np.array_equal(values, np.asarray(other.dataobj)), name


@pytest.mark.parametrize(
    ("configuration", "labels", "transpose"),
    [
        ("3d_fullres", "plain", (0, 1, 2)), ("3d_fullres", "regions", (1, 0, 2)),
        ("3d_lowres", "ignore", (2, 0, 1)), ("2d", "plain", (0, 1, 2)),
        ("2d", "regions", (2, 1, 0)), ("thick", "plain", (0, 1, 2)),
        ("torch", "regions", (0, 1, 2)), ("torch_logits", "plain", (0, 1, 2)),
        ("torch_logits", "regions", (0, 1, 2)), ("3d_cascade_fullres", "plain", (1, 2, 0)),
    ],
)  # fmt: skip
def test_label_maps_and_probabilities_are_stocks(
    workspace, tmp_path, configuration, labels, transpose
):
    results = model(tmp_path, configuration, labels, transpose, n=1)
    words, previous = (), None
    if "cascade" in configuration:
        previous = tmp_path / "previous"
        previous.mkdir()
        for path in (tmp_path / "images").glob("*_0000.nii.gz"):
            image = nib.load(path)
            stage = (np.indices(image.shape).sum(0) // 20).clip(0, 3).astype(np.uint8)
            nib.save(
                nib.Nifti1Image(stage, image.affine), previous / path.name.replace("_0000", "")
            )
        words = ("-prev_stage_predictions", previous)
        previous = str(previous)
    by_stock(results, tmp_path / "images", tmp_path / "stock", previous=previous)
    by_stock(results, tmp_path / "images", tmp_path / "stock_p", previous=previous,
             save_probabilities=True)  # fmt: skip
    assert ours(workspace.run, results, tmp_path / "images", tmp_path / "ours", *words) == 0
    assert ours(workspace.run, results, tmp_path / "images", tmp_path / "ours_p", *words,
                "--save_probabilities") == 0  # fmt: skip
    same_maps(tmp_path / "stock", tmp_path / "ours", 1)
    same_maps(tmp_path / "stock_p", tmp_path / "ours_p", 1)
    mine, theirs = (np.load(tmp_path / d / "c0.npz")["probabilities"]
                    for d in ("ours_p", "stock_p"))  # fmt: skip
    assert mine.dtype == theirs.dtype
    # Logits are float16. Where images, which differ by 4e-7 of their range, bring one over the
    # middle between two such numbers, the probability moves by up to a quarter of their distance.
    apart = np.abs(mine - theirs)
    assert (apart > 1e-6).mean() < 0.01
    assert apart.max() < 1e-3
    assert (tmp_path / "ours_p/c0.pkl").is_file()


@pytest.mark.real
def test_label_maps_of_a_real_ct_are_stocks(workspace, tmp_path, real_data):
    results = model(tmp_path, "3d_fullres", "plain", (0, 1, 2), n=0, spacing=(5.0, 5.5, 6.0))
    ct = nib.load(real_data / "abdomenatlas/BDMAP_90000001/ct.nii.gz")
    for channel in range(2):
        nib.save(ct, tmp_path / f"images/ct_{channel:04d}.nii.gz")
    by_stock(results, tmp_path / "images", tmp_path / "stock")
    assert ours(workspace.run, results, tmp_path / "images", tmp_path / "ours") == 0
    same_maps(tmp_path / "stock", tmp_path / "ours", 1)


def test_folds_are_averaged_and_overlap_changes_nothing(workspace, tmp_path):
    results = model(tmp_path, "3d_fullres", "plain", (0, 1, 2), folds=("0", "1", "all"))
    by_stock(results, tmp_path / "images", tmp_path / "stock", folds=("0", "1", "all"))
    for number, words in enumerate([(), ("-npp", 2, "-nps", 2), ("-np", 2), ("-npp", 1, "-nps", 0),
                                    ("-npp", 1, "-nps", 1, "--memory-gb", 0.001)]):  # fmt: skip
        out = tmp_path / f"ours{number}"
        words = (*words, "-f", 0, 1, "all")
        assert ours(workspace.run, results, tmp_path / "images", out, *words) == 0
        same_maps(tmp_path / "stock", out)


def test_parts_single_files_and_resuming(workspace, tmp_path, capsys):
    results, out = model(tmp_path, "3d_fullres", "plain", (0, 1, 2)), tmp_path / "o"
    images = tmp_path / "images"
    assert ours(workspace.run, results, images, out, "-num_parts", 2, "-part_id", 1) == 0
    assert [p.name for p in out.glob("*.nii.gz")] == ["c1.nii.gz"]
    assert ours(workspace.run, results, images, out) == 0
    assert "2 of 3 cases were new" in capsys.readouterr().out
    first = {p.name: file_hash(p) for p in out.glob("*.nii.gz")}
    (out / "c0.nii.gz").write_bytes(b"spoilt")
    assert ours(workspace.run, results, images, out) == 0
    assert "1 of 3 cases were new" in capsys.readouterr().out
    assert {p.name: file_hash(p) for p in out.glob("*.nii.gz")} == first
    assert ours(workspace.run, results, images, out, "-step_size", 0.7) == 0
    assert "3 of 3 cases were new" in capsys.readouterr().out
    alone = tmp_path / "x.nii.gz", tmp_path / "y.nii.gz"
    for channel, path in enumerate(alone):
        shutil.copy(images / f"c2_{channel:04d}.nii.gz", path)
    assert workspace.run("predict", "-i", *alone, "-o", out, "-m", results, "-device", "cpu",
                         "-f", 0) == 0  # fmt: skip
    assert file_hash(out / "x.nii.gz") == first["c2.nii.gz"]
    assert {p.name for p in out.iterdir()} == {
        "x.nii.gz", "c0.nii.gz", "c1.nii.gz", "c2.nii.gz", "dataset.json", "plans.json",
        "atlas_nnunet",
    }  # fmt: skip


@pytest.mark.parametrize("words", [(), ("-npp", 1, "-nps", 1), ("-np", 2)])
def test_broken_inputs_are_named_and_skipped_over(workspace, tmp_path, capsys, words):
    results, images = model(tmp_path, "3d_fullres", "plain", (0, 1, 2)), tmp_path / "images"
    broken = images / "c0_0001.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-2000])
    (images / "c1_0001.nii.gz").unlink()
    assert ours(workspace.run, results, images, tmp_path / "o", *words) == 1
    said = capsys.readouterr().out
    assert "c0: " in said
    assert "c1: " in said
    assert "1 channel(s), the model takes 2" in said
    assert [p.name for p in (tmp_path / "o").glob("*.nii.gz")] == ["c2.nii.gz"]


def test_wrong_calls_are_told_before_anything_is_read(workspace, tmp_path, capsys):
    results, images = model(tmp_path, "3d_cascade_fullres", "plain", (0, 1, 2)), tmp_path / "images"
    call = (workspace.run, results, images, tmp_path / "o")
    assert ours(*call) == 2
    assert "-c 3d_lowres first" in capsys.readouterr().err
    assert ours(*call, "-f", 3) == 2
    assert "folds ['3']" in capsys.readouterr().err
    assert ours(*call, "-num_parts", 2, "-part_id", 2) == 2
    assert "-part_id" in capsys.readouterr().err
    with pytest.raises(AtlasError, match="neither a folder nor a file"):
        cases_of([tmp_path / "nothing.mha"], ".nii.gz")


def test_at_most_so_many_cases_are_at_hand(monkeypatch):
    """Counted where memory is held: from the beginning of reading to the end of export."""
    held, most, lock = set(), [], threading.Lock()

    def prepare(job):
        with lock:
            held.add(job)
            most.append(len(held))
        if job == "c3":
            held.discard(job)
            raise SourceError("broken", where=job, do="mend it")
        return SimpleNamespace(key="", properties={})

    def export(job, key, properties, logits):
        time.sleep(0.02)  # slower than all the rest: without a bound, cases would pile up here
        with lock:
            held.discard(job)
        return True

    monkeypatch.setattr(overlap, "prepare_case", prepare)
    monkeypatch.setattr(overlap, "run_network", lambda job, prepared: job)
    monkeypatch.setattr(overlap, "export_case", export)
    jobs = {f"c{n}": f"c{n}" for n in range(9)}

    def run(ahead, behind, need=0, budget=1):
        held.clear(), most.clear()
        found = dict(overlap.overlapped(jobs, ahead=ahead, behind=behind,
                                        need_bytes=dict.fromkeys(jobs, need),
                                        budget_bytes=budget))  # fmt: skip
        assert set(found) == set(jobs)
        assert isinstance(found.pop("c3"), SourceError)
        assert set(found.values()) == {True}
        return max(most)

    assert run(0, 0) == 1
    assert run(1, 1) <= 3
    assert run(2, 2) <= 5
    assert run(2, 2, need=1, budget=2) <= 2
    assert run(3, 3, need=5, budget=2) == 1, "one that does not fit stands alone"


def test_the_final_validation_writes_what_predict_writes(tmp_path):
    """Of our trainers; the host's own function for the host's own data sets."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from atlas_nnunet.training import validation

    results = model(tmp_path, "3d_lowres", "regions", (1, 0, 2))
    plans = PlansManager(str(results / "plans.json"))
    description = json.loads((results / "dataset.json").read_text())
    configuration = plans.get_configuration("3d_lowres")
    logits = torch.randn((3, 9, 8, 10), generator=torch.manual_seed(0)).half()
    properties = {
        "spacing": [2.0, 1.0, 1.5], "shape_before_cropping": (17, 14, 15),
        "shape_after_cropping_and_before_resampling": (15, 14, 15),
        "bbox_used_for_cropping": [[1, 16], [0, 14], [0, 15]],
        "sitk_stuff": {"spacing": (1.5, 1.0, 2.0), "origin": (0, 0, 0),
                       "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)},
    }  # fmt: skip
    validate(validation.host, plans, configuration, description, logits, properties, tmp_path / "a")
    with validation.our_export():
        validate(validation.host, plans, configuration, description, logits, properties,
                 tmp_path / "b")  # fmt: skip
    assert validation.host.export_prediction_from_logits is not validation.export_case
    diverged = torch.full_like(logits, torch.nan)
    with validation.our_export():
        for save in (False, True):
            with pytest.raises(SourceError, match="NaN"):
                validation.host.export_prediction_from_logits(
                    diverged, properties, configuration, plans, description,
                    str(tmp_path / "c" / "case"), save,
                )  # fmt: skip
        with pytest.raises(SourceError, match="NaN"):
            validation.host.resample_and_save(
                diverged, [19, 16, 18], str(tmp_path / "c" / "next"), plans, configuration,
                properties, description, 1, None,
            )  # fmt: skip
    assert not list((tmp_path / "c").glob("*")), "nothing half-written"
    import blosc2

    for name in ("case.nii.gz", "probable.nii.gz"):
        one, other = (nib.load(tmp_path / d / name) for d in "ab")
        assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    for name in ("probable.npz", "probable.pkl"):
        assert (tmp_path / "b" / name).is_file()
    one, other = (blosc2.open(str(tmp_path / d / "next.b2nd")) for d in "ab")
    assert (one.dtype, one.chunks, one.blocks) == (other.dtype, other.chunks, other.blocks)
    assert np.array_equal(one[:], other[:])


def test_our_trainers_validate_with_it(monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from atlas_nnunet.trainers.atlas_transfer import AtlasTransferTrainer
    from atlas_nnunet.training import validation

    used = []
    monkeypatch.setattr(
        nnUNetTrainer, "perform_actual_validation",
        lambda trainer, save: used.append(validation.host.export_prediction_from_logits),
    )  # fmt: skip
    trainer = object.__new__(AtlasTransferTrainer)
    trainer.training = Training()
    trainer.has_trained = False
    trainer.perform_actual_validation()
    assert used == [validation.export_case]


def validate(host, plans, configuration, description, logits, properties, out: Path):
    """The calls of `perform_actual_validation`."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    out.mkdir()
    for name, save in (("case", False), ("probable", True)):
        host.export_prediction_from_logits(
            logits, properties, configuration, plans, description, str(out / name), save
        )
    host.resample_and_save(logits, [19, 16, 18], str(out / "next"), plans, configuration,
                           properties, description, 1, nnUNetDatasetBlosc2)  # fmt: skip
