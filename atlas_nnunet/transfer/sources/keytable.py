"""A table of keys that the user gives, for a checkpoint that no format claims."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas_nnunet.errors import AtlasError, CollectedError, TransferError
from atlas_nnunet.host import NetworkSpec, read_json
from atlas_nnunet.transfer.sources.describe import (
    UNSTATED,
    Described,
    Tensors,
    built_shapes,
    plan_of,
)
from atlas_nnunet.transfer.sources.example import EXAMPLE
from atlas_nnunet.transfer.sources.formats import Format
from atlas_nnunet.transfer.sources.oldplans import spec_of_any_age
from atlas_nnunet.transfer.sources.stored import Stored


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _patterns(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        return False
    try:
        return all(re.compile(pattern) for pattern in value)
    except re.error:
        return False


def _network(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= {"class_name", "arch_kwargs", "requires_import"}
        and isinstance(value.get("class_name"), str)
        and isinstance(value.get("arch_kwargs"), dict)
        and _texts(value.get("requires_import", []))
    )


# Field -> what it must be, and the test.
FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "network": ("class_name, arch_kwargs and perhaps requires_import", _network),
    "plans": ("the path of a plans file beside its dataset.json", lambda v: isinstance(v, str)),
    "configuration": ("the name of a configuration of plans", lambda v: isinstance(v, str)),
    "weights": ("the name of an entry of the file", lambda v: isinstance(v, str)),
    "prefix": ("a list of texts", _texts),
    "keys": ("an object, pattern: replacement", _patterns),
    "drop": ("an object, pattern: reason", _patterns),
    "absent": ("an object, pattern: reason", _patterns),
    "channels": ("a list of names", _texts),
    "heads": ("a list of names", _texts),
}


@dataclass(frozen=True)
class KeyTable:
    """What a user says of a checkpoint; without a network it adds to the format that claims it.

    Attributes:
        spec: The network, where the table names one.
        plans: Its plan, where there is one.
        dataset_json: Of the plan's data set.
        configuration: Of the plan.
        content: The table, as written.
    """

    spec: NetworkSpec | None = None
    plans: Mapping[str, Any] | None = None
    dataset_json: Mapping[str, Any] = field(default_factory=dict)
    configuration: str = UNSTATED
    content: Mapping[str, Any] = field(default_factory=dict)

    def patterns(self, name: str) -> dict[str, str]:
        return dict(self.content.get(name, {}))

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(self.content.get(name, ()))

    def describe(self, stored: Stored, tensors: Tensors, where: str) -> Described:
        """The network that the table names."""
        if self.spec is None:
            raise ValueError("a table without a network describes none")
        plans = plan_of(None) if self.plans is None else self.plans
        shapes = built_shapes(self.spec, where)
        return Described(self.spec, shapes, plans, self.dataset_json, self.configuration)

    def row(self) -> Format:
        """The format of a file whose network the table names."""
        return Format("key_table", "a key table's", self.describe)


def read_key_table(path: Path) -> KeyTable:
    """A table, held to FIELDS.

    Raises:
        CollectedError: every field that is unknown or not what it must be.
        TransferError: no network where one is needed to make sense of the fields.
        PlanError: it is no JSON, or the plan it names is none.
    """
    content = read_json(path, f"write one like this:\n{EXAMPLE}")
    problems = _problems(content, str(path))
    if problems:
        raise CollectedError(problems)
    if "plans" in content:
        plans_path = path.parent / content["plans"]
        hint = 'mend "plans" in the key table; dataset.json must lie beside it'
        plans = read_json(plans_path, hint)
        dataset_json = read_json(plans_path.parent / "dataset.json", hint)
        configuration = content.get("configuration", "3d_fullres")
        spec = spec_of_any_age(plans, configuration, dataset_json)
        spec = _with_names(spec, content)
        return KeyTable(spec, plans, dataset_json, configuration, content)
    if "network" not in content:
        return KeyTable(content=content)
    network = content["network"]
    spec = NetworkSpec(
        network["class_name"], network["arch_kwargs"], tuple(network.get("requires_import", ())),
        tuple(content["channels"]), tuple(content["heads"]),
    )  # fmt: skip
    return KeyTable(spec, content=content)


def _with_names(spec: NetworkSpec, content: Mapping[str, Any]) -> NetworkSpec:
    return replace(
        spec,
        channels=tuple(content.get("channels", spec.channels)),
        heads=tuple(content.get("heads", spec.heads)),
    )


def _problems(content: Any, where: str) -> list[AtlasError]:
    def problem(what: str) -> TransferError:
        return TransferError(what, where=where, do=f"a key table looks like this:\n{EXAMPLE}")

    if not isinstance(content, dict):
        return [problem("a key table is an object")]
    found: list[AtlasError] = [
        problem(f'"{name}" is no field; there are {sorted(FIELDS)}')
        for name in content if name not in FIELDS
    ]  # fmt: skip
    found += [
        problem(f'"{name}" is {content[name]!r}, not {what}')
        for name, (what, fits) in FIELDS.items() if name in content and not fits(content[name])
    ]  # fmt: skip
    if {"network", "plans"} <= set(content):
        found.append(problem('both "network" and "plans": one of them names the network'))
    if "network" in content:
        found += [
            problem(f'"network" needs "{name}" beside it: they tell how many there are')
            for name in ("channels", "heads") if not content.get(name)
        ]  # fmt: skip
    return found
