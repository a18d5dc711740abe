"""What all networks have in common: an encoder and a decoder sized by a plan."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import ClassVar, TypedDict

from torch import Tensor, nn

from nnunet_mamba.architectures.overflow import without_overflow
from nnunet_mamba.architectures.topology import initialize_convolutions, topology
from nnunet_mamba.blocks.convolutions import LEAKY_SLOPE
from nnunet_mamba.blocks.mixers import Mixer


class PlanKeywords(TypedDict, total=False):
    """Keywords of every network, apart from the image's channels and the classes; see PlannedNetwork"""

    n_stages: int
    features_per_stage: int | Sequence[int]
    conv_op: type[nn.Module]
    kernel_sizes: int | Sequence[int | Sequence[int]]
    strides: int | Sequence[int | Sequence[int]]
    d_state: int | None
    d_conv: int
    expand: int
    mixer: str | None
    conv3d: bool
    deep_supervision: bool


class PlannedNetwork(nn.Module):
    """(b c *space) -> logits (b k *space), or with deep supervision a list of n_stages-1 of them, finest first.

    input_channels: of the image; num_classes: of the logits, with background; conv_op: torch.nn.Conv2d or Conv3d.
    n_stages, features_per_stage, kernel_sizes, strides: one entry per plan stage, full resolution first, or one number
    for all; strides[0] is 1.
    d_state, d_conv, expand: of the mixer: state size (None: 16 of Mamba, 64 of Mamba-2), taps of the convolution,
    expansion of the width.
    mixer: "mamba", "mamba2", "conv" (a control of the same size) or "none" (the no-Mamba twin); None: as published.
    conv3d: before the scan a convolution of the volume (2d: of the slice) instead of one of the sequence of tokens.
    deep_supervision: a list of logits, finest first; `network.decoder.deep_supervision` turns it on and off later.
    Raises ValueError for keywords that contradict each other, and for a patch not divisible by the strides.

    Subclasses set `encoder` (image -> list of feature maps, finest first) and `decoder` (these -> logits).
    """

    negative_slope: ClassVar[float] = LEAKY_SLOPE  # of the activation that follows the convolutions
    published_mixer: ClassVar[str] = "mamba"

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        d_state: int | None = None,
        d_conv: int = 4,
        expand: int = 2,
        mixer: str | None = None,
        conv3d: bool = False,
        deep_supervision: bool = False,
    ):
        super().__init__()
        self.topology = topology(n_stages, features_per_stage, conv_op, kernel_sizes, strides)
        self.mixer = Mixer(
            self.published_mixer if mixer is None else mixer, d_state, d_conv, expand, conv3d,
            axes=self.topology.space.dim, published=self.published_mixer,
        )  # fmt: skip
        self.input_channels, self.num_classes, self.supervised = input_channels, num_classes, deep_supervision

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(b c *space) -> logits (b k *space) or a list of them. Raises ValueError for a size it cannot take."""
        self.check_patch(x.shape[2:])
        return without_overflow(self._logits, x)

    def _logits(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder(x))

    def check_patch(self, size: Sequence[int]) -> None:
        """Raises ValueError, with the sizes that would work, for a patch this network cannot take."""
        self.topology.check_patch(size)

    @classmethod
    def keywords(cls) -> dict[str, inspect.Parameter]:
        """Every keyword of the constructor by name: those of a plan, then the network's own"""
        signatures = (inspect.signature(c.__init__) for c in (PlannedNetwork, cls))
        found = {name: p for signature in signatures for name, p in signature.parameters.items()}
        return {name: p for name, p in found.items() if name != "self" and p.kind is not p.VAR_KEYWORD}

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """nnU-Net applies this to every module. Touches convolutions only."""
        initialize_convolutions(module, cls.negative_slope)
