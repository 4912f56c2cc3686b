"""atlas_nnunet: pre-train nnU-Net on AbdomenAtlas, transfer to a target data set, evaluate."""

__version__ = "0.1.0"
