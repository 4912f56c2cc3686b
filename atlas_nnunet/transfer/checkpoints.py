"""Read a pre-trained checkpoint, whoever wrote it, without running a line of it.

Formats are rows of `sources/formats.py`. Every key of a file is a parameter, dropped for a reason
that `Source.dropped` keeps, or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from atlas_nnunet.artefacts import file_hash
from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.transfer.sources.account import account, renamed
from atlas_nnunet.transfer.sources.describe import UNSTATED, Described, plan_of
from atlas_nnunet.transfer.sources.formats import Format, recognise
from atlas_nnunet.transfer.sources.keytable import KeyTable, read_key_table
from atlas_nnunet.transfer.sources.safely import load_safely
from atlas_nnunet.transfer.sources.stored import Stored, stripped, take_apart

__all__ = ["KeyTable", "Source", "load_safely", "read_checkpoint", "read_key_table"]


@dataclass(frozen=True)
class Source:
    """A pre-trained network.

    Attributes:
        parameters: By the names of `named_parameters()`, aliases dropped.
        spec: The network they belong to, whole: `absent` names what the file does not have.
        plans: The plan it was trained by; where the file has none, one that says how intensities
            were scaled, if that is published, and nothing else.
        dataset_json: Of its data set; empty where the file has none.
        configuration: Its configuration.
        trainer: Name of its trainer class.
        sha256: Of the file.
        format: Row of the table of formats, or "key_table".
        dropped: Key or entry of the file that is no parameter -> why.
        absent: Parameter of the network that the file does not have -> why.
    """

    parameters: Mapping[str, Tensor]
    spec: NetworkSpec
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    configuration: str
    trainer: str
    sha256: str
    format: str = "nnunet"
    dropped: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path, key_table: KeyTable | None = None) -> Source:
    """A checkpoint of any format that we know, or that a key table explains.

    Raises:
        TransferError: unsafe or damaged (see `load_safely`), of no known format, or its keys and
            shapes are not those of its network.
        PlanError: the plan inside describes no network.
    """
    table, where = key_table or KeyTable(), str(path)
    stored = take_apart(
        load_safely(path), where,
        wrapper=table.content.get("weights"), prefixes=table.names("prefix"),
    )  # fmt: skip
    own = renamed(stored.weights, table.patterns("keys"), table.patterns("drop"), where)
    stored = Stored(stripped(own.tensors), stored.entries, {**stored.dropped, **own.dropped})
    row = table.row() if table.spec else recognise(stored, where)
    named = renamed(stored.weights, row.rename, row.drop, where)
    found = row.network(stored, named.tensors, where)
    absent = {**table.patterns("absent"), **row.absent, **found.absent}
    parameters, without = account(named, found.shapes, absent, where)
    spec = _named(found, row, table, where)
    stated = found.configuration != UNSTATED
    return Source(
        parameters, replace(spec, absent=tuple(without)),
        found.plans if stated else plan_of(row.intensities), found.dataset_json,
        found.configuration, str(stored.entries.get("trainer_name")), file_hash(path),
        row.name, {**stored.dropped, **named.dropped}, without,
    )  # fmt: skip


def _named(found: Described, row: Format, table: KeyTable, where: str) -> NetworkSpec:
    """The network with the names that a key table, or else the format, gives channels and heads.

    Raises:
        TransferError: the table names another number of them than there are.
    """
    spec = found.spec
    channels = spec.channels
    if not found.dataset_json and len(row.channels) == len(channels):
        channels = row.channels
    names = {"channels": channels, "heads": spec.heads}
    for kind, own in names.items():
        given = table.names(kind) or own
        if len(given) != len(own):
            raise TransferError(
                f"the key table names {len(given)} {kind}, the weights have {len(own)}",
                where=where, do=f'mend "{kind}" in the key table',
            )  # fmt: skip
        names[kind] = given
    return replace(spec, channels=names["channels"], heads=names["heads"])


def refuse_other_network(source: Source, spec: NetworkSpec, where: str) -> None:
    """Networks that are not made of nnU-Net's stages have no parameters in common with others.

    Raises:
        TransferError: the source is such a network, and the target is another; or both are Swin
            UNETRs of one shape and another function.
    """
    staged = "n_stages" in source.spec.arch_kwargs and "n_stages" in spec.arch_kwargs
    what, has = source.spec.class_name, spec.class_name
    if what == has:
        what, has = (f"{what} ({s.arch_kwargs.get('merging')})" for s in (source.spec, spec))
    if staged or what == has:
        return
    planned = f"atlas-nnunet plan DATASET -pl AtlasTransferPlanner --from {where}"
    raise TransferError(
        f"a source of network {what} (format {source.format}) goes into that network only; the "
        f"plan has {has}",
        where=where,
        do=f"plan the target with the source's network ({planned}), or take another source",
    )
