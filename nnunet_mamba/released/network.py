"""A network of `nnunet_mamba.architectures` under its published parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from nnunet_mamba.architectures.planned import PlannedNetwork
from nnunet_mamba.names import networks
from nnunet_mamba.released.published import Published


class ReleasedNetwork(nn.Module):
    """A network of `nnunet_mamba.architectures` under its published parameter names.

    (b c *space) -> logits (b k *space). `kind` and `config` say what it is; `ignored_keys` lists the parameters of the
    last loaded checkpoint that its own forward never used.
    """

    def __init__(self, published: Published, config: dict[str, Any]):
        super().__init__()
        self.kind, self.config = published.kind, config
        self.ignored_keys: list[str] = []
        self._published = published
        inputs, outputs, self.arch_kwargs = published.plan_keywords(**config)
        self.network: PlannedNetwork = network_class(published)(inputs, outputs, **_with_classes(self.arch_kwargs))
        if published.names:  # published with one head only, at full resolution
            heads: Any = self.network.decoder.seg_layers
            for i in range(len(heads) - 1):
                heads[i] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(b c *space) -> (b k *space)"""
        return self.network(x)

    def state_dict(
        self, *args: Any, destination: dict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Published names, aliases included."""
        own = self.network.state_dict(keep_vars=keep_vars)
        named = {prefix + self._published.published_name(key): value for key, value in own.items()}
        if destination is None:
            return named
        destination.update(named)
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Torch's hook for every module it loads: turns published names into those of the network inside.

        Parameters that the released forward never uses are left out and listed.
        """
        own = {self._published.published_name(key): key for key in self.network.state_dict()}
        given = {key.removeprefix(prefix): key for key in list(state_dict) if key.startswith(prefix)}
        self.ignored_keys = [name for name in given if name not in own and self._is_dead(name)]
        values = {name: state_dict.pop(key) for name, key in given.items()}
        for name, value in values.items():
            if name not in self.ignored_keys:
                state_dict[f"{prefix}network.{own.get(name, name)}"] = value
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _is_dead(self, key: str) -> bool:
        return self._published.dead is not None and re.match(self._published.dead, key) is not None


def network_class(published: Published) -> Callable[..., PlannedNetwork]:
    """The class of `nnunet_mamba.architectures` behind a published network."""
    return networks.network(published.network).load_architecture()


def _with_classes(kwargs: dict[str, Any]) -> dict[str, Any]:
    module, _, name = kwargs["conv_op"].rpartition(".")
    return {**kwargs, "conv_op": getattr(import_module(module), name)}
