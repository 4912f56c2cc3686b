"""atlas-nnunet transfer: pre-trained checkpoint + plans -> transferred checkpoint + report."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_nnunet.artefacts import Dataset, content_hash, file_hash, root, whole_file, write_json
from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import (
    dataset_name,
    network_spec,
    read_json,
    resolve_configuration,
)
from atlas_nnunet.hosttraining import check_device
from atlas_nnunet.leakage import sentences
from atlas_nnunet.networks.parts import GROUPS
from atlas_nnunet.structures import canonical
from atlas_nnunet.transfer.pilot import EPOCHS, Pilot, run_pilot
from atlas_nnunet.transfer.sources.example import EXAMPLE

if TYPE_CHECKING:
    from atlas_nnunet.transfer.checkpoints import Source

VERSION = 3  # of the rules: raise it when the same source would give other weights


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="target: number (507) or name (Dataset507_Pancreas)")
    parser.add_argument("-p", dest="plans", default="AtlasTransferPlans")
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    parser.add_argument("--from", dest="source", type=Path, required=True,
                        help="checkpoint of the pre-training: ours, nnU-Net v2, nnssl, STU-Net, "
                        "VoCo, Models Genesis, SuPreM, Universal Model, MONAI")  # fmt: skip
    parser.add_argument("--key-table", type=Path, metavar="FILE",
                        help="JSON that explains a checkpoint of another format")  # fmt: skip
    parser.add_argument("--floor", type=float, default=0.5,
                        help="least share of encoder and decoder, as far as --parts names them, "
                        "from the source")  # fmt: skip
    parser.add_argument("--levels", choices=("top", "spacing", "auto"), default="top",
                        help="match levels from the finest, by the feature maps' spacing in mm, or "
                        "by the one that fits better")  # fmt: skip
    parser.add_argument("--no-fold", action="store_true",
                        help="leave a difference in CT normalisation to the training")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=GROUPS, default=list(GROUPS),
                        help="what comes from the source; default: all")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="for what is not in the source")
    pilot = parser.add_argument_group("does it help?")
    pilot.add_argument("--pilot", nargs="*", metavar="FOLD", choices=tuple("01234"),
                       help="train both arms, scratch and transfer, briefly on these folds "
                       "(default 0), and say whether transfer helps")  # fmt: skip
    pilot.add_argument("--pilot-epochs", type=int, default=EPOCHS, metavar="N",
                       help=f"of each arm; default {EPOCHS}")  # fmt: skip
    pilot.add_argument("-device", choices=("cuda", "cpu", "mps"), default="cuda",
                       help="that the pilot trains on")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.epilog = (
        "example:\n  atlas-nnunet transfer 507 --from fold_all/checkpoint_final.pth\n"
        "then:\n  nnUNetv2_train 507 3d_fullres 0 -tr AtlasTransferTrainer -p AtlasTransferPlans\n"
        "does it help, before weeks of training:\n"
        "  atlas-nnunet transfer 507 --from fold_all/checkpoint_final.pth --pilot 0 1\n"
        f"a key table (--key-table), every field optional:\n{EXAMPLE}"
    )


def run(args: argparse.Namespace) -> int:
    if args.pilot is not None:
        check_device(args.device)
        root("nnUNet_results")  # asked for now, not after the transfer
        if args.dry_run:
            raise TransferError(
                "--dry-run writes nothing, a pilot does", do="leave one of them out"
            )
    dataset = Dataset(dataset_name(args.dataset, root("nnUNet_preprocessed"), root("nnUNet_raw")))
    code = _transfer(args, dataset)
    if args.pilot is None:
        return code
    folds = tuple(dict.fromkeys(args.pilot)) or ("0",)
    pilot = Pilot(
        dataset, args.plans, args.configuration, folds, args.pilot_epochs, args.device
    )  # fmt: skip
    return code or run_pilot(pilot, args.call_main)


def _transfer(args: argparse.Namespace, dataset: Dataset) -> int:
    from atlas_nnunet.transfer.checkpoints import read_checkpoint, read_key_table
    from atlas_nnunet.transfer.page import receipt_page
    from atlas_nnunet.transfer.receipt import refuse_below
    from atlas_nnunet.transfer.rules import Decision
    from atlas_nnunet.transfer.starting import write_checkpoint

    hint = f"atlas-nnunet plan {dataset.name} -pl AtlasTransferPlanner --from {args.source}"
    plans = read_json(dataset.plans(args.plans), hint)
    dataset_json = read_json(dataset.preprocessed / "dataset.json", hint)
    table = read_key_table(args.key_table) if args.key_table else None
    source = read_checkpoint(args.source, table)
    key = content_hash([
        source.sha256, plans, dataset_json, args.configuration, args.seed, args.levels,
        args.no_fold, sorted(set(args.parts)), VERSION, *([table.content] if table else []),
    ])  # fmt: skip
    target = dataset.transferred(args.plans, args.configuration)
    report = dataset.transfer_report(args.plans, args.configuration)
    if target.is_file() and report.is_file():
        known = json.loads(report.read_text())
        if known["key"] == key and known["checkpoint_sha256"] == file_hash(target):
            made = [Decision(**row) for row in known["rows"]]
            refuse_below(args.floor, made, str(args.source), args.parts)  # another floor, perhaps
            print(f"done before: {target}")
            return 0
    network, content = _start(args, source, dataset, plans, dataset_json)
    if args.dry_run:
        return 0
    write_checkpoint(target, network, plans, args.configuration, dataset_json, source.sha256)
    content = {**content, "key": key, "checkpoint_sha256": file_hash(target)}
    with whole_file(report.with_suffix(".html")) as partial:
        partial.write_text(receipt_page(content))
    write_json(report, content)
    print(f"written: {target}\nwritten: {report}, and .html")
    return 0


def _start(
    args: argparse.Namespace, source: Source, dataset: Dataset, plans: dict[str, Any],
    dataset_json: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The network with its starting weights and what is to be said of it, printed and returned.

    Raises:
        TransferError: too little comes from the source, or heads cannot be joined.
    """
    from atlas_nnunet.transfer.checkpoints import refuse_other_network
    from atlas_nnunet.transfer.forward import as_table, look
    from atlas_nnunet.transfer.heads import heads_table
    from atlas_nnunet.transfer.intensities import affine, scheme
    from atlas_nnunet.transfer.levels import choose_levels
    from atlas_nnunet.transfer.pair import takes_a_shift
    from atlas_nnunet.transfer.patch import MOST_VOX, patch_size, real_patch, wanted_labels
    from atlas_nnunet.transfer.receipt import receipt, refuse_below
    from atlas_nnunet.transfer.shares import Shares
    from atlas_nnunet.transfer.starting import start_target

    ends = (source.plans, source.configuration), (plans, args.configuration)
    spec = network_spec(plans, args.configuration, dataset_json)
    refuse_other_network(source, spec, str(args.source))
    print(_accounted(source))
    names = {name: canonical(name) for name in (*source.spec.heads, *spec.heads)}
    levels = choose_levels(args.levels, *ends)
    own = [name for name, _ in spec.build_empty().named_parameters()]
    foldable = takes_a_shift(source.parameters) and takes_a_shift(own)
    folds = affine(*(scheme(*end) for end in ends)) if foldable and not args.no_fold else ()
    network, decisions, heads = start_target(
        source, spec, names, args.seed, shift=levels.shift, folds=folds, parts=set(args.parts)
    )
    print(Shares.of(decisions).table())
    refuse_below(args.floor, decisions, str(args.source), args.parts)
    print(heads_table(heads))
    config = resolve_configuration(plans, args.configuration)
    cases = dataset.preprocessed / str(config.get("data_identifier"))
    planned = config.get("patch_size") or [MOST_VOX] * len(spec.arch_kwargs["strides"][0])
    size = patch_size(planned, spec, source.spec)
    wanted = wanted_labels(heads, dataset_json, names)
    patch, which = real_patch(cases, size, len(spec.channels), wanted)
    found = look(source, network, patch, heads, shift=levels.shift, folds=folds)
    print(f"correlation and decisions of source and target, {which}:\n{as_table(found)}")
    content = receipt(
        source, decisions, heads, plans, args.configuration, "", spec=spec, levels=levels,
        folds=folds, patch=which, forward=found,
    )  # fmt: skip
    shared = _leakage(dataset, source.plans.get("dataset_name"))
    said = [levels.why, f"normalisation: {content['normalisation']['said']}", *content["notes"]]
    print(*said, *shared, sep="\n")
    return network, {**content, "overlap": shared}


def _accounted(source: Source) -> str:
    """What was read and what was left, in one line each."""
    lines = [f"format {source.format}: {len(source.parameters)} parameters"]
    for kind, left in (("left out", source.dropped), ("not in the file", source.absent)):
        reasons = Counter(left.values())
        lines += [f"  {kind}, {n}: {reason}" for reason, n in sorted(reasons.items())]
    return "\n".join(lines)


def _leakage(dataset: Dataset, pretraining: str | None) -> list[str]:
    """Which of the target's cases the source was trained on, as far as somebody looked."""
    path = dataset.conversion if dataset.conversion.is_file() else dataset.conversion_for_training
    if pretraining is None or not path.is_file():
        return ["whether the source was trained on cases of the target is not known"]
    conversion = json.loads(path.read_text())
    return sentences(conversion, conversion["cases"], pretraining)
