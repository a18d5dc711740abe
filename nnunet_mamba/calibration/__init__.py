"""Where `nnunet_mamba.study.calibration` used to be: old `postprocessing.pkl` files name it."""
