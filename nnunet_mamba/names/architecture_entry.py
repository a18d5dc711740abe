"""From what a plan says about any U-Net to the keywords of one of our networks. Plain dictionaries, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_mamba.names import networks
from nnunet_mamba.names.head_width import head_width
from nnunet_mamba.names.networks import Network

TOPOLOGY_KEYS = ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides")
NEEDS_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")
EXPAND = 2
"""Of every mixer, where the plan does not say"""


def architecture_for(
    network: Network, planned: Mapping[str, Any], patch_size: Sequence[int] | None = None
) -> dict[str, Any]:
    """The plan's "architecture" entry with `network` in the place of whatever the plan names.

    A plan made for this network, or for the class of nnU-Net's that it adds to, keeps all its keywords. A plan made for
    another of nnU-Net's U-Nets lends its topology: stages, widths, kernels and strides. `patch_size` is handed to
    networks whose weights depend on it. Raises ValueError for a plan made for another of our networks, another mixer or
    another patch, for one made for the twin of `network`, and for one without a topology.
    """
    class_name, kwargs = planned["network_class_name"], dict(planned["arch_kwargs"])
    if class_name != network.architecture:
        other = _record_of(class_name)
        if other is not None:
            raise ValueError(
                f"this plan was made for {other.name}, not for {network.name}. Train it with -tr {other.trainer}, or "
                f"plan for this network: nnUNetv2_plan_experiment -d DATASET -pl {network.planner}"
            )
        if class_name != network.extends:
            kwargs = _topology_of(class_name, kwargs)
    _set_mixer(network, kwargs)
    if network.widest_head is not None and (kwargs.get("mixer") or network.published_mixer) == "mamba2":
        kwargs.setdefault("headdim", _head_width(network.widest_head, kwargs))
    if network.patch_sized and patch_size is not None:
        made_for = kwargs.setdefault("patch_size", [int(p) for p in patch_size])
        if made_for is not None and tuple(made_for) != tuple(int(p) for p in patch_size):
            raise ValueError(
                f"{network.name} was planned for patches of {tuple(made_for)}, its weights fit no other; the "
                f"configuration has patch_size {tuple(patch_size)}. Set both to the same, or the network's to null"
            )
    return {
        "network_class_name": network.architecture,
        "arch_kwargs": kwargs,
        "_kw_requires_import": [key for key in NEEDS_IMPORT if key in kwargs],
    }


def follow_widths(architecture: dict[str, Any]) -> None:
    """Set anew, in a plan's "architecture" entry whose widths have changed, what does not fit them any more"""
    record, kwargs = _record_of(architecture["network_class_name"]), architecture["arch_kwargs"]
    if record is None or record.widest_head is None or kwargs.get("headdim") is None:
        return
    if _inner_channels(kwargs) % kwargs["headdim"]:
        kwargs["headdim"] = _head_width(record.widest_head, kwargs)


def _set_mixer(network: Network, kwargs: dict[str, Any]) -> None:
    planned = kwargs.get("mixer") or network.published_mixer
    if network.mixer == "none":
        kwargs["mixer"] = "none"
        kwargs.pop("conv3d", None)
        return
    if planned == "none":
        raise ValueError(
            f"this plan was made for the no-Mamba twin. Train it with -tr {network.twin.trainer}, or use -p "
            f"{network.plans} (nnUNetv2_plan_experiment -d DATASET -pl {network.planner})"
        )
    if network.mixer is not None:
        if planned not in (network.published_mixer, network.mixer):
            raise ValueError(
                f'this plan has "mixer": "{planned}" and the trainer asks for "{network.mixer}". Train it with -tr '
                f"{network.trainer}, which follows the plan, or use -p {network.plans}"
            )
        kwargs["mixer"] = network.mixer
    if network.conv3d:
        kwargs["conv3d"] = True


def _head_width(widest: int, kwargs: Mapping[str, Any]) -> int:
    return head_width(_inner_channels(kwargs), widest)


def _inner_channels(kwargs: Mapping[str, Any]) -> int:
    """Of a mixer at the bottleneck"""
    features = kwargs["features_per_stage"]
    return kwargs.get("expand", EXPAND) * (features if isinstance(features, int) else features[-1])


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    """What every axis of a patch must be divisible by. strides: per stage, per axis"""
    total = [1] * len(strides[0])
    for stride in strides:
        total = [t * s for t, s in zip(total, stride, strict=True)]
    return total


def _topology_of(class_name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    missing = [key for key in TOPOLOGY_KEYS if key not in kwargs]
    if missing:
        raise ValueError(
            f"the plan's network {class_name} has no {', '.join(missing)} among its arch_kwargs; expected a plan of "
            "nnU-Net's own planners or of one of ours (nnunet-mamba list)"
        )
    return {key: kwargs[key] for key in TOPOLOGY_KEYS}


def _record_of(class_name: str) -> Network | None:
    return next((record for record in networks.NETWORKS if record.architecture == class_name), None)
