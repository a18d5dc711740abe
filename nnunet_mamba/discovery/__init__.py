"""How stock nnU-Net finds our classes by name, without a fork or copied files.

nnunet_mamba_autoload.pth   runs at interpreter start; imports `nnunet_mamba` when somebody imports nnunetv2
hook.py                     waits for the one module of nnU-Net that looks classes up
resolve.py                  wraps its one function: our names are answered by `names`
ext_trainer/                the second way: a folder for nnU-Net's own nnUNet_extTrainer
"""
