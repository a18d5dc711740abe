"""How many feature-map elements a network makes: the quantity nnU-Net's planner weighs against its memory budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from nnunet_mamba.blocks.mamba import Mamba

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def feature_map_size(network: nn.Module, input_channels: int, patch_size: Sequence[int]) -> int:
    """Elements of all convolution outputs and of what Mamba blocks keep, for one sample of this patch size.

    Runs the forward pass on fake tensors: shapes only, no arithmetic, no memory.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += module.feature_map_size(inputs[0].shape[1]) if isinstance(module, Mamba) else output[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (*CONVOLUTIONS, Mamba))]
    try:
        with FakeTensorMode() as mode, torch.no_grad():
            fakes: dict[str, Tensor] = {
                name: mode.from_tensor(value) for name, value in network.state_dict(keep_vars=True).items()
            }
            functional_call(network, fakes, (torch.empty(1, input_channels, *map(int, patch_size)),))
    finally:
        for hook in hooks:
            hook.remove()
    return total
