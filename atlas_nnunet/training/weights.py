"""Put transferred weights into a network that nnU-Net may have wrapped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from atlas_nnunet.errors import TrainingError, TransferError


def bare(network: nn.Module) -> nn.Module:
    """The network under DistributedDataParallel and torch.compile."""
    network = getattr(network, "module", network)
    return getattr(network, "_orig_mod", network)


def stored_weights(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["network_weights"]


def start_from(network: nn.Module, checkpoint: Path) -> int:
    """Copy every parameter in place (so optimizer and DDP keep theirs); return how many.

    Raises:
        TransferError: a parameter is missing, left over, or of another shape.
    """
    stored = stored_weights(checkpoint)
    own = dict(bare(network).named_parameters())
    # A state dict lists aliases beside the parameters (DESIGN 3.4): what is left over is judged
    # by the network's own state dict.
    unknown = stored.keys() - bare(network).state_dict().keys()
    differing = sorted((own.keys() - stored.keys()) | unknown)
    differing += sorted(n for n in own.keys() & stored.keys() if own[n].shape != stored[n].shape)
    if differing:
        raise TransferError(
            f"{len(differing)} parameter(s) do not fit the network, first: {differing[0]}",
            where=str(checkpoint),
            do="the plan changed after the transfer: run 'atlas-nnunet transfer' again",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
    return len(own)


def refuse_bad_weights(network: nn.Module, checkpoint: str) -> None:
    """Call before a checkpoint replaces the last one.

    Raises:
        TrainingError: a weight is not finite.
    """
    for name, value in bare(network).state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"{name} holds values that are not finite: no checkpoint is written",
                where=checkpoint,
                do="the checkpoint before is whole: run the same command again (nnUNetv2_train: "
                "with --c) to resume from it",
            )
