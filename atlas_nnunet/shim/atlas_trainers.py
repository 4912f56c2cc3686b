"""What nnU-Net imports when it looks for our trainers (`nnUNet_extTrainer` names this folder).

The host imports every file here as a top-level module and forgets it again (find_objects.py,
nnunetv2 2.8.1): a class *defined* here would differ from look-up to look-up and not pickle.
So nothing is defined here; the classes live in the installed package.
"""

from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer
from atlas_nnunet.trainers.atlas_transfer import AtlasTransferTrainer

__all__ = ["AtlasPretrainTrainer", "AtlasTransferTrainer"]
