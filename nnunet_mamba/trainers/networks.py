"""One trainer per network, and its no-Mamba twin: the control that shows what the Mamba layers are worth."""

from __future__ import annotations

from nnunet_mamba import registry
from nnunet_mamba.trainers.base import nnUNetTrainerMamba


class nnUNetTrainerSegMamba(nnUNetTrainerMamba):
    mamba_network = registry.network("SegMamba")


class nnUNetTrainerSegMambaNoMamba(nnUNetTrainerSegMamba):
    mixer = "none"


class nnUNetTrainerSegMambaV2(nnUNetTrainerMamba):
    mamba_network = registry.network("SegMambaV2")


class nnUNetTrainerSegMambaV2NoMamba(nnUNetTrainerSegMambaV2):
    mixer = "none"


class nnUNetTrainerSegResMamba(nnUNetTrainerMamba):
    mamba_network = registry.network("SegResMamba")


class nnUNetTrainerSegResMambaNoMamba(nnUNetTrainerSegResMamba):
    mixer = "none"


class nnUNetTrainerUMambaEnc(nnUNetTrainerMamba):
    mamba_network = registry.network("UMambaEnc")


class nnUNetTrainerUMambaEncNoMamba(nnUNetTrainerUMambaEnc):
    mixer = "none"


class nnUNetTrainerUMambaBot(nnUNetTrainerMamba):
    mamba_network = registry.network("UMambaBot")


class nnUNetTrainerUMambaBotNoMamba(nnUNetTrainerUMambaBot):
    mixer = "none"


class nnUNetTrainerLightMUNet(nnUNetTrainerMamba):
    mamba_network = registry.network("LightMUNet")


class nnUNetTrainerLightMUNetNoMamba(nnUNetTrainerLightMUNet):
    mixer = "none"


class nnUNetTrainerMambaEncoder(nnUNetTrainerMamba):
    mamba_network = registry.network("MambaEncoder")


class nnUNetTrainerMambaEncoderNoMamba(nnUNetTrainerMambaEncoder):
    mixer = "none"
