"""Put a source's weights into a target network, and write it as nnU-Net writes a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atlas_nnunet.artefacts import whole_file
from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.networks.parts import GROUPS, group_of
from atlas_nnunet.transfer.align import Match, matches
from atlas_nnunet.transfer.checkpoints import Source
from atlas_nnunet.transfer.heads import Heads, canonical_heads
from atlas_nnunet.transfer.intensities import Affine
from atlas_nnunet.transfer.pair import pairs_of
from atlas_nnunet.transfer.rules import Decision, transfer


def start_target(
    source: Source, spec: NetworkSpec, names: Mapping[str, str], seed: int,
    *, shift: int = 0, folds: tuple[Affine, ...] = (), parts: Collection[str] = GROUPS,
) -> tuple[nn.Module, list[Decision], Heads]:  # fmt: skip
    """The target network with its starting weights.

    Args:
        source: The pre-trained network.
        spec: The target's.
        names: Head name -> canonical structure.
        seed: Of nnU-Net's initialisation, for what does not come from the source.
        shift: Of levels (levels.py).
        folds: Difference in normalisation to fold into the first convolution (intensities.py).
        parts: Of GROUPS, what is to come from the source.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = spec.build()
    own = dict(network.named_parameters())
    stages = source.spec.n_stages, spec.n_stages
    found = matches(list(source.parameters), stages[0], list(own), stages[1], shift)
    unasked = Match(None, missing="unasked")
    found = {n: match if group_of(n) in parts else unasked for n, match in found.items()}
    rows = source.spec.heads if "head" in parts else ()
    heads = canonical_heads(rows, spec.heads, names)
    weights, decisions = transfer(pairs_of(source.parameters, own, found, heads, folds))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return network, decisions, heads


def network_of(source: Source) -> tuple[nn.Module, bool]:
    """The source's own network with its weights, and whether the source has all of them."""
    network = source.spec.build(initialise=False)
    own = dict(network.named_parameters())
    with torch.no_grad():
        for name in own.keys() & source.parameters.keys():
            own[name].copy_(source.parameters[name])
    return network, own.keys() <= source.parameters.keys()


def write_checkpoint(
    path: Path, network: nn.Module, plans: Mapping[str, Any], configuration: str,
    dataset_json: Mapping[str, Any], source_sha256: str,
) -> None:  # fmt: skip
    """nnU-Net's own format (nnUNetTrainer.save_checkpoint, nnunetv2 2.8.1), equal bytes for equal
    content: our trainer starts from it, and so does `nnUNetv2_train -pretrained_weights`."""
    checkpoint = {
        "network_weights": network.state_dict(),
        "current_epoch": 0,
        "init_args": {
            "plans": dict(plans), "configuration": configuration, "fold": "all",
            "dataset_json": dict(dataset_json),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
        "atlas_nnunet": {"source_sha256": source_sha256},
    }  # fmt: skip
    # torch names the archive after the file: a buffer has no name, so the bytes have none either.
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with whole_file(path, synced=True) as partial:
        partial.write_bytes(buffer.getvalue())
