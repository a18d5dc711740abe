"""One planner per network, and one for its no-Mamba twin: `nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerSegMamba`."""

from __future__ import annotations

from nnunet_mamba import registry
from nnunet_mamba.planning.base import nnUNetPlannerMamba


class nnUNetPlannerSegMamba(nnUNetPlannerMamba):
    mamba_network = registry.network("SegMamba")


class nnUNetPlannerSegMambaNoMamba(nnUNetPlannerSegMamba):
    mixer = "none"


class nnUNetPlannerSegMambaV2(nnUNetPlannerMamba):
    mamba_network = registry.network("SegMambaV2")


class nnUNetPlannerSegMambaV2NoMamba(nnUNetPlannerSegMambaV2):
    mixer = "none"


class nnUNetPlannerSegResMamba(nnUNetPlannerMamba):
    mamba_network = registry.network("SegResMamba")


class nnUNetPlannerSegResMambaNoMamba(nnUNetPlannerSegResMamba):
    mixer = "none"


class nnUNetPlannerUMambaEnc(nnUNetPlannerMamba):
    mamba_network = registry.network("UMambaEnc")


class nnUNetPlannerUMambaEncNoMamba(nnUNetPlannerUMambaEnc):
    mixer = "none"


class nnUNetPlannerUMambaBot(nnUNetPlannerMamba):
    mamba_network = registry.network("UMambaBot")


class nnUNetPlannerUMambaBotNoMamba(nnUNetPlannerUMambaBot):
    mixer = "none"


class nnUNetPlannerLightMUNet(nnUNetPlannerMamba):
    mamba_network = registry.network("LightMUNet")


class nnUNetPlannerLightMUNetNoMamba(nnUNetPlannerLightMUNet):
    mixer = "none"


class nnUNetPlannerMambaEncoder(nnUNetPlannerMamba):
    mamba_network = registry.network("MambaEncoder")


class nnUNetPlannerMambaEncoderNoMamba(nnUNetPlannerMambaEncoder):
    mixer = "none"
