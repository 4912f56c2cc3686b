"""atlas-nnunet plan: fingerprint -> plans."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atlas_nnunet.artefacts import Dataset, root
from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import channel_names, dataset_name, find_planner, read_json
from atlas_nnunet.networks.suite import NETWORKS
from atlas_nnunet.plan.modes import DEFAULT, MODES
from atlas_nnunet.plan.presets import PRESETS
from atlas_nnunet.plan.sampling_options import NAMES as SAMPLING_OPTIONS
from atlas_nnunet.plan.sampling_options import add_arguments, read_sampling
from atlas_nnunet.schedule import table
from atlas_nnunet.settings import Training

# Options that become settings of the plan's training section (settings.py): type, explanation.
SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "schedule": (str, "what trains when, and how fast, a row of the table below"),
    "epochs": (int, "all phases together; default 1000"),
    "iterations": (int, "in an epoch; default 250"),
    "val_iterations": (int, "in an epoch, for the online Dice; default 50"),
    "learning_rate": (float, "highest; default: the schedule's"),
    "optimizer": (str, "sgd or adamw; default: the schedule's"),
    "weight_decay": (float, "default: the schedule's"),
    "seed": (int, "of batches and initialisation; default 0"),
    "ema_decay": (float, "end with the average of the weights, 0.999 for one"),
    "l2_sp": (float, "pull to the transferred weights, 0.01 for one"),
    "save_every": (int, "epochs between two checkpoints; default 50"),
    "prefetch_gb": (float, "memory in GB for batches prepared ahead, on each rank; default 4"),
}
PRESET = "resenc_m"
PRETRAIN, TRANSFER = "AtlasPretrainPlanner", "AtlasTransferPlanner"
# Argument -> planners that heed it; what is not here, nnunetv2's heed too.
HEEDED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*SETTINGS, "preset", "network", "explain", "final_validation",
                     "deterministic"),
                    (PRETRAIN, TRANSFER)),
    **dict.fromkeys(SAMPLING_OPTIONS, (PRETRAIN, TRANSFER)),
    **dict.fromkeys(("source", "key_table", "mode", "l2_sp"), (TRANSFER,)),
    "targets": (PRETRAIN,),
}  # fmt: skip
SPELT = {"source": "--from", "targets": "--for"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="number (701) or name (Dataset701_AbdomenAtlas11Mini)")
    parser.add_argument(
        "-pl", dest="planner", default="AtlasPretrainPlanner",
        help="AtlasPretrainPlanner (default), AtlasTransferPlanner, or a planner of nnunetv2",
    )  # fmt: skip
    parser.add_argument("-p", dest="plans", help="name of the plans file; default: the planner's")
    _source_arguments(parser)
    parser.add_argument(
        "--preset", choices=sorted(PRESETS),
        help=f"default: {PRESET}. "
        + "; ".join(f"{name}: {p.purpose}" for name, p in PRESETS.items()),
    )  # fmt: skip
    parser.add_argument(
        "--network", choices=sorted(NETWORKS),
        help="instead of nnU-Net's U-Net, in configurations of volumes. "
        + "; ".join(f"{name}: {own.purpose}" for name, own in sorted(NETWORKS.items())),
    )  # fmt: skip
    parser.add_argument("--memory-gb", type=float, help="GPU memory to fill, not the preset's")
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM",
        help="spacing of 3d_fullres, (z, y, x) mm, instead of nnU-Net's choice",
    )  # fmt: skip
    parser.add_argument(
        "--fingerprint", type=Path, metavar="FILE",
        help="plan for this fingerprint, of several data sets together (fingerprint -o)",
    )  # fmt: skip
    parser.add_argument(
        "--for", dest="targets", nargs="+", metavar="DATASET",
        help="for AtlasPretrainPlanner: the spacing (the set's own, or one of these targets') "
        "whose network serves these targets best; prints which share of each it will serve",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true", default=None,
        help="say why spacing, patch, strides, batch and network are as they are",
    )  # fmt: skip
    parser.add_argument(
        "--final-validation", action=argparse.BooleanOptionalAction,
        help="predict and score the validation cases after training; default: for every fold but "
        "'all', whose validation cases are all training cases",
    )  # fmt: skip
    parser.add_argument(
        "--deterministic", action="store_true", default=None,
        help="train with deterministic algorithms only: the same weights in every run on the same "
        "GPU, but slower (a CPU does so anyway)",
    )  # fmt: skip
    settings = parser.add_argument_group("of the training, kept in the plan")
    for name, (kind, text) in SETTINGS.items():
        settings.add_argument("--" + name.replace("_", "-"), type=kind, help=text)
    add_arguments(parser)
    parser.epilog = (
        "example:\n  atlas-nnunet plan 701 --preset resenc_l\n"
        "  atlas-nnunet plan 507 -pl AtlasTransferPlanner --from fold_all/checkpoint_final.pth\n"
        "  atlas-nnunet plan 701 --fingerprint together.json\n"
        "  atlas-nnunet plan 701 --for 501 502 503 --explain\n"
        "  atlas-nnunet plan 507 -pl AtlasTransferPlanner --from FILE --schedule scratch\n"
        "  atlas-nnunet plan 701 --network swinunetr --memory-gb 24\n"
        f"schedules:\n{table()}"
    )


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    """What AtlasTransferPlanner plans after."""
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE",
        help="the source, for AtlasTransferPlanner: a checkpoint, or a plans file beside its "
        "dataset.json",
    )  # fmt: skip
    parser.add_argument(
        "--key-table", type=Path, metavar="FILE",
        help="JSON that explains a checkpoint of another format; transfer --help shows one",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=sorted(MODES),
        help=f"for AtlasTransferPlanner; default: {DEFAULT}. "
        + "; ".join(f"{name}: {mode.purpose}" for name, mode in MODES.items()),
    )  # fmt: skip
    parser.add_argument("-c", dest="configuration", default="3d_fullres",
                        help="the configuration of --from, where it is a plans file")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    name = dataset_name(args.dataset, root("nnUNet_raw"), root("nnUNet_preprocessed"))
    if not Dataset(name).fingerprint.is_file():
        raise PlanError(
            "no fingerprint", where=str(Dataset(name).fingerprint),
            do=f"atlas-nnunet fingerprint {name}",
        )  # fmt: skip
    kind = find_planner(args.planner)
    ours = kind.__module__.startswith("atlas_nnunet.")
    _refuse_misplaced(args)
    planner = kind(name, **(_our_options(args, kind) if ours else _host_options(args)))
    if args.fingerprint:  # in place of what the host has read from its own folder
        planner.dataset_fingerprint = _read_fingerprint(args.fingerprint, planner.dataset_json)
    if args.targets:
        print(_choose(planner, args.targets))
    log = io.StringIO()
    with contextlib.redirect_stdout(log):  # the host prints every configuration as a dict
        plans = planner.plan_experiment()
    print(planner.explain(plans) if ours else log.getvalue())
    if args.explain:
        print("why:", planner.reasons(plans), sep="\n")
    print(f"written: {Dataset(name).plans(planner.plans_identifier)}")
    return 0


def _read_fingerprint(path: Path, dataset_json: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint of other cases than the data set's own.

    Raises:
        PlanError: it is none, or one of images with other channels.
    """
    hint = "atlas-nnunet fingerprint DATASET DATASET ... -o FILE"
    found = read_json(path, hint)
    if "foreground_intensity_properties_per_channel" not in found:
        raise PlanError("not a fingerprint", where=str(path), do=hint)
    own = channel_names(dataset_json)
    numbers = sorted(found["foreground_intensity_properties_per_channel"], key=int)
    channels = found.get("atlas_nnunet", {}).get("channel_names", own[: len(numbers)])
    if len(numbers) != len(own) or [c.casefold() for c in channels] != [c.casefold() for c in own]:
        raise PlanError(
            f"it describes {len(numbers)} channel(s) ({', '.join(channels)}), "
            f"the data set has {', '.join(own)}", where=str(path), do=hint,
        )  # fmt: skip
    return found


def _refuse_misplaced(args: argparse.Namespace) -> None:
    """Options that the chosen planner would not heed.

    Raises:
        PlanError: one was given.
    """
    for name, planners in HEEDED_BY.items():
        value = getattr(args, name)
        if value is not None and args.planner not in planners:
            option = SPELT.get(name, "--" + name.replace("_", "-"))
            raise PlanError(f"{args.planner} takes no {option}",
                            do=f"leave it out, or give -pl {' or '.join(planners)}")  # fmt: skip


def _choose(planner: Any, targets: list[str]) -> str:
    """The table of what was compared; the planner has taken the best."""
    names = [dataset_name(t, root("nnUNet_raw"), root("nnUNet_preprocessed")) for t in targets]
    return planner.choose_for(list(dict.fromkeys(names)))


def _our_options(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    settings = {setting: getattr(args, setting) for setting in SETTINGS}
    settings |= {name: getattr(args, name) for name in ("final_validation", "deterministic")}
    settings["sampling"] = read_sampling(args, kind.default_sampling)
    # A wrong setting is told before the search for a patch, not after it.
    Training.of_schedule(args.schedule or kind.default_schedule, settings)
    options: dict[str, Any] = {
        "preset": args.preset or PRESET,
        "training": settings,
        "memory_target_gb": args.memory_gb,
        "plans_name": args.plans,
        "overwrite_target_spacing": args.spacing,
        "network": args.network,
    }
    if hasattr(kind, "read_source"):
        if args.source is None:
            raise PlanError(
                f"{args.planner} needs a source network",
                do="give --from CHECKPOINT.pth, or --from PLANS.json beside its dataset.json",
            )
        options["source"] = kind.read_source(args.source, args.configuration, args.key_table)
        options["mode"] = args.mode or DEFAULT
    return options


def _host_options(args: argparse.Namespace) -> dict[str, Any]:
    given = {"plans_name": args.plans, "overwrite_target_spacing": args.spacing,
             "gpu_memory_target_in_gb": args.memory_gb}  # fmt: skip
    return {k: v for k, v in given.items() if v is not None}
