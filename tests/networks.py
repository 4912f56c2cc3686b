"""Networks as nnU-Net's plans describe them, of a size for tests."""

import torch

from atlas_nnunet.host import NetworkSpec
from atlas_nnunet.transfer.checkpoints import Source

UNET = "dynamic_network_architectures.architectures.unet."
HEADS = ("liver", "kidney_left", "kidney_right")
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": [1, 4], "kidney_left": 2, "kidney_right": 3},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
    "numTraining": 1,
}


def spec(
    n=4, width=4, residual=False, heads=HEADS, channels=("CT",), kernel=3, stride=2, *,
    blocks=2, decoder=1, axes=3, all_kernels=None, nonlin="torch.nn.LeakyReLU",
):  # fmt: skip
    """A network of `n` stages.

    Args:
        kernel: Along the first axis, in the first stage; `all_kernels` sets it in all stages.
        stride: Along the first axis, from the first stage to the second.
    """
    first = [all_kernels or kernel, 3, 3]
    rest = [all_kernels or 3, 3, 3]
    kwargs = {
        "n_stages": n,
        "features_per_stage": [width * 2**i for i in range(n)],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [k[3 - axes :] for k in [first] + [rest] * (n - 1)],
        "strides": [s[3 - axes :] for s in [[1, 1, 1], [stride, 2, 2]] + [[2, 2, 2]] * (n - 2)],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [blocks] * n,
        "n_conv_per_stage_decoder": [decoder] * (n - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": nonlin,
        "nonlin_kwargs": {"inplace": True},
    }
    name = UNET + ("ResidualEncoderUNet" if residual else "PlainConvUNet")
    return NetworkSpec(
        name, kwargs, ("conv_op", "norm_op", "dropout_op", "nonlin"), channels, heads
    )


def plans(own, name="Plans", **others):
    architecture = {
        "network_class_name": own.class_name,
        "arch_kwargs": dict(own.arch_kwargs),
        "_kw_requires_import": list(own.requires_import),
    }
    config = {"architecture": architecture, "normalization_schemes": ["CTNormalization"]}
    return {"plans_name": name, "dataset_name": "Dataset001_X",
            "configurations": {"3d_fullres": config}, **others}  # fmt: skip


def source_of(own, seed=1):
    """A source with weights unlike any initialisation, and its network."""
    torch.manual_seed(seed)
    network = own.build()
    for parameter in network.parameters():  # biases and norms start constant: make all differ
        torch.nn.init.normal_(parameter, std=0.3)
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    source = Source(parameters, own, plans(own), DATASET, "3d_fullres", "T", "0" * 64)
    return source, network.eval()
