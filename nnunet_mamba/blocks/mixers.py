"""What mixes the tokens in a network's layers: the keyword `mixer`.

A new mixer is a module (b l c) tokens, n_slices -> (b l c), built as `Mamba` is, and one entry in MIXERS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from nnunet_mamba.blocks.mamba import Mamba, MambaLayer
from nnunet_mamba.ops.oriented_scan.orders import ORDERS

MIXERS: dict[str, Callable[..., nn.Module] | None] = {"mamba": Mamba, "none": None}
"""By the value of the keyword. None is the twin's: its networks do without these layers"""


@dataclass(frozen=True)
class Mixer:
    """Makes the mixing modules of one network, all with the same settings. False for the twin, which has none."""

    name: str
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError for a name that MIXERS has not."""
        if self.name not in MIXERS:
            raise ValueError(f"mixer={self.name!r}; expected one of {', '.join(MIXERS)}")

    def __bool__(self) -> bool:
        return MIXERS[self.name] is not None

    def core(self, channels: int, orders: str = "f") -> nn.Module:
        """The mixer alone: tokens (b l c) and n_slices -> (b l c). Ask `bool(mixer)` first."""
        make = MIXERS[self.name]
        assert make is not None
        return make(channels, orders, self.d_state, self.d_conv, self.expand)

    def layer(
        self, channels: int, orders: str = ORDERS, n_slices: int | None = None, residual: bool = True
    ) -> nn.Module:
        """The mixer with its norm on a volume, (b c *space) -> (b c *space); the identity for the twin"""
        if not self:
            return nn.Identity()
        return MambaLayer(channels, n_slices=n_slices, residual=residual, mamba=self.core(channels, orders))


def has_mixer(network: nn.Module) -> bool:
    """Whether any module of the network mixes tokens by a scan"""
    kinds = tuple(make for make in MIXERS.values() if isinstance(make, type))
    return any(isinstance(module, kinds) for module in network.modules())
