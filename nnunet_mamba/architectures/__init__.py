"""The networks: plain `nn.Module`s, usable without nnU-Net. One file per paper; `from nnunet_mamba import SegMamba`."""
