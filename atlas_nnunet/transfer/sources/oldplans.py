"""Plans from before nnunetv2 2.4, which describe no architecture: the host reconstructs it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from atlas_nnunet.errors import PlanError
from atlas_nnunet.host import NetworkSpec, network_spec, resolve_configuration


def spec_of_any_age(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> NetworkSpec:
    """`network_spec`, for plans of every release of nnU-Net v2.

    Raises:
        PlanError: the plan describes no network that the host knows.
    """
    config = resolve_configuration(plans, configuration)
    if "architecture" in config or "UNet_class_name" not in config:
        return network_spec(plans, configuration, dataset_json)
    config = {**config, "architecture": _reconstructed(config)}
    config.pop("inherits_from", None)
    return network_spec({**plans, "configurations": {configuration: config}}, configuration,
                        dataset_json)  # fmt: skip


def _reconstructed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """`architecture` as the host reads it out of an old plan (plans_handler.py, 2.8.1)."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    try:
        with warnings.catch_warnings(action="ignore"):
            managed = ConfigurationManager(deepcopy(dict(configuration)))  # it changes its argument
    except (KeyError, RuntimeError) as error:
        raise PlanError(
            f"a plan older than nnunetv2 2.4, of which no network can be made: {error}",
            where=str(configuration["UNet_class_name"]),
            do="plan again with nnunetv2 >= 2.4: atlas-nnunet plan DATASET",
        ) from error
    return dict(managed.configuration["architecture"])
