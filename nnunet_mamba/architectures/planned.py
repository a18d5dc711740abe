"""What all networks have in common: an encoder and a decoder sized by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from nnunet_mamba.architectures.overflow import without_overflow
from nnunet_mamba.architectures.topology import Topology, initialize_convolutions
from nnunet_mamba.blocks.convolutions import LEAKY_SLOPE
from nnunet_mamba.blocks.feature_maps import feature_map_size


class PlannedNetwork(nn.Module):
    """(b c *space) -> logits (b k *space), or with deep supervision a list of n_stages-1 of them, finest first.

    Subclasses set `encoder` (image -> list of feature maps, finest first) and `decoder` (these -> logits).
    """

    negative_slope: ClassVar[float] = LEAKY_SLOPE  # of the activation that follows the convolutions

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, topology: Topology, input_channels: int):
        super().__init__()
        self.topology = topology
        self.input_channels = input_channels

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(b c *space) -> logits (b k *space) or a list of them. Raises ValueError for a size it cannot take."""
        self.check_patch(x.shape[2:])
        return without_overflow(self._logits, x)

    def _logits(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder(x))

    def check_patch(self, size: Sequence[int]) -> None:
        """Raises ValueError, with the sizes that would work, for a patch this network cannot take."""
        self.topology.check_patch(size)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Feature-map elements of one sample with this patch size, for nnU-Net's planner."""
        self.check_patch(input_size)
        return feature_map_size(self, self.input_channels, input_size)

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """nnU-Net applies this to every module. Touches convolutions only."""
        initialize_convolutions(module, cls.negative_slope)
