"""AtlasTransferTrainer: fine-tune from a transferred checkpoint, by the schedule in the plan.

    eval "$(atlas-nnunet env)"
    atlas-nnunet transfer 501 -c 3d_fullres -p AtlasTransferPlans --from checkpoint_final.pth
    nnUNetv2_train 501 3d_fullres 0 -tr AtlasTransferTrainer -p AtlasTransferPlans

The schedule "scratch" is the baseline: the same trainer and plan, nothing loaded.
"""

from pathlib import Path

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.errors import TransferError
from atlas_nnunet.host import read_json
from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer
from atlas_nnunet.training.averaging import Anchor
from atlas_nnunet.training.weights import bare, start_from, stored_weights


class AtlasTransferTrainer(AtlasPretrainTrainer):
    """Start from transferred weights, train by the plan's schedule."""

    def on_train_start(self) -> None:
        """Load before the first epoch only: resuming, validating and predicting never need it."""
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0 and self.training.transfers:
            n = start_from(self.network, self.transferred())
            self.print_to_log_file(f"started from {self.transferred()}: {n} parameters")
        if self.training.l2_sp:
            self.anchor = self._anchor()
        super().on_train_start()

    def transferred(self) -> Path:
        """The file to start from.

        Raises:
            TransferError: there is none.
        """
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
        return start

    def _anchor(self) -> Anchor:
        """L2-SP on every parameter that came whole from the source, by the report."""
        plans, configuration = self.plans_manager.plans_name, self.configuration_name
        report = Dataset(self.plans_manager.dataset_name).transfer_report(plans, configuration)
        rows = read_json(report, "atlas-nnunet transfer writes it")["rows"]
        pulled = {row["parameter"] for row in rows if not row["kept"]}
        named = bare(self.network).named_parameters()
        start = stored_weights(self.transferred())
        return Anchor({n: p for n, p in named if n in pulled}, start, self.training.l2_sp)
