"""atlas-nnunet: supervised pre-training for nnU-Net, one command for each arrow of the flow.

A command is a module with `arguments(parser)` and `run(args) -> exit code`. It is imported only
when it is called, so `atlas-nnunet --help` needs neither torch nor nnU-Net.

Exit codes: 0 all is done; 1 some cases were refused (the others are done), or a training stopped
and can be resumed; 2 a wrong call.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from atlas_nnunet.errors import AtlasError

# fmt: off
COMMANDS = {  # in pipeline order; the order of --help
    "demo":         "the whole flow, on a phantom or on your folders: scratch against transfer",
    "datasets":     "the data sets we know, and what each card says",
    "convert":      "source folders -> nnUNet_raw + conversion.json",
    "fingerprint":  "nnUNet_raw -> dataset_fingerprint.json",
    "plan":         "fingerprint -> plans, for pre-training or held to a source's network",
    "preprocess":   "nnUNet_raw + plans -> nnUNet_preprocessed",
    "train":        "plans + nnUNet_preprocessed -> checkpoint, as nnUNetv2_train does",
    "transfer":     "pre-trained checkpoint + plans -> transferred checkpoint + report",
    "predict":      "checkpoint + images -> label maps",
    "evaluate":     "predictions + references -> evaluation.json",
    "compare":      "several runs -> paired differences with intervals, curves, a page",
    "env":          "print what a shell exports so that nnU-Net finds our trainers",
}
# fmt: on


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        "atlas-nnunet",
        description=(__doc__ or "").splitlines()[0],
        epilog="example:\n  atlas-nnunet demo -o atlas-demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, arrow in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=arrow,
            description=arrow,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if argv and argv[0] == name:
            command = import_module(f"atlas_nnunet.{name}.command")
            command.arguments(sub)
            # The one command that runs the others gets this function, not an import of this layer.
            sub.set_defaults(call_run=command.run, call_main=main)
    args = parser.parse_args(argv)
    try:
        code = int(args.call_run(args) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except AtlasError as error:
        print(f"atlas-nnunet {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
