"""The host's count of what a patch makes a network hold, from shapes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from atlas_nnunet.host import NetworkSpec


def feature_map_voxels(
    patch_size: tuple[int, ...],
    n_inputs: int,
    n_outputs: int,
    class_name: str,
    arch_kwargs: Mapping[str, Any],
    requires_import: tuple[str, ...],
) -> float:
    """What a patch makes a network hold, as the host counts: without deep supervision.

    The network has no memory (shapes decide alone), and is built once for the same question: plans
    for several sources ask it again and again.
    """
    words = [patch_size, n_inputs, n_outputs, class_name, dict(arch_kwargs), requires_import]
    return _feature_map_voxels(json.dumps(words, default=int))


@lru_cache(maxsize=4096)
def _feature_map_voxels(words: str) -> float:
    patch_size, n_inputs, n_outputs, class_name, arch_kwargs, requires_import = json.loads(words)
    channels, heads = (tuple(map(str, range(n))) for n in (n_inputs, n_outputs))
    spec = NetworkSpec(class_name, arch_kwargs, tuple(requires_import), channels, heads)
    network: Any = spec.build_empty(deep_supervision=False)
    return float(network.compute_conv_feature_map_size(patch_size))
