"""The formats of checkpoints, as a table: how each is recognised, named, and accounted for.

A row claims a file by the entries beside its weights and by its keys. Rows exclude each other: a
file that two rows claim is an error of the table, a file that none claims needs a key table. What a
row does not name is unknown, and stops.

Keys are those of the published definitions (docs/decisions/0015-sources.md says which version of
each was read). No released file was opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_nnunet.errors import TransferError
from atlas_nnunet.transfer.sources import describe, unets
from atlas_nnunet.transfer.sources.stored import KEY_TABLE_HINT, Stored

CT = ("CT",)


@dataclass(frozen=True)
class Format:
    """A row.

    Attributes:
        name: For the report.
        of: Whose files these are.
        network: Finds the network out.
        has: Entries that the file must have; `a.b` is b in the mapping a.
        lacks: Entries that it must not have.
        keys: Patterns (re.search); some key must fit each.
        no_keys: Patterns that no key may fit.
        rename: Pattern -> replacement, applied in this order: key -> parameter.
        drop: Pattern -> why these keys are left out.
        absent: Pattern -> why these parameters may be absent, all or none of them.
        channels: Input channels, where the file names none.
        intensities: How the images were scaled, as published, where the file does not say.
    """

    name: str
    of: str
    network: describe.Describe
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    no_keys: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    intensities: str | None = None

    def claims(self, stored: Stored) -> bool:
        names, keys = stored.names, stored.weights

        def found(pattern: str) -> bool:
            return any(re.search(pattern, key) for key in keys)

        return (
            names.issuperset(self.has)
            and names.isdisjoint(self.lacks)
            and all(found(pattern) for pattern in self.keys)
            and not any(found(pattern) for pattern in self.no_keys)
        )


PLAN, ADAPTATION = "init_args.plans", "nnssl_adaptation_plan"

STATISTICS = {
    r"\.(running_mean|running_var|num_batches_tracked)$": "statistics of batch norm, no parameter"
}
# DESIGN 3.4: a ResidualEncoderUNet of nnU-Net lists 956 keys for 264 parameters.
ALIASES = {
    r"^decoder\.encoder\.": "the encoder again: nnU-Net's decoder points to it",
    r"\.all_modules\.\d+\.": "convolution and norm again: nnU-Net's block lists them twice",
}
UNET_DROP = {**ALIASES, **STATISTICS}
UNET_KEY = r"^(encoder|decoder)\.(stem|stages|transpconvs)\."
# nnssl 7044864, architectures/: what its methods put beside encoder and decoder.
NNSSL_DROP = {
    r"^(projector|project|projection_head)\.": "projection of a contrastive method",
    r"^(rotation|contrast|recon)_proj_head\.": "heads of nnssl's Swin UNETR tasks",
    r"^(densify_norms|densify_projs|mask_tokens)\.": "SparK's mask tokens and densifying layers",
    **UNET_DROP,
}
UNIVERSAL_DROP = {
    r"^organ_embedding": "text embedding of the class names",
    r"^text_to_vision\.": "maps text embeddings to image features",
    r"^controller\.": "makes the head's weights from text and image",
    r"^(precls_conv|GAP)\.": "feeds the head that the controller makes",
    **STATISTICS,
}
NO_HEAD = "the network was released without a segmentation head"
UNET3D_KEY = r"(^|\.)down_tr64\.ops\.0\.conv1\.weight$"
SWIN_KEY = r"(^|\.)(swinViT|swin_vit)\.patch_embed\.proj\.weight$"
FROM_BACKBONE = {r"^backbone\.": ""}
# MONAI renamed the layers of the MLP (fc1 -> linear1) and VoCo the transformer.
SWIN_RENAME = {**FROM_BACKBONE, r"^swin_vit\.": "swinViT.", r"\.mlp\.fc([12])\.": r".mlp.linear\1."}
SWIN_DROP = {r"\.relative_position_index$": "computed from the window, no parameter"}
SWIN_ABSENT = {
    r"^out\.": NO_HEAD,
    r"^decoder\d": "the file holds no decoder",
    r"^encoder\d": "the file holds the transformer alone",
}
SUPREM_HU = "CT clipped to [-175, 250] HU, scaled to [0, 1]"
PROJECTIONS = {r"^(student|teacher)\.layer": "projection of VoCo's contrastive task"}

# fmt: off
FORMATS: tuple[Format, ...] = (
    Format("nnunet", "nnU-Net v2 and ours; TotalSegmentator, MultiTalent v2, AtlasNet",
           describe.from_plan, has=(PLAN,), lacks=(ADAPTATION,),
           no_keys=(r"^conv_blocks_context\.",), drop={**UNET_DROP, **SWIN_DROP}),
    Format("nnssl", "nnssl: OpenMind, nnFoundation", unets.from_adaptation_plan,
           has=(ADAPTATION,), drop=NNSSL_DROP),
    Format("nnunet_weights", "weights of nnU-Net v2 without a plan: VoComni, SparK",
           unets.from_shapes, lacks=(PLAN, ADAPTATION), keys=(UNET_KEY,), drop=UNET_DROP),
    Format("stunet", "STU-Net, of nnU-Net v1 or v2", describe.stunet,
           keys=(r"^conv_blocks_context\.0\.0\.conv3\.weight$",), channels=CT),
    Format("models_genesis", "Models Genesis", describe.unet3d, lacks=(PLAN,),
           keys=(UNET3D_KEY, r"^out_tr\."), drop=STATISTICS, channels=CT,
           intensities="CT clipped to [-1000, 1000] HU, scaled to [0, 1]"),
    Format("universal_unet", "SuPreM and CLIP-Driven Universal Model with a U-Net",
           describe.unet3d, lacks=(PLAN,), keys=(UNET3D_KEY, r"^controller\."),
           rename=FROM_BACKBONE, drop=UNIVERSAL_DROP, absent={r"^out_tr\.": NO_HEAD}, channels=CT,
           intensities=SUPREM_HU),
    Format("unet3d_backbone", "the U-Net of SuPreM alone", describe.unet3d, lacks=(PLAN,),
           keys=(UNET3D_KEY,), no_keys=(r"^out_tr\.", r"^controller\."), drop=STATISTICS,
           absent={r"^out_tr\.": NO_HEAD}, channels=CT),
    Format("segresnet", "SegResNet of MONAI; SuPreM's", describe.segresnet, lacks=(PLAN,),
           keys=(r"^convInit\.conv\.weight$",)),
    Format("universal_swin_unetr", "SuPreM and CLIP-Driven Universal Model with a Swin UNETR",
           describe.swin_unetr, lacks=(PLAN,), keys=(SWIN_KEY, r"^controller\."),
           rename=SWIN_RENAME, drop={**UNIVERSAL_DROP, **SWIN_DROP}, absent={r"^out\.": NO_HEAD},
           channels=CT, intensities=SUPREM_HU),
    Format("voco_swin_unetr", "VoCo with its projection heads", describe.swin_unetr, lacks=(PLAN,),
           keys=(SWIN_KEY, r"^(student|teacher)\.layer"), no_keys=(r"^controller\.",),
           rename=SWIN_RENAME, drop={**PROJECTIONS, **SWIN_DROP}, absent=SWIN_ABSENT,
           channels=CT),
    Format("swin_unetr", "Swin UNETR of MONAI; SuPreM's and VoCo's alone", describe.swin_unetr,
           lacks=(PLAN,), keys=(SWIN_KEY,),
           no_keys=(r"^controller\.", r"^(student|teacher)\.layer"),
           rename=SWIN_RENAME, drop=SWIN_DROP, absent=SWIN_ABSENT),
)
# fmt: on


def recognise(stored: Stored, where: str) -> Format:
    """The one row that claims a file.

    Raises:
        TransferError: no row does, or more than one.
    """
    rows = [row for row in FORMATS if row.claims(stored)]
    if len(rows) == 1:
        return rows[0]
    first = list(stored.weights)[:5]
    told = f"formats {[row.name for row in rows]} all claim it" if rows else "of no known format"
    raise TransferError(
        f"{told}; entries beside the weights: {sorted(stored.entries)[:12]}; "
        f"{len(stored.weights)} keys, first: {first}",
        where=where,
        do=f"known are {', '.join(row.name for row in FORMATS)}; for another, {KEY_TABLE_HINT}",
    )
