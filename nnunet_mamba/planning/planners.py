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


class nnUNetPlannerSegMambaV2(nnUNetPlannerMamba):
    """Widths 48, 96, 192, 384, 768, ... as published."""

    mamba_network = registry.network("SegMambaV2")
    base_features = 48
    max_features = 768


class nnUNetPlannerSegMambaV2NoMamba(nnUNetPlannerSegMambaV2):
    mixer = "none"


class nnUNetPlannerSegResMamba(nnUNetPlannerMamba):
    """Widths 48, 96, 192, 384, ... as published."""

    mamba_network = registry.network("SegResMamba")
    base_features = 48
    max_features = 384


class nnUNetPlannerSegResMambaNoMamba(nnUNetPlannerSegResMamba):
    mixer = "none"


class nnUNetPlannerUMambaEnc(nnUNetPlannerMamba):
    """Widths as nnU-Net plans them, as published."""

    mamba_network = registry.network("UMambaEnc")
    base_features = 32


class nnUNetPlannerUMambaEncNoMamba(nnUNetPlannerUMambaEnc):
    mixer = "none"


class nnUNetPlannerUMambaBot(nnUNetPlannerMamba):
    """Widths as nnU-Net plans them, as published."""

    mamba_network = registry.network("UMambaBot")
    base_features = 32


class nnUNetPlannerUMambaBotNoMamba(nnUNetPlannerUMambaBot):
    mixer = "none"


class nnUNetPlannerLightMUNet(nnUNetPlannerMamba):
    """Widths 32, 64, 128, 256, ... as in the released trainer."""

    mamba_network = registry.network("LightMUNet")
    base_features = 32
    max_features = 256


class nnUNetPlannerLightMUNetNoMamba(nnUNetPlannerLightMUNet):
    mixer = "none"


class nnUNetPlannerMambaEncoder(nnUNetPlannerMamba):
    """Widths as nnU-Net plans them."""

    mamba_network = registry.network("MambaEncoder")
    base_features = 32


class nnUNetPlannerMambaEncoderNoMamba(nnUNetPlannerMambaEncoder):
    mixer = "none"
