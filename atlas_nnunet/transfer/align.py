"""Which source parameter belongs to which target parameter: by role and level, not by index.

Two networks of different depth share levels counted *from the top* (the finest). nnU-Net counts
its encoder from the top and its decoder from the bottom (`decoder.stages.0` is the deepest stage),
so equal indices in the decoder are other levels. Where feature maps of equal size in mm lie on
other levels, the source is shifted against the target (levels.py).

Plain and residual encoders have the first convolution in common, and from level 1 on the two
convolutions of a stage and of its first block, which have the same shapes.

Networks that are not made of such stages have no addresses: their parameters match by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_nnunet.networks.parts import GROUPS, group_of

# `decoder.stages.3.convs...`: index i of an n-stage network lies on level n - 2 - i
# (unet_decoder.py, dynamic_network_architectures 0.4.4; an up-convolution ends on that level).
_DECODER = re.compile(r"^decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.(.+)$")
_ENCODER = re.compile(r"^encoder\.stages\.(\d+)\.(.+)$")
_FIRST = re.compile(r"^encoder\.(stem|stages\.0\.0)\.convs\.0\.(.+)$")
_LEVEL = re.compile(r"level(\d+)")
# The skip path is a pooling, if strided, and a convolution, if widths differ (residual.py:88-100).
_SKIP = re.compile(r"\.skip\.\d+\.")

# Place in a target of the other kind -> place in the source. Not on level 0: its first block adds
# its input unchanged, so it has no place for a plain stage's convolution.
_ACROSS = (
    (re.compile(r"^(encoder\.level[1-9]\d*\.)blocks\.0\.conv1\."), r"\1convs.0."),
    (re.compile(r"^(encoder\.level[1-9]\d*\.)blocks\.0\.conv2\."), r"\1convs.1."),
    (re.compile(r"^(encoder\.level[1-9]\d*\.)convs\.0\."), r"\1blocks.0.conv1."),
    (re.compile(r"^(encoder\.level[1-9]\d*\.)convs\.1\."), r"\1blocks.0.conv2."),
)


@dataclass(frozen=True)
class Match:
    """What the source has for a target parameter.

    Attributes:
        source: Name of the parameter in the source, or None.
        across: It comes from an encoder of the other kind (plain or residual).
        missing: Why there is none: "" (there is one), "unasked" (nobody asked for it), "part"
            (the source has no such group), "level" (no such level), "block_end" (last norm of a
            block that the source lacks), "block" (the rest of one), "skip" (the source is plain
            and computes this stage without), "conv" (a plain stage of the source has fewer
            convolutions), "role" (nothing of that kind).
    """

    source: str | None
    across: bool = False
    missing: str = ""


def address(name: str, n_stages: int) -> str:
    """A parameter's place in any nnU-Net U-Net: its name, with the level from the top."""
    if found := _DECODER.match(name):
        part, index, rest = found.groups()
        return f"decoder.{part}.level{n_stages - 2 - int(index)}.{rest}"
    if found := _FIRST.match(name):
        return f"encoder.first.{found.group(2)}"
    if found := _ENCODER.match(name):
        level, rest = found.groups()
        rest = re.sub(r"^0\.convs", "convs", rest)  # a plain stage is a Sequential of one stack
        return f"encoder.level{level}." + _SKIP.sub(".skip.", rest)
    return name


def matches(
    source: Sequence[str], source_stages: int, target: Sequence[str], target_stages: int,
    shift: int = 0,
) -> dict[str, Match]:  # fmt: skip
    """Target parameter -> what the source has for it.

    Args:
        source: Names of the source's parameters.
        source_stages: Its number of stages.
        target: Names of the target's.
        target_stages: Its number of stages.
        shift: Target level l is served by source level l + shift.
    """
    by_place = {address(name, source_stages): name for name in source}
    mixed = is_residual(source) != is_residual(target)
    ends = _block_ends(target)
    out: dict[str, Match] = {}
    for name in target:
        own = address(name, target_stages)
        place = _LEVEL.sub(lambda m: f"level{int(m.group(1)) + shift}", own)
        across = _crossed(place) if mixed else None
        found = by_place.get(across or place)
        if found:
            out[name] = Match(found, across=across is not None)
        else:
            out[name] = Match(None, missing=_why(place, by_place, mixed, name in ends))
    return out


def namesakes(
    source: Sequence[str], source_stages: int, target: Sequence[str], target_stages: int
) -> dict[str, str | None]:
    """Target parameter -> the source parameter at the same place, or None."""
    found = matches(source, source_stages, target, target_stages)
    return {name: match.source for name, match in found.items()}


def is_residual(names: Sequence[str]) -> bool:
    """Whether these are the parameters of a residual encoder."""
    return any(".blocks." in name for name in names)


def place(name: str, n_stages: int) -> tuple[str, int]:
    """A parameter's part, and how many layers lie between its output and the network's.

    The head has 0, the decoder 1 on its finest level, the encoder most on its own finest, which
    every image passes first. In a network without nnU-Net's stages a part is one layer.
    """
    part, level = group_of(name), _LEVEL.search(address(name, n_stages))
    if part == "head" or not n_stages:
        return part, GROUPS[::-1].index(part)
    from_top = int(level.group(1)) if level else 0
    return part, 1 + from_top if part == "decoder" else 2 * n_stages - 1 - from_top


def _crossed(place: str) -> str | None:
    """The place in an encoder of the other kind, where it has one."""
    return next((p.sub(new, place) for p, new in _ACROSS if p.match(place)), None)


def _why(place: str, by_place: Mapping[str, str], mixed: bool, is_end: bool) -> str:
    level = _LEVEL.search(place)
    if not level:
        return "role" if group_of(place) in map(group_of, by_place) else "part"
    part = place.split(".", 1)[0]
    if not any(p.startswith(f"{part}.") for p in by_place):
        return "part"
    if not any(p.startswith(f"{part}.") and f"{level.group()}." in p for p in by_place):
        return "level"
    if ".skip." in place:
        # Without the plain stage's second convolution the block's own path is still at zero.
        second = f"encoder.{level.group()}.convs.1.conv.weight"
        return "skip" if mixed and second in by_place else "role"
    block = re.search(r"\.blocks\.(\d+)\.", place)
    if block and (not mixed or int(block.group(1)) > 0 or level.group() == "level0"):
        return "block_end" if is_end else "block"
    return "conv" if ".convs." in place else "role"


def _block_ends(names: Sequence[str]) -> set[str]:
    """Weights and biases of the norm that closes each residual block: of its last convolution."""
    found = [re.match(r"^(.*\.blocks\.\d+)\.conv(\d)\.norm\.", n) for n in names]
    last: dict[str, str] = {}
    for match in found:
        if match:
            last[match.group(1)] = max(last.get(match.group(1), ""), match.group(2))
    return {
        match.string for match in found if match and last[match.group(1)] == match.group(2)
    }  # fmt: skip
