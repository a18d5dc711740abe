"""Mamba segmentation networks for stock nnU-Net v2.

Importing this package makes its trainers and planners known to nnU-Net in this process; an installed package does so in
every process by itself (see `nnunet_mamba.discovery`).
"""

from nnunet_mamba.discovery import hook
from nnunet_mamba.version import __version__

__all__ = ["__version__"]

hook.install()
