"""`-pretrained_weights` of other datasets and of nnssl: what nnU-Net's loader refuses, made to fit.

nnU-Net leaves out the heads, so that classes may differ, and wants everything else to have the same shapes. The layers
that see the image have other shapes when the number of channels differs; their weights are averaged over the channels.
An encoder that nnssl has pretrained is adapted by nnssl.py.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mamba import checkpoints
from nnunet_mamba.trainers import nnssl
from nnunet_mamba.trainers.nnssl import Planned

COMMAND = "nnunetv2.run.run_training"
FUNCTION = "load_pretrained_weights"
HEADS = ".seg_layers."


def accept_other_weights(network: nn.Module, planned: Planned, say: Callable[[str], object] = print) -> None:
    """From here on nnU-Net's training command, in this process, loads such weights into this network.

    planned: of its configuration; say: told what is loaded.
    """
    module = sys.modules.get(COMMAND)
    if module is None:
        return
    original = getattr(module, FUNCTION)
    original = getattr(original, "original", original)
    module.__dict__[FUNCTION] = functools.partial(_load, original, network, planned, say)
    module.__dict__[FUNCTION].original = original


def _load(
    original: Callable[..., None], plain: nn.Module, planned: Planned, say: Callable[[str], object],
    network: nn.Module, fname: str, verbose: bool = False,
) -> None:  # fmt: skip
    """nnU-Net's loader on a file that fits. Raises ValueError for weights of another network or plan."""
    checkpoint = checkpoints.read(fname)
    if not isinstance(checkpoint, Mapping) or "network_weights" not in checkpoint:
        raise ValueError(
            f"{fname} is no nnU-Net checkpoint: it has no network_weights. For a published checkpoint: nnunet-mamba "
            "convert-checkpoint FILE --pretrained OUT.pth"
        )
    if nnssl.PLAN in checkpoint:
        _load_encoder(checkpoint, plain, planned, say, fname)
        return
    weights, changed = fitted(checkpoint["network_weights"], plain.state_dict(), fname)
    if changed:
        print(f"Other input channels than in {fname}: averaged over channels: {', '.join(changed)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(fname).name
        torch.save({"network_weights": weights}, file)  # on the CPU, wherever it was trained
        original(network, str(file), verbose)


def _load_encoder(
    checkpoint: Mapping[str, Any], plain: nn.Module, planned: Planned, say: Callable[[str], object], fname: str
) -> None:
    """All of it or nothing"""
    try:
        nnssl.check_plan(checkpoint[nnssl.PLAN], planned, fname)
        found = nnssl.adapted(checkpoint, plain, fname)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{fname}: its {nnssl.PLAN} is not as nnssl writes it ({error!r})") from None
    plain.load_state_dict(found.weights, strict=False)
    digest = hashlib.sha256(Path(fname).read_bytes()).hexdigest()
    say(f"Pretrained encoder: {fname}, {checkpoint.get('trainer_name', 'method unknown')}, sha256 {digest}")
    for line in found.told:
        say(f"  {line}")


def fitted(given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Weights with the shapes of `own`, heads left as they are, and the names of those that were changed.

    Raises ValueError where more than the image's channels differs.
    """
    fitting, changed, wrong = dict(given), [], []
    for name, wanted in own.items():
        if HEADS in name:
            continue
        if name not in given:
            wrong.append(f"{name} is missing")
        elif given[name].shape != wanted.shape:
            value = _other_channels(given[name], wanted.shape)
            if value is None:
                wrong.append(f"{name} is {tuple(given[name].shape)}, expected {tuple(wanted.shape)}")
            else:
                fitting[name] = value
                changed.append(name)
    counts = {_channels(given[name].shape, own[name].shape) for name in changed}
    if wrong or len(counts) > 1:
        shown = "; ".join(wrong[:3]) or f"numbers of channels {sorted(counts)}"
        raise ValueError(
            f"{source} does not fit this network: {shown}{' ...' if len(wrong) > 3 else ''}. The same trainer and the "
            "same plan are needed: nnUNetv2_move_plans_between_datasets takes a plan to another dataset"
        )
    return fitting, changed


def _other_channels(weight: Tensor, shape: torch.Size) -> Tensor | None:
    """A convolution over images with other channels, for which an image repeated in all of them gives the same; None
    if the shapes differ in more."""
    if weight.dim() != len(shape) or weight.dim() < 4 or weight.shape[2:] != shape[2:]:
        return None
    if weight.shape[1] == shape[1] == 1:  # depthwise: every channel by itself
        return weight.mean(0, keepdim=True).expand(shape).clone()
    if weight.shape[0] == shape[0]:
        return weight.sum(1, keepdim=True).expand(shape).clone() / shape[1]
    return None


def _channels(given: torch.Size, wanted: torch.Size) -> tuple[int, int]:
    """Channels of the two images, from the one axis in which the shapes differ"""
    axis = 0 if given[0] != wanted[0] else 1
    return given[axis], wanted[axis]
