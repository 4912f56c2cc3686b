"""atlas-nnunet env: print what a shell must export for nnU-Net to find our trainers."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from atlas_nnunet.artefacts import ROOTS
from atlas_nnunet.hosttraining import trainer_path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, help="also set nnU-Net's three folders to subfolders of this one"
    )
    parser.epilog = 'example:\n  eval "$(atlas-nnunet env --root $HOME/nnunet)"'


def exports(root: Path | None) -> dict[str, str]:
    """Variables and their values; `nnUNet_extTrainer` names a folder that holds one shim."""
    values = {"nnUNet_extTrainer": trainer_path()}
    if root is not None:
        values |= {name: str(root.resolve() / name) for name in ROOTS}
    return values


def run(args: argparse.Namespace) -> int:
    for name, value in exports(args.root).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
