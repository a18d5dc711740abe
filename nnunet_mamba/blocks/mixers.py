"""What mixes the tokens in a network's layers: the keywords `mixer` and `conv3d`.

A new mixer is a module (b l c) tokens, n_slices, space -> (b l c), built as `Mamba` is, and one entry in MIXERS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.blocks.same_size import SameSizeConv
from nnunet_mamba.ops.oriented_scan.orders import ORDERS

MIXERS: dict[str, Callable[..., nn.Module] | None] = {
    "mamba": Mamba,
    "mamba2": Mamba2,
    "conv": SameSizeConv,
    "none": None,
}
"""By the value of the keyword. None is the twin's: its networks do without these layers"""
WITHOUT_SCAN = ("conv", "none")


@dataclass(frozen=True)
class Mixer:
    """Makes the mixing modules of one network, all with the same settings. False for the twin, which has none.

    d_state, headdim: None for the mixer's own. conv3d: a convolution of the volume before the scan, instead of the
    causal one of the sequence. axes: of the volume. published: the mixer that the paper has in this place, which "conv"
    is as large as.
    """

    name: str
    d_state: int | None = None
    d_conv: int = 4
    expand: int = 2
    conv3d: bool = False
    axes: int = 3
    headdim: int | None = None
    published: str = "mamba"

    def __post_init__(self) -> None:
        """Raises ValueError for a name that MIXERS has not, and for settings that it cannot have."""
        if self.name not in MIXERS:
            raise ValueError(f"mixer={self.name!r}; expected one of {', '.join(MIXERS)}")
        if self.conv3d and self.name in WITHOUT_SCAN:
            others = ", ".join(name for name in MIXERS if name not in WITHOUT_SCAN)
            raise ValueError(
                f"conv3d=True with mixer={self.name!r}: there is no scan whose convolution it could replace; leave "
                f"conv3d out, or take one of {others}"
            )

    def __bool__(self) -> bool:
        return MIXERS[self.name] is not None

    def core(self, channels: int, orders: str = "f", axes: int | None = None) -> nn.Module:
        """The mixer alone: tokens (b l c), n_slices and space -> (b l c). Ask `bool(mixer)` first.

        axes: of the space that the tokens fill, where that is not the network's volume.
        """
        make = MIXERS[self.name]
        assert make is not None
        return make(channels, orders, **self._settings(axes or self.axes))

    def _settings(self, axes: int) -> dict[str, Any]:
        settings: dict[str, Any] = {"d_conv": self.d_conv, "expand": self.expand}
        if self.d_state is not None:
            settings["d_state"] = self.d_state
        if self.headdim is not None:
            settings["headdim"] = self.headdim
        if self.conv3d:
            settings["conv_axes"] = axes
        if self.name == "conv":
            settings |= {"axes": axes, "replaced": MIXERS[self.published]}
        return settings

    def layer(
        self, channels: int, orders: str = ORDERS, n_slices: int | None = None, residual: bool = True
    ) -> nn.Module:
        """The mixer with its norm on a volume, (b c *space) -> (b c *space); the identity for the twin"""
        if not self:
            return nn.Identity()
        return MambaLayer(channels, n_slices=n_slices, residual=residual, mamba=self.core(channels, orders))


def has_mixer(network: nn.Module) -> bool:
    """Whether any module of the network mixes tokens by a scan"""
    kinds = tuple(make for name, make in MIXERS.items() if name not in WITHOUT_SCAN and isinstance(make, type))
    return any(isinstance(module, kinds) for module in network.modules())
