"""One planner per network, and one for its no-Mamba twin: `nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerSegMamba`."""

from __future__ import annotations

from nnunet_mamba import registry
from nnunet_mamba.planning.base import nnUNetPlannerMamba


class nnUNetPlannerSegMamba(nnUNetPlannerMamba):
    """Widths 48, 96, 192, 384, 768, ... as published."""

    mamba_network = registry.network("SegMamba")
    base_features = 48
    max_features = 768


class nnUNetPlannerSegMambaNoMamba(nnUNetPlannerSegMamba):
    mixer = "none"
