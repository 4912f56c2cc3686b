"""Which part of a network a parameter belongs to, told by its name: nnU-Net's and the suite's."""

from __future__ import annotations

import re

GROUPS = ("encoder", "decoder", "head")

# Read from the top; the last row always applies. Heads are nnU-Net's and STUNet's segmentation
# layers of all resolutions, and UNet3D's, SegResNet's and SwinUNETR's last convolution.
_GROUPS = (
    (re.compile(r"\.seg_layers\.|^(out_tr|conv_final\.2|out|seg_outputs\.\d+)\."), "head"),
    (re.compile(r"^(decoder\d?|up_tr\d+|up_layers|up_samples|conv_final"
                r"|upsample_layers|conv_blocks_localization)\."), "decoder"),
    (re.compile(""), "encoder"),
)  # fmt: skip
# Of the suite's networks, in their order. SwinUNETR reads the image three times, STUNet twice.
_READS_IMAGE = re.compile(
    r"^(down_tr64\.ops\.0\.conv1|convInit\.conv"
    r"|swinViT\.patch_embed\.proj|encoder1\.layer\.conv[13]\.conv"
    r"|conv_blocks_context\.0\.0\.conv[13])\."
)


def group_of(name: str) -> str:
    """ "encoder", "decoder" or "head"."""
    return next(group for pattern, group in _GROUPS if pattern.search(name))


def reads_image(name: str) -> bool:
    """Whether a parameter of one of the suite's networks belongs to a layer on the image."""
    return _READS_IMAGE.match(name) is not None
