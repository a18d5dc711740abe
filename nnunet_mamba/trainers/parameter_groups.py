"""No weight decay on what it would pull to a meaningless zero: A_log, D and the step size's bias of the scan, norms.

As the Mamba authors' own package marks A_log and D (Gu & Dao 2023, mamba_ssm: `_no_weight_decay`). Convolutions and
linear maps decay as nnU-Net's optimiser says.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def undecayed(network: nn.Module) -> set[nn.Parameter]:
    """Parameters that shall keep their size."""
    kept = {p for p in network.parameters() if getattr(p, "_no_weight_decay", False)}
    return kept.union(p for module in network.modules() if isinstance(module, NORMS) for p in module.parameters(False))


def spare_from_decay(optimizer: Optimizer, kept: set[nn.Parameter]) -> None:
    """Give these parameters groups of their own without weight decay. Before the first step."""
    for group in list(optimizer.param_groups):
        spared = [p for p in group["params"] if p in kept]
        if spared and group.get("weight_decay"):
            group["params"] = [p for p in group["params"] if p not in kept]
            options = {k: v for k, v in group.items() if k != "params"}
            optimizer.add_param_group({**options, "params": spared, "weight_decay": 0.0})
