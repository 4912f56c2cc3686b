"""A target parameter beside its namesake in the source, and what rules ask about the two."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from atlas_nnunet.networks.parts import group_of, reads_image
from atlas_nnunet.transfer.align import Match, address
from atlas_nnunet.transfer.heads import Heads
from atlas_nnunet.transfer.intensities import Affine

# What the adapting rules know: convolutions, norms, up-convolutions and heads of nnU-Net's U-Nets.
_KNOWN = re.compile(
    r"^((encoder|decoder)\..+\.(conv|norm)|decoder\.(transpconvs|seg_layers)\.\d+)\.(weight|bias)$"
)
_AFTER_CONCATENATION = re.compile(r"^decoder\.stages\.\d+\.convs\.0\.conv\.weight$")


@dataclass(frozen=True)
class Pair:
    """A target parameter and its namesake in the source, if there is one.

    Tensors may lie on torch's meta device: rules decide by name and shape alone.

    Attributes:
        name: Of the target's parameter.
        source: The namesake, as far as it is adapted.
        target: With nnU-Net's initialisation.
        heads: Which head rows go where.
        source_name: Of the namesake.
        across: The namesake is of an encoder of the other kind.
        missing: Why there is none (align.Match).
        folds: Difference in normalisation still to be folded, for the first convolution.
        companion: For its bias: its weight in the source.
    """

    name: str
    source: Tensor | None
    target: Tensor
    heads: Heads = field(default_factory=Heads)
    source_name: str | None = None
    across: bool = False
    missing: str = ""
    folds: tuple[Affine, ...] = ()
    companion: Tensor | None = None

    @property
    def is_head(self) -> bool:
        return group_of(self.name) == "head"

    @property
    def is_upsampling(self) -> bool:
        return ".transpconvs." in self.name

    @property
    def is_first(self) -> bool:
        """A convolution that sees the image, or its bias."""
        return is_first(self.name)

    @property
    def channel_axes(self) -> dict[str, int]:
        """Axis of the channels written ("out") and read ("in"), of those that may be resized."""
        axes = {"out": 0} if self.target.ndim < 3 else {"out": 0, "in": 1}
        if self.is_upsampling and self.target.ndim > 2:
            axes = {"out": 1, "in": 0}
        if self.is_head:
            axes.pop("out")
        if self.is_first:
            axes.pop("in", None)
        return axes

    @property
    def is_known(self) -> bool:
        """There is a namesake, of a kind that the adapting rules know."""
        return self.source is not None and _KNOWN.match(self.name) is not None

    @property
    def n_concatenated(self) -> int:
        """Feature maps that lie behind one another in what this convolution reads."""
        return 2 if _AFTER_CONCATENATION.match(self.name) else 1

    def channels(self) -> Iterable[tuple[str, int, int, int]]:
        """(side, axis, source's number, target's) of each channel axis."""
        for side, axis in self.channel_axes.items():
            yield side, axis, source_of(self).shape[axis], self.target.shape[axis]


def is_first(name: str) -> bool:
    """Whether a parameter belongs to a convolution that sees the image: mostly one, SwinUNETR has
    three."""
    return address(name, 0).startswith("encoder.first.conv.") or reads_image(name)


def takes_a_shift(names: Collection[str]) -> bool:
    """Whether every convolution that sees the image has a bias, for a shift of intensities."""
    weights = [name for name in names if is_first(name) and name.endswith("weight")]
    return bool(weights) and all(f"{n.removesuffix('weight')}bias" in names for n in weights)


def source_of(pair: Pair) -> Tensor:
    if pair.source is None:
        raise ValueError(f"{pair.name} has no namesake: its rule must not ask for one")
    return pair.source


def pairs_of(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    found: Mapping[str, Match],
    heads: Heads,
    folds: tuple[Affine, ...] = (),
) -> list[Pair]:
    """One pair for each target parameter, in the target's order."""
    pairs = []
    for name, tensor in target.items():
        match = found[name]
        pair = Pair(name, source[match.source] if match.source else None, tensor, heads,
                    match.source, match.across, match.missing)  # fmt: skip
        if folds and pair.is_first and match.source:
            weight = (
                source[match.source.removesuffix("bias") + "weight"] if tensor.ndim < 2 else None
            )
            pair = replace(pair, folds=folds, companion=weight)
        pairs.append(pair)
    return pairs
