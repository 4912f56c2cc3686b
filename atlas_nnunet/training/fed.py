"""nnU-Net's trainer, fed: which cases it trains on, and how its batches are drawn and prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from atlas_nnunet.artefacts import Dataset
from atlas_nnunet.training.determinism import untimed
from atlas_nnunet.training.distributed import first_rank_first
from atlas_nnunet.training.expected_sampling import record_sampling
from atlas_nnunet.training.failures import RememberedCases
from atlas_nnunet.training.loading import Batches, SeededBatches
from atlas_nnunet.training.prefetch import Prefetch, batch_bytes
from atlas_nnunet.training.watched import WatchedTrainer
from atlas_nnunet.training.weighted_loading import Drawing, WeightedLoader


class FedTrainer(WatchedTrainer):
    """Base of our trainers: batches by (seed, rank, stream, iteration), drawn as the plan says."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802
        rotation, dummy_2d, initial, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        first = 3 - len(self.configuration_manager.patch_size)  # a slice's axes are a volume's 1, 2
        axes = tuple(a for a in axes if a + first in self.training.mirror_axes)
        # None, not (): the stock predictor takes the maximum of what it is given.
        self.inference_allowed_mirroring_axes = axes or None
        return rotation, dummy_2d, initial, axes

    def do_split(self) -> tuple[list[str], list[str]]:
        """As the host does, in an order that no file system decides; one rank writes the file."""
        with first_rank_first():
            train, val = super().do_split()
        return sorted(train), sorted(val)

    def get_dataloaders(self) -> tuple[Batches, Batches]:
        scales = self._get_deep_supervision_scales()
        patch = self.configuration_manager.patch_size
        rotation, dummy_2d, initial, axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = self.label_manager.foreground_labels
        # regions=None: label maps travel, regions are looked up on the device (training/loss.py).
        common = {"is_cascaded": self.is_cascaded, "foreground_labels": labels, "regions": None}
        train_transforms = self.get_training_transforms(
            patch, rotation, scales, axes, dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm, **common,
        )  # fmt: skip
        val_transforms = self.get_validation_transforms(scales, **common)
        train, val = self.get_tr_and_val_datasets()
        bytes_each = batch_bytes(self.batch_size, self.num_input_channels, patch, scales)
        ahead = Prefetch.within(self.training.prefetch_gb, bytes_each, get_allowed_n_proc_DA())
        self.print_to_log_file(ahead.summary())
        drawing = Drawing.of_training(
            self.training.sampling, Dataset(self.plans_manager.dataset_name),
            Path(self.preprocessed_dataset_folder), train.identifiers, val.identifiers,
            self.dataset_json,
        )  # fmt: skip
        per_epoch = self.num_iterations_per_epoch, self.num_val_iterations_per_epoch
        return (
            self._batches("train", train, initial, train_transforms, per_epoch[0], ahead, drawing),
            self._batches("val", val, patch, val_transforms, per_epoch[1], ahead, None),
        )

    def _batches(
        self, stream: str, cases: Any, patch: Any, transforms: Any, per_epoch: int,
        ahead: Prefetch, drawing: Drawing | None,
    ) -> Batches:  # fmt: skip
        loader = WeightedLoader(
            RememberedCases(cases), self.batch_size, patch, self.configuration_manager.patch_size,
            self.label_manager, self.oversample_foreground_percent, drawing=drawing,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=untimed(transforms),
        )  # fmt: skip
        if drawing is not None:
            folder = Path(self.output_folder) if self.rank == 0 else None
            plans, seed = self.plans_manager.plans, self.training.seed
            self.print_to_log_file(record_sampling(loader, seed, plans, folder))
        seeded = SeededBatches(loader, self.training.seed, self.rank, stream)
        start, stop = self.current_epoch * per_epoch, self.num_epochs * per_epoch
        pin = self.device.type == "cuda"
        return Batches(seeded, start, stop, ahead.workers(stream), pin, ahead.factor)
