"""Which source parameter belongs to which target parameter: by role and level, not by index.

Two networks of different depth share levels counted *from the top* (the finest). nnU-Net counts
its encoder from the top and its decoder from the bottom (`decoder.stages.0` is the deepest stage),
so equal indices in the decoder are other levels.
"""

from __future__ import annotations

import re

# `decoder.stages.3.convs...`: index i of an n-stage network lies on level n - 2 - i
# (unet_decoder.py, dynamic_network_architectures 0.4.4; an up-convolution ends on that level).
_DECODER = re.compile(r"^decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.(.+)$")

GROUPS = ("encoder", "decoder", "head")


def address(name: str, n_stages: int) -> str:
    """A parameter's place in any nnU-Net U-Net: its name, with the decoder's level from the top."""
    found = _DECODER.match(name)
    if not found:
        return name
    part, index, rest = found.groups()
    return f"decoder.{part}.level{n_stages - 2 - int(index)}.{rest}"


def namesakes(
    source: list[str], source_stages: int, target: list[str], target_stages: int
) -> dict[str, str | None]:
    """Target parameter -> the source parameter at the same place, or None."""
    by_place = {address(name, source_stages): name for name in source}
    return {name: by_place.get(address(name, target_stages)) for name in target}


def group_of(name: str) -> str:
    """ "encoder", "decoder" or "head" (the segmentation layers of all resolutions)."""
    if ".seg_layers." in name:
        return "head"
    return "decoder" if name.startswith("decoder.") else "encoder"
