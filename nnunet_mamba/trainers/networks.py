"""One trainer per network, and its no-Mamba twin: the control that shows what the Mamba layers are worth."""

from __future__ import annotations

from nnunet_mamba import registry
from nnunet_mamba.trainers.base import nnUNetTrainerMamba


class nnUNetTrainerSegMamba(nnUNetTrainerMamba):
    mamba_network = registry.network("SegMamba")


class nnUNetTrainerSegMambaNoMamba(nnUNetTrainerSegMamba):
    mixer = "none"
