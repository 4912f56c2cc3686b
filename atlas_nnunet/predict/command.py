"""atlas-nnunet predict: checkpoint + images -> label maps, with nnUNetv2_predict's arguments."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from atlas_nnunet.artefacts import Dataset, root, sweep, whole_file
from atlas_nnunet.errors import PlanError
from atlas_nnunet.execution import Workers, map_cases, print_refused
from atlas_nnunet.host import check_device, dataset_name, read_json, use_our_trainers
from atlas_nnunet.rawdata import channel_files


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", dest="images", type=Path, required=True,
                        help="folder of CASE_0000.nii.gz, CASE_0001.nii.gz, ...")  # fmt: skip
    parser.add_argument("-o", dest="output", type=Path, required=True)
    parser.add_argument("-d", dest="dataset", required=True, help="number or name")
    parser.add_argument("-p", dest="plans", default="AtlasTransferPlans")
    parser.add_argument("-tr", dest="trainer", default="AtlasTransferTrainer")
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    parser.add_argument("-f", dest="folds", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth")
    parser.add_argument("-step_size", type=float, default=0.5)
    parser.add_argument("--disable_tta", action="store_true", help="no test-time mirroring")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("-np", dest="processes", type=int, default=1,
                        help="cases at once, on a CPU")  # fmt: skip
    parser.epilog = (
        "example:\n  atlas-nnunet predict -i imagesTs -o predicted -d 507 -f 0 -device cuda"
    )


def run(args: argparse.Namespace) -> int:
    from atlas_nnunet.predict.case import Job, Model, cores, predict_case, processes_for

    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_results")))
    folder = dataset.run(args.trainer, args.plans, args.configuration, args.folds[0]).parent
    missing = [f for f in args.folds if not (folder / f"fold_{f}" / args.checkpoint).is_file()]
    if missing:
        raise PlanError(
            f"folds {missing} have no {args.checkpoint}", where=str(folder),
            do="name the trained folds with -f, or train them: atlas-nnunet train",
        )  # fmt: skip
    dataset_json = read_json(folder / "dataset.json", "atlas-nnunet train")
    cases = channel_files(args.images, dataset_json["file_ending"])
    if not cases:
        raise PlanError(f"no images *_0000{dataset_json['file_ending']}", where=str(args.images),
                        do="name the folder of images with -i")  # fmt: skip
    check_device(args.device)
    use_our_trainers()
    processes = processes_for(args.device, args.processes)
    model = Model(
        folder, tuple(args.folds), args.checkpoint, args.step_size, not args.disable_tta,
        args.device, max(1, cores() // processes),
    )  # fmt: skip
    key = model.key()
    jobs = {
        case: Job(case, files, args.output / (case + dataset_json["file_ending"]),
                  args.output / "atlas_nnunet" / f"{case}.json", model, key)
        for case, files in cases.items()
    }  # fmt: skip
    sweep(args.output)
    done, refused = map_cases(predict_case, jobs, workers=Workers(processes), describe="predict")
    for name in ("dataset.json", "plans.json"):  # as nnUNetv2_predict leaves them there
        with whole_file(args.output / name) as partial:
            shutil.copyfile(folder / name, partial)
    print_refused(refused)
    print(f"{sum(done.values())} of {len(jobs)} cases were new; written: {args.output}")
    return 1 if refused else 0
