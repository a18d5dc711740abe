"""Encoders pretrained with nnssl, in a residual encoder's network of any plan.

The file says where its encoder and its stem are, and what it was pretrained on (`nnssl_adaptation_plan`). What is taken
over, by name: a tensor of the same shape as it is; a stem for one channel in every channel, divided by their number; a
kernel of three voxels along an axis where the plan has one, as its mean along that axis. Both leave the sums over an
image that is the same in all channels, or along that axis, as they were. The decoder, heads, Mamba layers, and stages
and blocks that were not pretrained stay as they are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

PLAN = "nnssl_adaptation_plan"
ANY_PLAN = "nnUNet_mamba_any_plan"
"""Environment variable: 1 loads weights that were pretrained with other voxels or another normalisation"""
WRAPPED = ("module.", "_orig_mod.")
ENOUGH = 0.5
"""Share of the encoder's parameters that must fit"""
SAME_SPACING = 0.01
"""Largest relative difference that is rounding"""
ENCODER = "key_to_encoder"
STEM = "key_to_stem"


@dataclass(frozen=True)
class Planned:
    """What of a configuration has to be as in the pretraining. spacing: mm, along the network's axes."""

    spacing: Sequence[float]
    normalization: Sequence[str]


@dataclass(frozen=True)
class Adapted:
    """Tensors by the network's own names. told: lines that say what was taken over, stage by stage."""

    weights: dict[str, Tensor]
    told: tuple[str, ...]


def check_plan(plan: Mapping[str, Any], planned: Planned, source: str) -> None:
    """Raises ValueError where the configuration has other voxels or another normalisation than the pretraining."""
    if os.environ.get(ANY_PLAN) == "1":
        return
    chosen = next(iter(plan["pretrain_plan"]["configurations"].values()))
    spacing, schemes = chosen.get("spacing"), set(chosen["normalization_schemes"])
    otherwise = f"; or set {ANY_PLAN}=1 to load it all the same"
    if spacing is not None and not _same(spacing, planned.spacing):
        raise ValueError(
            f"{source} was pretrained with voxels of {_by(spacing)} mm, this configuration has {_by(planned.spacing)} "
            f"mm: nnUNetv2_plan_experiment -overwrite_target_spacing {' '.join(f'{s:g}' for s in spacing)} "
            f"-overwrite_plans_name NAME makes a plan for it{otherwise}"
        )
    other = sorted(set(planned.normalization) - schemes)
    if other:
        raise ValueError(
            f"{source} was pretrained with {', '.join(sorted(schemes))}, this configuration has {', '.join(other)}: "
            f"change normalization_schemes in a copy of its plans, and preprocess{otherwise}"
        )


def adapted(checkpoint: Mapping[str, Any], network: Any, source: str) -> Adapted:
    """network: without its wrappers. Raises ValueError where the file is not as nnssl writes it, or does not fit."""
    plan, given = checkpoint[PLAN], _unwrapped(checkpoint["network_weights"])
    own = network.state_dict()
    parts = {
        kind: (plan.get(kind), getattr(network, kind, None)) for kind in (STEM, ENCODER) if plan.get(kind) is not None
    }
    if ENCODER not in parts or any(mine is None for _, mine in parts.values()):
        raise ValueError(
            f"{source} holds an encoder of {_architecture(plan)}; {type(network).__name__} has none of that kind. "
            "nnUNetTrainerUMamba2 and nnU-Net's residual encoder U-Nets (-pl nnUNetPlannerResEncM) take it"
        )
    prefixes = {f"{mine}.": f"{theirs}." for theirs, mine in parts.values()}
    channels = plan["pretrain_num_input_channels"]
    see_image = {f"{module}.weight" for module in plan["keys_to_in_proj"]}
    found: dict[str, Tensor] = {}
    why: dict[str, str] = {}
    for name, wanted in own.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            continue
        their_name = prefixes[prefix] + name[len(prefix) :]
        theirs = given.get(their_name)
        if theirs is None:
            why[name] = "not pretrained"
            continue
        value = _in_channels(theirs, wanted, channels, source) if their_name in see_image else theirs
        averaged = _with_kernel(value, wanted, name, source)
        if averaged.shape != wanted.shape:
            why[name] = f"other size: {tuple(theirs.shape)}, here {tuple(wanted.shape)}"
            continue
        found[name] = averaged
        why[name] = "loaded" if averaged.shape == theirs.shape else "adapted"
    share = _share(found, why, own)
    told = _table(why, own, share, checkpoint)
    if share < ENOUGH:
        raise ValueError(
            f"{source} does not fit: {share:.0%} of the encoder's parameters would be pretrained, expected at least "
            f"{ENOUGH:.0%}. It holds an encoder of {_architecture(plan)}: plan with nnUNetPlannerResEncL, or another "
            "planner of its widths"
        )
    return Adapted(found, told)


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in weights.items():
        while name.startswith(WRAPPED):
            name = name.split(".", 1)[1]
        found[name] = tensor
    return found


def _in_channels(weight: Tensor, wanted: Tensor, channels: int, source: str) -> Tensor:
    """(out, channels, ...) -> (out, channels of the data set, ...), whose sums over channels are the same"""
    here = wanted.shape[1]
    if here % channels:
        raise ValueError(
            f"{source} was pretrained on {channels} channels, this data set has {here}: expected as many, or a multiple"
        )
    repeats = here // channels
    return weight if repeats == 1 else weight.repeat(1, repeats, *[1] * (weight.dim() - 2)) * (channels / here)


def _with_kernel(weight: Tensor, wanted: Tensor, name: str, source: str) -> Tensor:
    """The mean along axes where the plan's kernel has one voxel. Raises ValueError for other kernels"""
    if weight.dim() != wanted.dim() or weight.dim() < 3:
        return weight
    for axis in range(2, weight.dim()):
        there, here = weight.shape[axis], wanted.shape[axis]
        if here == 1 and there > 1:
            weight = weight.mean(axis, keepdim=True)
        elif here != there:
            raise ValueError(
                f"{source}: {name} has a kernel of {tuple(weight.shape[2:])} voxels, this plan "
                f"{tuple(wanted.shape[2:])}; kernels can only be made flat"
            )
    return weight


def _share(found: Mapping[str, Tensor], why: Mapping[str, str], own: Mapping[str, Tensor]) -> float:
    total = sum(own[name].numel() for name in why)
    return sum(own[name].numel() for name in found) / total if total else 0.0


def _table(
    why: Mapping[str, str], own: Mapping[str, Tensor], share: float, checkpoint: Mapping[str, Any]
) -> tuple[str, ...]:
    """How many tensors of each part were taken over, and why the others were not"""
    by_part: dict[str, Counter[str]] = {}
    for name, reason in why.items():
        if "all_modules" not in name:  # another name for the same tensor
            words = name.split(".")
            part = ".".join(words[:3]) if words[2:3] and words[2].isdecimal() else ".".join(words[:2])
            by_part.setdefault(part, Counter())[reason] += 1
    lines = [f"{part}: {', '.join(f'{n} {reason}' for reason, n in of.items())}" for part, of in by_part.items()]
    rest = sum(1 for name in own if name not in why)
    lines.append(f"all else ({rest} tensors): not pretrained, as it was")
    lines.append(f"{share:.0%} of the encoder's parameters are pretrained")
    for citation in checkpoint.get("citations") or ():
        texts = citation.get("apa_citations") or citation.get("bibtex_citations") or ()
        lines += [f"please cite ({citation.get('type', '?')} {citation.get('name', '?')}): {text}" for text in texts]
    return tuple(lines)


def _architecture(plan: Mapping[str, Any]) -> str:
    return str((plan.get("architecture_plans") or {}).get("arch_class_name", "an unknown network"))


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and bool(np.allclose(a, b, rtol=SAME_SPACING, atol=0))


def _by(spacing: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing)
