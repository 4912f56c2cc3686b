"""AtlasTransferTrainer: fine-tune from a transferred checkpoint, by the schedule in the plan.

    eval "$(atlas-nnunet env)"
    atlas-nnunet transfer 501 -c 3d_fullres -p AtlasTransferPlans --from checkpoint_final.pth
    nnUNetv2_train 501 3d_fullres 0 -tr AtlasTransferTrainer -p AtlasTransferPlans

The schedule "scratch" is the baseline: the same trainer and plan, nothing loaded.
"""

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.errors import TransferError
from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer
from atlas_nnunet.training.weights import start_from


class AtlasTransferTrainer(AtlasPretrainTrainer):
    """Start from transferred weights, train the new head first, then everything."""

    def on_train_start(self) -> None:
        """Load before the first epoch only: resuming, validating and predicting never need it."""
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0 and self.training.schedule != "scratch":
            self.start_from_transferred()
        super().on_train_start()

    def start_from_transferred(self) -> None:
        plans, configuration = self.plans_manager.plans_name, self.configuration_name
        dataset = self.plans_manager.dataset_name
        start = Dataset(dataset).transferred(plans, configuration)
        if not start.is_file():
            raise TransferError(
                "no transferred checkpoint for this data set, plan and configuration",
                where=str(start),
                do=f"atlas-nnunet transfer {dataset} -c {configuration} -p {plans} "
                "--from PRETRAINED/fold_all/checkpoint_final.pth",
            )
        n = start_from(self.network, start)
        self.print_to_log_file(f"started from {start}: {n} parameters")
