"""Published networks exactly as released: same function, same state_dict keys, so that their checkpoints load.

    network = nnunet_mamba.released.build("segmamba", in_chans=4, out_chans=4)
    network = nnunet_mamba.released.load_released("segmamba_brats.pt")

Every published topology is one that a plan could ask for, so there is one implementation of each network
(`nnunet_mamba.architectures`); a file per paper holds the published sizes and how the published parameters are called.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_mamba import checkpoints
from nnunet_mamba.released import lightmunet, segmamba, segmamba_v2, segresmamba, umamba, umamba2
from nnunet_mamba.released.network import ReleasedNetwork, network_class
from nnunet_mamba.released.published import Published, Weights

__all__ = ["ReleasedNetwork", "build", "kinds", "load_released", "network_class", "read_weights", "recognise"]

WRAPPERS = ("module.", "_orig_mod.", "network.")
"""Prefixes that DistributedDataParallel, torch.compile and trainers put before every key."""
CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net")
"""Entries of a checkpoint file under which the weights may lie."""
PAPERS = (segmamba, segmamba_v2, segresmamba, lightmunet, umamba, umamba2)
PUBLISHED = {published.kind: published for paper in PAPERS for published in paper.PUBLISHED}


def kinds() -> tuple[str, ...]:
    """Names of the published networks."""
    return tuple(PUBLISHED)


def build(kind: str, **config: Any) -> ReleasedNetwork:
    """A published network by name, with the constructor arguments of its released class.

    Raises ValueError naming the known kinds, or the known arguments.
    """
    published = _published(kind)
    unknown = [name for name in config if name not in published.config_names()]
    if unknown:
        raise ValueError(f"{kind}: unknown {', '.join(unknown)}; known: {', '.join(published.config_names())}")
    missing = [
        name
        for name, parameter in inspect.signature(published.plan_keywords).parameters.items()
        if parameter.default is parameter.empty and name not in config
    ]
    if missing:
        raise ValueError(f"{kind}: {', '.join(missing)} missing; a plan of the checkpoint's dataset has them")
    return ReleasedNetwork(published, config)


def load_released(path_or_state_dict: str | Path | Weights, **config: Any) -> ReleasedNetwork:
    """The published network that a checkpoint holds, with its weights, in evaluation mode.

    Which network and which sizes is read off the keys and shapes; `config` adds what they do not tell (U-Mamba's
    `strides`, and its `patch_size` if it scans over channels) and overrides what they do. Raises ValueError if the
    checkpoint is of no known network, or does not fit.
    """
    weights = read_weights(path_or_state_dict)
    published = recognise(weights)
    network = build(published.kind, **{**published.sizes_of(weights), **config})
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"this looks like a {published.kind} checkpoint but does not fit: {error}") from error
    return network.eval()


def read_weights(path_or_state_dict: str | Path | Weights) -> dict[str, Tensor]:
    """Tensors by name, wrappers and containers taken off. Files are read without running any code in them."""
    content: Any = path_or_state_dict
    where = ""
    if isinstance(content, (str, Path)):
        where = f"{content}: "
        content = checkpoints.read(content)
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    named = content.items() if isinstance(content, Mapping) else ()
    weights = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not weights:
        raise ValueError(
            f"{where}no weights found; expected a state_dict, or a checkpoint with one of {', '.join(CONTAINERS)}"
        )
    while True:
        prefix = next((w for w in WRAPPERS if all(key.startswith(w) for key in weights)), None)
        if prefix is None:
            return weights
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}


def recognise(weights: Weights) -> Published:
    """Which published network these keys belong to. Raises ValueError listing the known ones."""
    for published in PUBLISHED.values():
        if all(any(re.match(pattern, key) for key in weights) for pattern in published.recognise):
            return published
    some = ", ".join(list(weights)[:3])
    raise ValueError(f"no published network has these keys ({some}, ...); known: {', '.join(PUBLISHED)}")


def _published(kind: str) -> Published:
    if kind not in PUBLISHED:
        raise ValueError(f"unknown network {kind!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[kind]
