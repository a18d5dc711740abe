"""The function that a `postprocessing.pkl` written before the move to `study` names."""

from nnunet_mamba.study.calibration.components import remove_small_components

__all__ = ["remove_small_components"]
