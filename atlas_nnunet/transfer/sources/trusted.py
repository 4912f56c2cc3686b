"""A plan inside a checkpoint names classes by dotted path: only known packages' modules are called.

`weights_only=True` keeps a pickle from running code. The plan would be a way round it: the host
imports whatever the plan names and calls it with whatever the plan says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pydoc import locate
from typing import Any

from torch import nn

from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import NetworkSpec

PACKAGES = ("dynamic_network_architectures.", "atlas_nnunet.networks.", "torch.nn.")


def trusted(spec: NetworkSpec, where: str) -> NetworkSpec:
    """The network, if all that it would call are network modules of PACKAGES.

    Raises:
        TransferError: a class from elsewhere, or something that is no module of a network.
    """
    # Plans of nnunetv2 before 2.4 name a module that is no longer there.
    class_name = spec.class_name.replace(".architectures.residual_unet.", ".architectures.unet.")
    for path in (class_name, *_imported(spec.arch_kwargs, spec.requires_import)):
        known = isinstance(path, str) and path.startswith(PACKAGES)
        # Names may lead out of a package again (`...unet.torch.hub.load`): look at what is there.
        found = locate(path) if known else None
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise TransferError(
                f"the plan inside names {path!r}, which is no network module of "
                f"{', '.join(package.rstrip('.') for package in PACKAGES)}: it is not called",
                where=where,
                do='if you trust it, name the network yourself: "network" in a key table',
            )
    return replace(spec, class_name=class_name)


def _imported(arch_kwargs: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    return [arch_kwargs[name] for name in names if arch_kwargs.get(name) is not None]
