"""Planners: nnU-Net's method, with presets, a training section, and held to a source's network."""

from atlas_nnunet.planners.pretrain import AtlasPretrainPlanner
from atlas_nnunet.planners.transfer import AtlasTransferPlanner

__all__ = ["AtlasPretrainPlanner", "AtlasTransferPlanner"]
