"""Published networks exactly as released: same function, same state_dict keys, so that their checkpoints load.

    network = nnunet_mamba.released.build("segmamba", in_chans=4, out_chans=4)
    network = nnunet_mamba.released.load_released("segmamba_brats.pt")

Every published topology is one that a plan could ask for, so there is one implementation of each network
(`nnunet_mamba.architectures`); this file holds the published sizes and how the published parameters are called.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunet_mamba import checkpoints
from nnunet_mamba.architectures.planned import PlannedNetwork
from nnunet_mamba.names import networks

WRAPPERS = ("module.", "_orig_mod.", "network.")
"""Prefixes that DistributedDataParallel, torch.compile and trainers put before every key."""
CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net")
"""Entries of a checkpoint file under which the weights may lie."""
RELEASED_SLICES = (64, 32, 16, 8)
Rename = tuple[tuple[str, str], ...]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Published:
    """One published network.

    kwargs: published configuration -> (input channels, outputs, plan keywords). names: own parameter name -> published
    one, as patterns. recognise: keys that only this network has. infer: configuration from a checkpoint's shapes.
    dead: published parameters that its forward never uses.
    """

    kind: str
    network: str
    kwargs: Callable[..., tuple[int, int, dict[str, Any]]]
    names: Rename
    recognise: tuple[str, ...]
    infer: Callable[[Weights], dict[str, Any]]
    dead: str | None = None

    def published_name(self, own: str) -> str:
        """How released checkpoints call this parameter."""
        for pattern, replacement in self.names:
            if re.match(pattern, own):
                return re.sub(pattern, replacement, own, count=1)
        return own

    def config_names(self) -> list[str]:
        return list(inspect.signature(self.kwargs).parameters)


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
        inputs, outputs, self.arch_kwargs = published.kwargs(**config)
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
        for name, parameter in inspect.signature(published.kwargs).parameters.items()
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
    network = build(published.kind, **{**published.infer(weights), **config})
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


def network_class(published: Published) -> Callable[..., PlannedNetwork]:
    """The class of `nnunet_mamba.architectures` behind a published network."""
    return networks.network(published.network).load_architecture()


def _published(kind: str) -> Published:
    if kind not in PUBLISHED:
        raise ValueError(f"unknown network {kind!r}; known: {', '.join(PUBLISHED)}")
    return PUBLISHED[kind]


def _with_classes(kwargs: dict[str, Any]) -> dict[str, Any]:
    module, _, name = kwargs["conv_op"].rpartition(".")
    return {**kwargs, "conv_op": getattr(import_module(module), name)}


# published sizes, as plan keywords


def _topology(dim: int, features: Sequence[int], **more: Any) -> dict[str, Any]:
    """Plan keywords of an isotropic topology that halves every axis at every stage."""
    n = len(features)
    return {
        "n_stages": n,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim for _ in range(n)],
        "strides": [[1] * dim, *([2] * dim for _ in range(n - 1))],
        **more,
    }


def _segmamba(
    in_chans: int = 1,
    out_chans: int = 13,
    depths: Sequence[int] = (2, 2, 2, 2),
    feat_size: Sequence[int] = (48, 96, 192, 384),
    hidden_size: int = 768,
    nslices: Sequence[int] | str = RELEASED_SLICES,
) -> tuple[int, int, dict[str, Any]]:
    """nslices: "auto" takes the first axis of each map, which equals the release for 128 slices and always works."""
    slices = None if nslices == "auto" else list(nslices)
    return in_chans, out_chans, _topology(3, [*feat_size, hidden_size], depths=list(depths), n_slices=slices)


def _segmamba_v2(
    in_chans: int = 1,
    out_chans: int = 13,
    depths: Sequence[int] = (2, 2, 2, 2),
    feat_size: Sequence[int] = (48, 96, 192, 384),
    hidden_size: int = 768,
) -> tuple[int, int, dict[str, Any]]:
    return in_chans, out_chans, _topology(3, [*feat_size, hidden_size], depths=list(depths))


def _segresmamba(
    in_chans: int = 1,
    out_chans: int = 13,
    feat_size: Sequence[int] = (48, 96, 192, 384),
    mamba: bool = False,
    nslices: int | None = None,
) -> tuple[int, int, dict[str, Any]]:
    """mamba: True calls the Mamba layers, which the released forward constructs and never calls."""
    features = [*feat_size, feat_size[-1]]
    return in_chans, out_chans, _topology(3, features, mixer="mamba" if mamba else "none", n_slices=nslices)


def _lightmunet(
    spatial_dims: int = 3,
    init_filters: int = 8,
    in_channels: int = 1,
    out_channels: int = 2,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
) -> tuple[int, int, dict[str, Any]]:
    features = [init_filters * 2**i for i in range(len(blocks_down))]
    blocks = {"blocks_down": list(blocks_down), "blocks_up": list(blocks_up)}
    return in_channels, out_channels, _topology(spatial_dims, features, **blocks)


def _umamba(
    input_channels: int,
    num_classes: int,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    n_conv_per_stage: int | Sequence[int] = 2,
    n_conv_per_stage_decoder: int | Sequence[int] = 2,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> tuple[int, int, dict[str, Any]]:
    """patch_size: the training patch, for the stages that scan over channels."""
    topology = _topology(len(kernel_sizes[0]), features_per_stage)
    topology["kernel_sizes"] = [list(k) for k in kernel_sizes]
    topology["strides"] = [list(s) for s in strides]
    return (
        input_channels,
        num_classes,
        {
            **topology,
            "n_conv_per_stage": n_conv_per_stage,
            "n_conv_per_stage_decoder": n_conv_per_stage_decoder,
            "patch_size": None if patch_size is None else list(patch_size),
            "deep_supervision": deep_supervision,
        },
    )


# configurations from shapes


def _count(weights: Weights, pattern: str) -> int:
    """Different numbers in the pattern's group."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


def _infer_vit(weights: Weights) -> dict[str, Any]:
    """What SegMamba and its successors have in common"""
    widths = [weights[f"vit.mlps.{i}.fc2.weight"].shape[0] for i in range(4)]
    return {"feat_size": widths}


def _infer_segmamba(weights: Weights) -> dict[str, Any]:
    return {
        **_infer_vit(weights),
        "in_chans": weights["vit.downsample_layers.0.0.weight"].shape[1],
        "out_chans": weights["out.conv.conv.weight"].shape[0],
        "hidden_size": weights["encoder5.layer.conv1.conv.weight"].shape[0],
        "depths": [_count(weights, rf"vit\.stages\.{i}\.(\d+)\.") for i in range(4)],
    }


def _infer_segmamba_v2(weights: Weights) -> dict[str, Any]:
    return {
        **_infer_vit(weights),
        "in_chans": weights["encoder1.layer.conv1.conv.weight"].shape[1],
        "out_chans": weights["out.conv.conv.weight"].shape[0],
        "hidden_size": weights["encoder5.layer.conv1.conv.weight"].shape[0],
        "depths": [_count(weights, rf"vit\.gscs\.{i}\.(\d+)\.") for i in range(4)],
    }


def _infer_segresmamba(weights: Weights) -> dict[str, Any]:
    return {
        **_infer_vit(weights),
        "in_chans": weights["vit.downsample_layers.0.0.weight"].shape[1],
        "out_chans": weights["out.weight"].shape[1],
    }


def _infer_lightmunet(weights: Weights) -> dict[str, Any]:
    stem = weights["convInit.1.conv.weight"]
    stages = _count(weights, r"down_layers\.(\d+)\.")
    return {
        "spatial_dims": stem.dim() - 2,
        "init_filters": stem.shape[0],
        "in_channels": stem.shape[1],
        "out_channels": weights["conv_final.2.1.conv.weight"].shape[0],
        "blocks_down": [_count(weights, rf"down_layers\.{i}\.(\d+)\.norm1\.") for i in range(stages)],
        "blocks_up": [_count(weights, rf"up_layers\.{i}\.(\d+)\.") for i in range(stages - 1)],
    }


def _infer_umamba(weights: Weights) -> dict[str, Any]:
    stages = _count(weights, r"encoder\.stages\.(\d+)\.")
    first = [weights[f"encoder.stages.{i}.0.conv1.weight"] for i in range(stages)]
    last_head = weights[f"decoder.seg_layers.{stages - 2}.weight"]
    return {
        "input_channels": weights["encoder.stem.0.conv1.weight"].shape[1],
        "num_classes": last_head.shape[0],
        "features_per_stage": [w.shape[0] for w in first],
        "kernel_sizes": [list(w.shape[2:]) for w in first],
        "n_conv_per_stage": [_count(weights, rf"encoder\.stages\.{i}\.(\d+)\.") for i in range(stages)],
        "n_conv_per_stage_decoder": [_count(weights, rf"decoder\.stages\.{i}\.(\d+)\.") for i in range(stages - 1)],
    }


# published names

_UNETR: Rename = (
    (r"encoder\.side_outputs\.(\d+)\.", r"vit.mlps.\1."),
    *((rf"encoder\.skips\.{i}\.", f"encoder{i + 1}.layer.") for i in range(5)),
    *((rf"decoder\.stages\.{i}\.", f"decoder{5 - i}.") for i in range(4)),
    (r"decoder\.refine\.", "decoder1.layer."),
    (r"decoder\.seg_layers\.3\.", "out.conv.conv."),
)
_SEGMAMBA: Rename = (
    (r"encoder\.downsample\.0\.conv\.", "vit.downsample_layers.0.0."),
    (r"encoder\.downsample\.(\d+)\.conv\.", r"vit.downsample_layers.\1.1."),
    (r"encoder\.stages\.(\d+)\.gsc\.", r"vit.gscs.\1."),
    (r"encoder\.stages\.(\d+)\.layers\.", r"vit.stages.\1."),
    *_UNETR,
)
_SEGMAMBA_V2: Rename = (
    (r"encoder\.downsample\.(\d+)\.", r"vit.downsample_layers.\1.0."),
    (r"encoder\.convolutions\.(\d+\.\d+\.\w+_path\.\d+)\.conv\.", r"vit.gscs.\1.block.0."),
    (r"encoder\.convolutions\.(\d+\.\d+)\.attention\.", r"vit.gscs.\1.se.fc."),
    (r"encoder\.scans\.", "vit.stages."),
    *_UNETR,
)
_SEGRESMAMBA: Rename = (
    (r"encoder\.downsample\.0\.conv\.", "vit.downsample_layers.0.0."),
    (r"encoder\.downsample\.(\d+)\.mix\.", r"vit.downsample_layers.\1.1."),
    (r"encoder\.downsample\.(\d+)\.conv\.", r"vit.downsample_layers.\1.3."),
    (r"encoder\.blocks\.", "vit.gscs."),
    (r"encoder\.stages\.(\d+)\.", r"vit.stages.\1.0."),
    (r"encoder\.side_outputs\.", "vit.mlps."),
    (r"decoder\.narrow\.(\d+)\.", r"segresnet.up_samples.\1.0.conv."),
    (r"decoder\.stages\.(\d+)\.(conv\d)\.", r"segresnet.up_layers.\1.0.\2.conv."),
    (r"decoder\.stages\.(\d+)\.", r"segresnet.up_layers.\1.0."),
    (r"decoder\.seg_layers\.3\.", "out."),
)
_LIGHTMUNET: Rename = (
    (r"encoder\.stem\.(\d)\.", r"convInit.\1.conv."),
    *((rf"encoder\.down\.{i}\.0\.", f"down_layers.{i + 1}.0.0.") for i in range(9)),
    *((rf"encoder\.stages\.(\d+)\.{j}\.", rf"down_layers.\1.{j + 1}.") for j in range(9)),
    (r"decoder\.narrow\.(\d+)\.", r"up_samples.\1.0.conv."),
    (r"decoder\.stages\.(\d+\.\d+)\.conv\.(\d)\.", r"up_layers.\1.conv.\2.conv."),
    (r"decoder\.stages\.", "up_layers."),
    (r"decoder\.final_norm\.", "conv_final.0."),
    (r"decoder\.seg_layers\.\d+\.(\d)\.", r"conv_final.2.\1.conv."),
)

_RECORDS = (
    Published(
        "segmamba", "SegMamba", _segmamba, _SEGMAMBA,
        (r"vit\.stages\.0\.0\.mamba\.A_s_log$", r"vit\.gscs\.0\.proj2\.weight$"), _infer_segmamba,
    ),
    Published(
        "segmamba_v2", "SegMambaV2", _segmamba_v2, _SEGMAMBA_V2, (r"vit\.gscs\.0\.0\.deep_path\.",), _infer_segmamba_v2
    ),
    Published(
        "segresmamba", "SegResMamba", _segresmamba, _SEGRESMAMBA, (r"segresnet\.up_layers\.", r"vit\.gscs\.0\.proj5\."),
        _infer_segresmamba,
        dead=r"segresnet\.(convInit|down_layers|conv_final)\.|vit\.gscs\.\d+\.mamba_layer\.",
    ),
    Published(
        "lightmunet", "LightMUNet", _lightmunet, _LIGHTMUNET, (r"convInit\.", r"down_layers\.0\.1\.conv1\.mamba\."),
        _infer_lightmunet,
    ),
    Published("umamba_enc", "UMambaEnc", _umamba, (), (r"encoder\.mamba_layers\.\d+\.mamba\.",), _infer_umamba),
    Published("umamba_bot", "UMambaBot", _umamba, (), (r"mamba_layer\.mamba\.", r"encoder\.stem\."), _infer_umamba),
)  # fmt: skip
PUBLISHED: dict[str, Published] = {record.kind: record for record in _RECORDS}
