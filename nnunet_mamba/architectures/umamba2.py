"""U-Mamba2 (Tan et al. 2025, arXiv 2509.12069) as released: nnU-Net's residual encoder U-Net with one Mamba-2 layer.

    image ─ residual encoder (nnU-Net's) ─ skips ──────────────────────────────▶ decoder (nnU-Net's) ─▶ logits
                       └─ the coarsest: LayerNorm, Mamba-2; it replaces the feature, nothing is added ─┘

Encoder and decoder are nnU-Net's own (Isensee et al. 2024), so every plan of its residual encoder presets fits, the
twin is nnU-Net's network itself, and encoders pretrained for that network fit both. Parameter names are those of
released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn
from typing_extensions import Unpack

from nnunet_mamba.architectures.planned import PlanKeywords, PlannedNetwork
from nnunet_mamba.architectures.topology import per_stage
from nnunet_mamba.blocks.convolutions import AFFINE_NORM, LEAKY_RELU
from nnunet_mamba.names.head_width import WIDEST_AT_BOTTLENECK, head_width

BLOCKS, BLOCKS_BELOW = (1, 3, 4), 6
"""Residual blocks of nnU-Net's presets: of the first stages, and of every further one"""
STATE = 32


class UMamba2ResidualEncoderUNet(PlannedNetwork):
    """U-Mamba2. Its name ends as that of nnU-Net's own network does, by which nnU-Net knows whose encoder it has.

    Keywords of every network: see PlannedNetwork. d_state is 32 where it is left out, as released.
    `n_blocks_per_stage`: residual blocks per encoder stage; None: 1, 3, 4, 6, 6, ... as in nnU-Net's presets.
    `n_conv_per_stage_decoder`: convolutions per decoder stage.
    `headdim`: channels of a head of the Mamba-2 layer; None: 80 as released where that divides the inner channels, else
    their largest divisor below that is a multiple of 8.
    `conv_bias`, `norm_op`, `norm_op_kwargs`, `dropout_op`, `dropout_op_kwargs`, `nonlin`, `nonlin_kwargs`: as nnU-Net
    writes them into its plans; left out, they are what it writes: biases, affine instance norm, no dropout, leaky ReLU.
    The twin is nnU-Net's ResidualEncoderUNet of the same plan.
    """

    published_mixer = "mamba2"

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_blocks_per_stage: int | Sequence[int] | None = None,
        n_conv_per_stage_decoder: int | Sequence[int] = 1,
        headdim: int | None = None,
        conv_bias: bool = True,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        **plan: Unpack[PlanKeywords],
    ):
        super().__init__(input_channels, num_classes, **plan)  # type: ignore[arg-type]
        t = self.topology
        if n_blocks_per_stage is None:
            n_blocks_per_stage = [*BLOCKS, *[BLOCKS_BELOW] * t.n_stages][: t.n_stages]
        stock = ResidualEncoderUNet(
            input_channels,
            t.n_stages,
            list(t.features),
            t.space.conv,
            [list(k) for k in t.kernel_sizes],  # type: ignore[arg-type]
            [list(s) for s in t.strides],  # type: ignore[arg-type]
            list(per_stage("n_blocks_per_stage", n_blocks_per_stage, t.n_stages)),
            num_classes,
            list(per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, t.n_stages - 1)),
            conv_bias,
            t.space.norm if norm_op is None else norm_op,
            AFFINE_NORM if norm_op_kwargs is None else norm_op_kwargs,
            dropout_op,  # type: ignore[arg-type]
            dropout_op_kwargs,  # type: ignore[arg-type]
            nn.LeakyReLU if nonlin is None else nonlin,
            LEAKY_RELU if nonlin_kwargs is None else nonlin_kwargs,
            self.supervised,
        )
        self.encoder, self.decoder = stock.encoder, stock.decoder
        # where nnU-Net's pretraining finds the encoder, and what of it sees the image's channels
        self.key_to_encoder, self.key_to_stem = stock.key_to_encoder, stock.key_to_stem
        self.keys_to_in_proj = stock.keys_to_in_proj
        if self.mixer.name in (self.published_mixer, "conv"):
            width = head_width(self.mixer.expand * t.features[-1], WIDEST_AT_BOTTLENECK) if headdim is None else headdim
            self.mixer = replace(self.mixer, d_state=self.mixer.d_state or STATE, headdim=width)
        self.mamba_layer = self.mixer.layer(t.features[-1], "f", residual=False)

    def _logits(self, x: Tensor) -> Tensor | list[Tensor]:
        skips = self.encoder(x)
        skips[-1] = self.mamba_layer(skips[-1])
        return self.decoder(skips)

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """nnU-Net's own for this network: convolutions, and the last norm of every residual block starts at zero."""
        ResidualEncoderUNet.initialize(module)


UMamba2 = UMamba2ResidualEncoderUNet
