"""AtlasPretrainTrainer: nnU-Net's training, told what is not labelled, as long as its plan says.

    eval "$(atlas-nnunet env)"
    nnUNetv2_train 701 3d_fullres all -tr AtlasPretrainTrainer -p AtlasPretrainPlans

nnU-Net may import this file as a top-level module and forget it afterwards (find_objects.py,
nnunetv2 2.8.1), so: absolute imports only, a name no other module has, nothing defined here that
a worker process would have to unpickle.
"""

from pathlib import Path
from typing import Any

import torch

from atlas_nnunet.artefacts import Dataset, whole_file, write_json
from atlas_nnunet.errors import PlanError
from atlas_nnunet.networks.shapes import outgrown
from atlas_nnunet.networks.suite import has_deep_supervision
from atlas_nnunet.progress import current
from atlas_nnunet.settings import of_plans
from atlas_nnunet.training.averaging import Anchor, Average
from atlas_nnunet.training.determinism import arithmetic
from atlas_nnunet.training.distributed import Ranks
from atlas_nnunet.training.fed import FedTrainer
from atlas_nnunet.training.groups import PhaseScheduler, parameter_groups
from atlas_nnunet.training.loading import seed_everything
from atlas_nnunet.training.loss import Regions, build_loss, known_structures
from atlas_nnunet.training.online import by_structure, summary
from atlas_nnunet.training.precision import choose_precision
from atlas_nnunet.training.status import StatusWeights
from atlas_nnunet.training.steps import confusion
from atlas_nnunet.training.validation import our_export
from atlas_nnunet.training.watched import CURVES_FILE
from atlas_nnunet.training.weights import bare, refuse_bad_weights
from atlas_nnunet.transfer.align import place

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.99, "nesterov": True}),  # nnUNetTrainer.py, 2.8.1
    "adamw": (torch.optim.AdamW, {}),  # SuPreM: supervised_pretraining/train.py
}

CURVES = {"train_loss": "train_losses", "val_loss": "val_losses", "dice": "mean_fg_dice"}


class AtlasPretrainTrainer(FedTrainer):
    """Dice + cross-entropy weighted by label status; length, rates and seed from the plan.

    The same plan on the same machine gives the same weights on a CPU; on a GPU only where the plan
    is made with `--deterministic` (docs/decisions/0027).
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the host's signature, verbatim
    ) -> None:
        # The host looks its own parameters up by the names in this signature
        # (nnUNetTrainer.py:115-117, nnunetv2 2.8.1): adding one raises KeyError.
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.training = of_plans(self.plans_manager.plans)
        self.num_epochs = self.training.epochs
        self.num_iterations_per_epoch = self.training.iterations
        self.num_val_iterations_per_epoch = self.training.val_iterations
        self.initial_lr = self.training.learning_rate
        self.weight_decay = self.training.weight_decay
        self.save_every = self.training.save_every
        self.average: Average | None = None
        self.anchor: Anchor | None = None
        # The host builds, supervises and predicts by this one switch (nnUNetTrainer.py:161, 2.8.1).
        network = self.configuration_manager.network_arch_class_name
        self.enable_deep_supervision = has_deep_supervision(network)
        self.precision = choose_precision(self.device)
        if not self.precision.needs_scaler:
            self.grad_scaler = None

    def initialize(self) -> None:
        if self.label_manager.has_ignore_label:
            raise PlanError(
                "nnU-Net's ignore label is not supported by the loss of this trainer",
                where=self.plans_manager.dataset_name,
                do="train with -tr nnUNetTrainer, or convert the set with label status instead",
            )
        dataset = Dataset(self.plans_manager.dataset_name)
        self.status = StatusWeights.of_dataset(self.dataset_json, dataset.conversion_for_training)
        seed_everything(self.training.seed)
        super().initialize()
        if self.rank > 0:  # equal weights on all ranks, but not equal draws of dropout
            seed_everything(self.training.seed, self.rank)
        if self.precision.wants_room:  # looking copies the network: not on a GPU
            patch = self.configuration_manager.patch_size
            maps = outgrown(bare(self.network), self.num_input_channels, patch)
            self.precision = self.precision.for_maps(maps)
        self.regions = (
            Regions(self.label_manager.foreground_regions).to(self.device)
            if self.label_manager.has_regions
            else None
        )
        self.print_to_log_file(self.status.summary())
        self.print_to_log_file(f"precision: {self.precision.dtype} ({self.precision.because})")

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhaseScheduler]:
        arch = self.configuration_manager.network_arch_init_kwargs
        n_stages = arch.get("n_stages", 0)
        groups = parameter_groups(
            bare(self.network).named_parameters(), lambda name: place(name, n_stages)
        )
        kind, options = OPTIMIZERS[self.training.optimizer]
        optimizer = kind(groups, self.initial_lr, weight_decay=self.weight_decay, **options)
        if self.training.ema_decay:
            self.average = Average(optimizer, self.training.ema_decay)
        return optimizer, PhaseScheduler(optimizer, self.training.phases)

    def _build_loss(self) -> torch.nn.Module:
        plan, cpu = self.configuration_manager, torch.device("cpu")
        cases = [""] if self.status.conversion is None else self.do_split()[0]
        weights = self.status(cases, cpu)[:, self.status.background :]
        structures = known_structures(weights, self.plans_manager.dataset_name)
        self.print_to_log_file(f"loss: divided by {structures:g} structures in every batch")
        return build_loss(
            self.label_manager.has_regions, plan.batch_dice, structures,
            Ranks.of_process(plan.batch_size),
            n_outputs=len(self._get_deep_supervision_scales() or ()),
            every_output=self.is_ddp and not self._do_i_compile(),
        )  # fmt: skip

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not at all: the host writes in place, and a kill meanwhile loses the run."""
        if self.rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        refuse_bad_weights(self.network, filename)
        # A stream has no name: torch.save names the archive in the file after the path.
        with whole_file(Path(filename), synced=True) as partial, partial.open("wb") as stream:
            super().save_checkpoint(stream)

    def on_train_start(self) -> None:
        if self.training.l2_sp and self.anchor is None:
            raise PlanError(
                "the plan's l2_sp pulls to transferred weights, and this trainer loads none",
                where=self.plans_manager.plans_name, do="train with -tr AtlasTransferTrainer",
            )  # fmt: skip
        super().on_train_start()
        per_epoch = self.num_iterations_per_epoch
        if self.average is not None:
            self.average.n_updates = self.current_epoch * per_epoch
        if self.rank == 0:
            current().begin(self.current_epoch * per_epoch, self.num_epochs * per_epoch)

    def on_epoch_end(self) -> None:
        """Also leave the curves where a program can read them: the host only draws them."""
        super().on_epoch_end()
        if self.rank == 0:
            curves = {ours: [float(v) for v in self.logger.get_value(key, step=None)]
                      for ours, key in CURVES.items()}  # fmt: skip
            history = self.logger.get_value("dice_per_class_or_region", step=None)
            self.print_to_log_file(summary(self.status.structures, history))
            more = by_structure(self.status.structures, history) | self.watch_epoch(curves)
            write_json(Path(self.output_folder) / CURVES_FILE, curves | more)
            current().epoch(**{name: values[-1] for name, values in curves.items()})

    def on_train_end(self) -> None:
        if self.average is not None:
            self.average.put_in()
        super().on_train_end()

    def _to_device(self, batch: dict) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        target = batch["target"]
        targets = [t.to(self.device, non_blocking=True) for t in _as_list(target)]
        if self.regions is not None:
            targets = [self.regions(t) for t in targets]
        data = batch["data"].to(self.device, non_blocking=True)
        return data, targets, self.status(batch["keys"], self.device)

    def _loss_of(self, outputs: Any, targets: list, weights: torch.Tensor) -> torch.Tensor:
        if self.enable_deep_supervision:
            return self.loss(outputs, targets, weights)
        return self.loss(outputs, targets[0], weights)

    def train_step(self, batch: dict) -> dict:
        self.guard.begin(batch, self.network)
        data, targets, weights = self._to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            outputs = self.network(data)
        loss = self._loss_of(outputs, targets, weights)
        if self.grad_scaler is not None:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        self._step(loss)
        if self.rank == 0:
            current().step()
        return {"loss": loss.detach().cpu().numpy()}

    def _step(self, loss: torch.Tensor) -> None:
        """From gradients to weights; nothing changes where loss or gradients are not finite."""
        self.lr_scheduler.drop_frozen_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if not self.guard.allows_step(norm, loss, self.grad_scaler):
            if self.average is not None:
                self.average.skip()
            return
        if self.anchor is not None:
            self.anchor.add_gradients()
        if self.grad_scaler is not None:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def validation_step(self, batch: dict) -> dict:
        data, targets, weights = self._to_device(batch)
        with self.precision.autocast():
            outputs = self.network(data)
        loss = self._loss_of(outputs, targets, weights)
        self.guard.check_validation(loss, batch)
        finest = outputs[0] if self.enable_deep_supervision else outputs
        tp, fp, fn = confusion(finest, targets[0], weights, self.label_manager.has_regions)
        return {
            "loss": loss.detach().cpu().numpy(),
            "tp_hard": tp.cpu().numpy(),
            "fp_hard": fp.cpu().numpy(),
            "fn_hard": fn.cpu().numpy(),
        }

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        if not self.wants_validation():
            return
        with our_export(), arithmetic(self.training.deterministic):
            super().perform_actual_validation(save_probabilities)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]
