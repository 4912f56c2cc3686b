"""Why a plan is as it is, in words: from fingerprint, plan and the planner's own numbers.

Rules: default_experiment_planner.py (`determine_fullres_target_spacing`, `determine_transpose`,
`get_plans_for_configuration`, `plan_experiment`) and network_topology.py
(`get_pool_and_conv_props`) of nnunetv2 2.8.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atlas_nnunet.host import resolve_configuration
from atlas_nnunet.networks.suite import described, of_class
from atlas_nnunet.plan.method import Method

AXES = ("z", "y", "x")  # array axes 0, 1, 2, as nnU-Net's readers of volumes hand them out
RARE = 10  # percentile of an anisotropic axis' spacings (determine_fullres_target_spacing)
SIMILAR = 2  # axes are halved together, and kernels are 3, below this ratio of spacings
LOWRES_STEP = 0.03  # `spacing_increase_factor` - 1 in plan_experiment
WORTHWHILE = 2  # plan_experiment drops a 3d_lowres with images less than so many times smaller


@dataclass(frozen=True)
class Facts:
    """What a planner started from.

    Attributes:
        fingerprint: With `spacings` and `shapes_after_crop`.
        transpose_forward: Array axis that comes first, second and third in the plan.
        shape_vox: Median image at the target spacing of 3d_fullres, in the plan's order.
        n_voxels: Of all cases together, at that spacing.
        methods: Number of axes -> the planner's numbers.
        estimates: Configuration -> feature-map voxels of one patch.
        not_by_rule: What something other than nnU-Net's method decided: "spacing" -> who, and
            a configuration's name -> who decided its network, "NAME.patch" -> its patch too.
        strides: Configuration -> strides that its patch was rounded for, where its network does not
            have just these.
    """

    fingerprint: Mapping[str, Any]
    transpose_forward: Sequence[int]
    shape_vox: Sequence[float]
    n_voxels: float
    methods: Mapping[int, Method]
    estimates: Mapping[str, float]
    not_by_rule: Mapping[str, str] = field(default_factory=dict)
    strides: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)

    def strides_of(self, name: str, config: Mapping[str, Any]) -> Sequence[Sequence[int]]:
        """Of each stage, by nnU-Net's method."""
        return self.strides.get(name, config["architecture"]["arch_kwargs"]["strides"])

    def axes(self, n_axes: int) -> list[str]:
        """Letters of a configuration's axes; 2-D leaves out the first."""
        return [AXES[axis] for axis in self.transpose_forward][-n_axes:]


def times(values: Sequence[float]) -> str:
    return " x ".join(f"{float(v):.4g}" for v in values)


def millions(count: float) -> str:
    value = count / 1e6
    return f"{value:,.0f} million" if value >= 100 else f"{value:.3g} million"


def spacing_reason(facts: Facts) -> str:
    """Median of the cases, or the 10th percentile of an axis that is coarse and short."""
    spacings = np.array(facts.fingerprint["spacings"], float)
    median, worst = np.median(spacings, 0), int(np.argmax(np.median(spacings, 0)))
    told = ", ".join(f"{name} {mm:.4g}" for name, mm in zip(AXES, median, strict=True))
    start = f"spacing: the median of {len(spacings)} cases is {told} mm. "
    if "spacing" in facts.not_by_rule:
        return f"{start}It is not taken: {facts.not_by_rule['spacing']}."
    shape = np.median(facts.fingerprint["shapes_after_crop"], 0)
    others = [axis for axis in range(3) if axis != worst]
    widest, shortest = max(median[others]), min(shape[others])
    threshold = next(iter(facts.methods.values())).anisotropy
    letter = AXES[worst]
    coarse = median[worst] > threshold * widest
    compared = f"{median[worst]:.4g} against {widest:.4g} mm"
    if not coarse:
        return (
            f"{start}It is taken: {letter} is not more than {threshold:g} times as coarse as the "
            f"others ({compared})."
        )
    counted = f"{shape[worst]:.4g} against {shortest:.4g} voxels"
    if shape[worst] * threshold >= shortest:
        return (
            f"{start}It is taken: {letter} is more than {threshold:g} times as coarse as the "
            f"others ({compared}), but not that much shorter ({counted})."
        )
    rare = np.percentile(spacings[:, worst], RARE)
    end = (
        f"{letter} is more than {threshold:g} times as coarse as the others ({compared}) and more "
        f"than {threshold:g} times as short ({counted}): there it is the {RARE}th percentile of "
        f"the cases, {rare:.4g} mm, lest thin slices be lost"
    )
    finer = f"; but not finer than the others, so {widest:.4g} mm" if rare < widest else ""
    return f"{start}{end}{finer}."


def order_reason(facts: Facts, spacing_mm: Sequence[float]) -> str:
    """Order of axes, and the median image."""
    order = ", ".join(facts.axes(3))
    why = facts.not_by_rule.get("order", "the coarsest axis comes first")
    return (
        f"axes: {order}; {why}. At {times(spacing_mm)} mm the median image has "
        f"{times(facts.shape_vox)} voxels."
    )


def patch_reason(facts: Facts, name: str, config: Mapping[str, Any]) -> str:
    """From a cube in millimetres down to what the memory holds."""
    patch, n_axes = config["patch_size"], len(config["patch_size"])
    method, need = facts.methods[n_axes], facts.estimates[name]
    allowed = method.allowed[n_axes]
    needs = (
        f"the network needs {millions(need)} feature-map voxels for it, {millions(allowed)} are "
        f"allowed ({millions(method.budget[n_axes])} fill {method.memory_gb:g} GB at a batch of "
        f"{method.reference_batch[n_axes]})"
    )
    if f"{name}.patch" in facts.not_by_rule:
        more = ": too many" if need > allowed else ""
        return f"patch {times(patch)}: {facts.not_by_rule[f'{name}.patch']}; {needs}{more}."
    shape = config["median_image_size_in_voxels"]
    first = method.first_patch(config["spacing"], shape)
    divisors = np.prod(facts.strides_of(name, config), axis=0)
    rounded = [math.ceil(n / d) * d for n, d in zip(first, divisors, strict=True)]
    solid = {3: "a cube in mm of 256^3 voxels", 2: "a square in mm of 2048^2 voxels"}[n_axes]
    start = f"patch {times(patch)}: the search starts from {solid}, cut to the median image: "
    if rounded == list(patch):
        return f"{start}{times(first)}. Rounded up to what the strides divide, it fits: {needs}."
    if math.prod(rounded) < math.prod(patch):
        return (
            f"{start}{times(first)}. Rounded up to what the strides divide, and further, for the "
            f"coarsest feature map must have two voxels: {needs}."
        )
    return (
        f"{start}{times(first)}. The axis that covers most of the image is cut again and again "
        f"until it fits: {needs}."
    )


def topology_reason(facts: Facts, name: str, config: Mapping[str, Any]) -> list[str]:
    """Strides and kernels by axis, with the spacings that decide them."""
    arch, patch = config["architecture"]["arch_kwargs"], config["patch_size"]
    own = of_class(config["architecture"]["network_class_name"])
    if own and not own.follows:
        step = own.divisor(arch)
        return [
            f"strides: every axis is halved {own.halvings(arch)} times, whatever its spacing, so a "
            f"patch has multiples of {step} voxels: the coarsest feature map has "
            f"{times([n // step for n in patch])}.",
            f"kernels: {own.kernels}, along every axis.",
        ]
    strides = np.array(arch["strides"])
    method, axes = facts.methods[len(patch)], facts.axes(len(patch))
    halvings = ", ".join(
        f"{name} {int(n)}" for name, n in zip(axes, np.log2(strides).sum(0), strict=True)
    )
    coarsest = np.array(patch) // strides.prod(0)
    lines = [
        f"strides: halvings {halvings}. The finest axes are halved until all are within a factor "
        f"{SIMILAR}, then all together, and none below {method.min_edge_vox} voxels: the coarsest "
        f"feature map has {times(coarsest)}."
    ]
    if own:
        told = f"{own.name} has {len(strides)} levels"
        more = len(facts.strides_of(name, config)) - len(strides)
        if more and f"{name}.patch" not in facts.not_by_rule:
            how = "more, which are left out" if more > 0 else "fewer: the last halve nothing"
            lines.append(f"levels: {told}; nnU-Net's method has {abs(more)} {how}.")
        return [*lines, f"kernels: {own.kernels}, along every axis."]
    kernels = np.array(arch["kernel_sizes"])
    # Spacing at which each stage's kernel was decided: before that stage's feature map is halved.
    stage_mm = np.array(config["spacing"], float) * strides.cumprod(0)
    flat = [
        f"1 along {name} in {'stages 1 to ' if n > 1 else 'stage '}{n} of {len(kernels)}, where "
        f"{stage_mm[0, axis]:.4g} mm lie {SIMILAR} times or more above the finest axis "
        f"({', '.join(f'{mm:.4g}' for mm in stage_mm[:n].min(1))} mm)"
        for axis, name in enumerate(axes)
        if (n := int((kernels[:, axis] == 1).sum()))
    ]
    return [*lines, f"kernels: {'; '.join([*flat, '3 elsewhere'] if flat else ['3'])}."]


def network_reason(facts: Facts, name: str, config: Mapping[str, Any]) -> str:
    arch, kind = config["architecture"]["arch_kwargs"], config["architecture"]["network_class_name"]
    if of_class(kind):
        return f"network: {described(kind, arch)}: {facts.not_by_rule[name]}."
    widths = list(arch["features_per_stage"])
    why = facts.not_by_rule.get(name, f"doubled at each stage from {widths[0]} to {max(widths)}")
    return (
        f"network: {kind.rsplit('.', 1)[-1]} of {arch['n_stages']} stages, one for the full "
        f"resolution and one for each halving, {widths} features: {why}."
    )


def batch_reason(facts: Facts, name: str, config: Mapping[str, Any], n_voxels: float) -> str:
    """Memory, the share of the data set, and nnU-Net's least."""
    patch = config["patch_size"]
    method, n_axes = facts.methods[len(patch)], len(patch)
    batch = method.batch(facts.estimates[name], patch, n_voxels)
    return (
        f"batch {config['batch_size']}: memory holds {batch.by_memory} "
        f"({millions(method.budget[n_axes])} / {millions(facts.estimates[name])} x "
        f"{method.reference_batch[n_axes]}); {method.covered:.0%} of the data set's "
        f"{millions(n_voxels)} voxels are {batch.by_data} patches; at least {batch.least}."
    )


def lowres_reason(facts: Facts, plans: Mapping[str, Any]) -> str:
    """Whether images are too large for the patch, and what follows."""
    full = plans["configurations"]["3d_fullres"]
    covered = math.prod(full["patch_size"]) / math.prod(facts.shape_vox)
    threshold = facts.methods[3].lowres_below
    start = f"3d_lowres: the patch of 3d_fullres covers {covered:.1%} of the median image"
    if not threshold:
        return f"{start}; not planned: resolution is the source's."
    if covered >= threshold:
        return f"{start}, not less than {threshold:.0%}: not needed, and no cascade."
    lowres = plans["configurations"].get("3d_lowres")
    if lowres is None:
        return (
            f"{start}, less than {threshold:.0%}; but images in which it covers that much would be "
            f"less than {WORTHWHILE} times smaller: dropped, and no cascade."
        )
    small = math.prod(lowres["patch_size"]) / coarse_voxels(facts, plans)
    return (
        f"{start}, less than {threshold:.0%}: spacing grows by {LOWRES_STEP:.0%} a step, axes "
        f"that are {SIMILAR} times finer first, to {times(lowres['spacing'])} mm, where its patch "
        f"covers {small:.1%} of {times(lowres['median_image_size_in_voxels'])} voxels. "
        "3d_cascade_fullres refines its result."
    )


def coarse_voxels(facts: Facts, plans: Mapping[str, Any]) -> float:
    """Voxels of the median image at the spacing of 3d_lowres, not rounded."""
    full, lowres = (plans["configurations"][n]["spacing"] for n in ("3d_fullres", "3d_lowres"))
    return math.prod(n * a / b for n, a, b in zip(facts.shape_vox, full, lowres, strict=True))


def explain(facts: Facts, plans: Mapping[str, Any]) -> str:
    """The whole: spacing once, then every configuration."""
    configs = plans["configurations"]
    lines = [spacing_reason(facts)]
    if "3d_fullres" in configs:
        lines += [order_reason(facts, configs["3d_fullres"]["spacing"])]
        lines += [lowres_reason(facts, plans)]
    for name in configs:
        config = resolve_configuration(plans, name)
        if "previous_stage" in config:
            lines.append(f"{name}: as {configs[name]['inherits_from']}, with the labels of "
                         f"{config['previous_stage']} as further channels.")  # fmt: skip
            continue
        per_case = facts.n_voxels / math.prod(facts.shape_vox)
        n_voxels = coarse_voxels(facts, plans) * per_case if name == "3d_lowres" else facts.n_voxels
        reasons = [
            patch_reason(facts, name, config), *topology_reason(facts, name, config),
            network_reason(facts, name, config), batch_reason(facts, name, config, n_voxels),
        ]  # fmt: skip
        lines += [f"{name}, at {times(config['spacing'])} mm:", *(f"  {line}" for line in reasons)]
    return "\n".join(f"  {line}" for line in lines)
