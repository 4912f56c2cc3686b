"""Networks beside nnU-Net's own, as a table: what planning, transfer and training must know.

The SuPreM suite and STU-Net. Arguments are those of the published weights: SuPreM 76e1a64
(supervised_pretraining/train.py, backbone/Universal_model.py), Models Genesis 104f487
(pytorch/unet3d.py) and STU-Net 0652eaf (nnUNet-2.2, STUNetTrainer.py: base). No torch here: the
command line reads the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]


def all_halved(levels: int) -> list[list[int]]:
    """Strides of each level, finest first, where each halves every axis of the one above."""
    return [[1] * 3, *([2] * 3 for _ in range(levels - 1))]


@dataclass(frozen=True)
class Network:
    """A network of one depth, all of whose axes are halved alike, with one output.

    Attributes:
        name: As `plan --network` takes it.
        class_name: Dotted path, as a plan names it.
        published: Arguments of the published weights.
        halvings: Arguments -> how often each axis is halved, at most where it `follows`.
        kernels: In words, for `plan --explain`.
        purpose: For `--help`.
        follows: Which axes a level halves is nnU-Net's choice for the data set, since no weight
            depends on it; and there is an output at each resolution, as nnU-Net's own have it.
    """

    name: str
    class_name: str
    halvings: Callable[[Arguments], int]
    kernels: str
    purpose: str
    published: Arguments = field(default_factory=dict)
    follows: bool = False

    def strides(
        self, arguments: Arguments, planned: Sequence[Sequence[int]] | None = None
    ) -> list[list[int]]:
        """Of each level, finest first, as nnU-Net's plans have them.

        Args:
            arguments: Of the network.
            planned: nnU-Net's choice, for a network that follows it: what goes deeper is left out,
                levels that are lacking halve nothing. Without it every axis is halved.
        """
        levels = self.halvings(arguments) + 1
        if not self.follows or planned is None:
            return all_halved(levels)
        known = [[int(step) for step in level] for level in planned[:levels]]
        return known + [[1] * 3 for _ in range(levels - len(known))]

    def divisor(self, arguments: Arguments) -> int:
        """What every axis of a patch is a multiple of."""
        return 2 ** self.halvings(arguments)

    def complete(
        self, arguments: Arguments | None = None, planned: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Any]:
        """`arch_kwargs` of a plan: the published arguments where none are given, and strides."""
        own = dict(self.published if arguments is None else arguments)
        return {**own, "strides": self.strides(own, planned)}


# Which of its eight neighbours a merged voxel of Swin UNETR reads. MONAI read two of them twice and
# two never until 1.5 (its issue 8284), and so do the weights that were trained with it: SuPreM's,
# the Universal Model's, VoCo's. No shape tells the two apart.
BEFORE, SINCE = "monai_before_1.5", "monai_1.5"

NETWORKS = {network.name: network for network in (
    Network(
        "unet", "atlas_nnunet.networks.UNet3D", lambda arguments: 3, "3, up-convolutions 2",
        "the U-Net of Models Genesis and SuPreM, batch norm", {"width": 32},
    ),
    Network(
        "segresnet", "atlas_nnunet.networks.SegResNet",
        lambda arguments: len(arguments["blocks_down"]) - 1, "3",
        "MONAI's SegResNet with SuPreM's widths",
        {"init_filters": 16, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]},
    ),
    Network(
        "swinunetr", "atlas_nnunet.networks.SwinUNETR", lambda arguments: 5,
        "attention in windows of 7, convolutions of 3", "MONAI's Swin UNETR with SuPreM's widths",
        {"feature_size": 48, "depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24],
         "window_size": 7, "patch_size": 2, "merging": BEFORE},
    ),
    Network(
        "stunet", "atlas_nnunet.networks.STUNet", lambda arguments: len(arguments["dims"]) - 1, "3",
        "STU-Net, of the base size: residual blocks, and nnU-Net's strides",
        {"dims": [32, 64, 128, 256, 512, 512], "depth": [1] * 6}, follows=True,
    ),
)}  # fmt: skip


def of_class(class_name: str) -> Network | None:
    """The row of a class that a plan names; None for a network of another family."""
    return next((own for own in NETWORKS.values() if own.class_name == class_name), None)


def has_deep_supervision(class_name: str) -> bool:
    """Whether a network gives outputs at lower resolutions too, as nnU-Net's own do."""
    own = of_class(class_name)
    return own is None or own.follows


def described(class_name: str, arguments: Arguments) -> str:
    """A network in one line, for people."""
    kind = class_name.rsplit(".", 1)[-1]
    if "n_stages" in arguments:
        widths = list(arguments["features_per_stage"])
        return f"{arguments['n_stages']} stages of {widths} features"
    own = ", ".join(f"{k} {v}" for k, v in arguments.items() if k != "strides")
    return f"{kind}, {own}"
