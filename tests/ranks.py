"""What two processes on a CPU do in tests of distributed training (gloo, torch.multiprocessing)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from atlas_nnunet.training.distributed import Ranks
from atlas_nnunet.training.loss import build_loss

SHARES = (slice(0, 2), slice(2, 3))  # how nnU-Net divides a batch of 3 between 2 ranks
CASES = [(r, b, o) for r in (True, False) for b in (True, False) for o in (1, 3)]
KNOWN = 2.5


def on_two_ranks(function: Callable[..., None], folder: Path, *args: Any) -> None:
    """function(rank, folder, *args) in two processes of one gloo group."""
    folder.mkdir(exist_ok=True)
    mp.spawn(_enter, (function, folder, args), nprocs=2)


def _enter(rank: int, function: Callable[..., None], folder: Path, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=8),
    )
    try:
        function(rank, folder, *args)
    finally:
        dist.destroy_process_group()


class Pyramid(nn.Module):
    """A plain network with an output at each of several resolutions."""

    def __init__(self, heads: int, outputs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv3d(1 if i == 0 else 4, 4, 3, stride=1 if i == 0 else 2, padding=1)
            for i in range(outputs)
        )
        self.heads = nn.ModuleList(nn.Conv3d(4, heads, 1) for _ in range(outputs))

    def forward(self, image: torch.Tensor) -> Any:
        outputs = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            image = torch.nn.functional.leaky_relu(stage(image))
            outputs.append(head(image))
        return outputs if len(outputs) > 1 else outputs[0]


def problem(has_regions: bool, outputs: int) -> tuple[Any, ...]:
    """A network with four heads, and a batch of 3: images, targets and weights of each case."""
    torch.manual_seed(outputs)
    network = Pyramid(4, outputs)
    images = torch.randn(3, 1, 8, 8, 8)
    if has_regions:
        finest = torch.rand(3, 4, 8, 8, 8) > 0.7
    else:
        finest = torch.randint(0, 4, (3, 1, 8, 8, 8))
    targets = [finest[..., :: 2**i, :: 2**i, :: 2**i] for i in range(outputs)]
    # On rank 1 nothing of the last structure is known, and everything else has other weights.
    weights = torch.tensor([[1, 1, 0.5, 1], [1, 0, 1, 0.25], [1, 0.5, 1, 0]])
    return network, images, targets, weights


def two_steps(case: tuple[bool, bool, int], network: nn.Module, part: slice, n: int) -> dict:
    """Loss and gradient of the first step, and the weights after two."""
    has_regions, batch_dice, outputs = case
    _, images, targets, weights = problem(has_regions, outputs)
    loss = build_loss(
        has_regions, batch_dice, KNOWN, Ranks.of_process(n),
        n_outputs=outputs if outputs > 1 else 0, every_output=True,
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    targets = [t[part] for t in targets]
    found: dict = {}
    for _ in range(2):
        optimizer.zero_grad()
        result = network(images[part])
        value = loss(result, targets if outputs > 1 else targets[0], weights[part])
        value.backward()
        gradients = [p.grad.clone() for p in network.parameters()]
        found = found or {"loss": value.detach(), "gradients": gradients}
        optimizer.step()
    return found | {"weights": [p.detach().clone() for p in network.parameters()]}


def steps_of_all_cases(rank: int, folder: Path) -> None:
    found = {}
    for case in CASES:
        network = DistributedDataParallel(problem(case[0], case[2])[0])
        found[case] = two_steps(case, network, SHARES[rank], 3)
    torch.save(found, folder / f"rank{rank}.pt")


def sums(rank: int, folder: Path) -> None:
    """Our sum with gradients and nnU-Net's, of the same tensors."""
    from nnunetv2.utilities.ddp_allgather import AllGatherGrad

    torch.manual_seed(rank)
    start = torch.randn(5)
    found = []
    for total in (Ranks.of_process(3).sum, lambda x: AllGatherGrad.apply(x).sum(0)):
        tensor = start.clone().requires_grad_()
        value = total(tensor)
        (value**2).sum().backward()
        found.append((value.detach(), tensor.grad))
    torch.save(found, folder / f"rank{rank}.pt")


def trainer_in(
    space: Path, results: Path, plans: str, *, resume: bool = False, is_double: bool = False
) -> Any:
    """Our trainer as nnU-Net's run_training makes it, on the CPU where ranks have CUDA devices.

    Args:
        space: Holds nnU-Net's folders.
        results: nnUNet_results.
        plans: Name.
        resume: As `--c`.
        is_double: Compute in float64. In float32 another batch size rounds otherwise, and the
            gradients of a network with norms and kinks differ by 1e-4 of the largest.
    """
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        os.environ[name] = str(space / name)
    os.environ.update(nnUNet_results=str(results), nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1")
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as host

    from atlas_nnunet.trainers.atlas_pretrain import AtlasPretrainTrainer
    from atlas_nnunet.training.precision import Precision

    def wrapped(network: nn.Module, device_ids: list[int]) -> nn.Module:
        return DistributedDataParallel(network)

    host.DDP = wrapped  # the host names a CUDA device, which a module on the CPU refuses
    host.device_count = lambda: 0
    build = host.get_network_from_plans
    if is_double:
        host.get_network_from_plans = lambda *a, **more: build(*a, **more).double()
    folder = space / "nnUNet_preprocessed/Dataset701_Tiny"
    content = json.loads((folder / f"{plans}.json").read_text()) | {"continue_training": resume}
    trainer = AtlasPretrainTrainer(
        content, "3d_fullres", 0, json.loads((folder / "dataset.json").read_text()),
        torch.device("cpu"),
    )  # fmt: skip
    trainer.device = torch.device("cpu")
    trainer.precision = Precision("cpu", None, "the same on every machine")
    trainer.grad_scaler = None
    return trainer


def batches_for(trainer: Any, n: int) -> list[dict[str, Any]]:
    """Global batches of random images and codes, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    plan = trainer.configuration_manager
    keys = [f"case_{i % 4:03d}" for i in range(plan.batch_size)]
    codes = max(map(int, trainer.label_manager.all_labels)) + 1
    found = []
    for _ in range(n):
        images = torch.randn(plan.batch_size, 1, *plan.patch_size, generator=generator).double()
        finest = torch.randint(0, codes, (len(images), 1, *plan.patch_size), generator=generator)
        targets = []
        for scale in trainer._get_deep_supervision_scales():
            z, y, x = (round(1 / share) for share in scale)
            targets.append(finest[..., ::z, ::y, ::x])
        found.append({"data": images, "target": targets, "keys": keys})
    return found


def part_of(batch: dict[str, Any], part: slice) -> dict[str, Any]:
    targets = [t[part] for t in batch["target"]]
    return {"data": batch["data"][part], "target": targets, "keys": batch["keys"][part]}


def steps_of_the_trainer(rank: int, folder: Path, space: Path, shared: bool = True) -> None:
    """Two training steps, and one epoch of validation, on given batches."""
    trainer = trainer_in(space, folder / f"results{rank}", "Three", is_double=True)
    trainer.initialize()
    trainer.lr_scheduler.step(0)
    batches = batches_for(trainer, 4)
    if shared:
        assert trainer.is_ddp
        assert trainer.batch_size == (2, 1)[rank]
        batches = [part_of(batch, SHARES[rank]) for batch in batches]
    losses = [trainer.train_step(batches[0])["loss"].item()]
    # In one process the coarsest output has no gradient.
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                 for n, p in _named(trainer)}  # fmt: skip
    trainer.train_step(batches[1])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(batch) for batch in batches[2:]])
    keys = ("mean_fg_dice", "dice_per_class_or_region", "val_losses")
    logged = {key: trainer.logger.get_value(key, step=-1) for key in keys}
    weights = {n: p.detach().clone() for n, p in _named(trainer)}
    found = {"losses": losses, "gradients": gradients, "weights": weights, "logged": logged}
    torch.save(found, folder / f"rank{rank}.pt")


def _named(trainer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return getattr(trainer.network, "module", trainer.network).named_parameters()


class StoppedError(Exception):
    """After the first epoch."""


def whole_trainings(rank: int, folder: Path, space: Path) -> None:
    """A training with final validation in "through"; in "resumed", one that stopped in between."""
    if rank > 0:
        torch.save = _refuse_to_save  # nnU-Net calls it by this name
    keys = []
    through = trainer_in(space, folder / "through", "Two")
    step = through.train_step
    through.train_step = lambda batch: keys.append(batch["data"].sum().item()) or step(batch)
    through.run_training()
    through.perform_actual_validation()
    weights = {n: p.detach().tolist() for n, p in _named(through)}

    stopped = trainer_in(space, folder / "resumed", "Two")
    end = stopped.on_epoch_end

    def end_and_stop() -> None:
        end()
        raise StoppedError

    stopped.on_epoch_end = end_and_stop
    try:
        stopped.run_training()
    except StoppedError:
        dist.barrier()  # the checkpoint is written
    resumed = trainer_in(space, folder / "resumed", "Two", resume=True)
    resumed.load_checkpoint(os.path.join(resumed.output_folder, "checkpoint_latest.pth"))
    assert resumed.current_epoch == 1
    resumed.run_training()
    again = {n: p.detach().tolist() for n, p in _named(resumed)}
    found = {"sums": keys, "weights": weights, "resumed": again}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def _refuse_to_save(*_: Any, **__: Any) -> None:
    raise RuntimeError("a rank other than 0 writes a checkpoint")
