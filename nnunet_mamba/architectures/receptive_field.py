"""How far a network sees through its convolutions alone: its receptive field, exact, without computing any value.

The network runs once on tensors without memory. With every tensor goes, per axis, which voxels of the image one of its
entries can depend on. Convolutions, pooling, interpolation, padding and cropping change that; all else unites what goes
into it. So a scan counts as what it does to a single token, and means over the volume (of instance norm, of pooling to
one value) count as nothing: both see the whole volume, and the question is how far the network sees without them.

The arithmetic of kernels and strides is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks", Distill 2019, with transposed convolutions and interpolation added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class ReceptiveField:
    """What a voxel of the logits can depend on, in voxels per axis: so many before it and behind it, at most.

    Where strides make voxels unlike, each number is that of the voxel that sees furthest to this side.
    """

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """The larger of both per axis: what is further away cannot be seen"""
        return tuple(max(pair) for pair in zip(self.before, self.behind, strict=True))

    @property
    def size(self) -> tuple[int, ...]:
        """From the first to the last voxel, itself included, per axis"""
        return tuple(1 + sum(pair) for pair in zip(self.before, self.behind, strict=True))


def receptive_field(
    build: Callable[[], nn.Module], input_channels: int, patch_size: Sequence[int]
) -> ReceptiveField:  # fmt: skip
    """The field of the full-resolution logits of the network that `build` makes, through its convolutions alone.

    The network gets (b c *space) and returns logits (b k *space) or a list of them, full resolution first. patch_size:
    any that it takes; the field does not depend on it and may be larger. Raises ValueError for a network whose logits
    do not depend on its image, and for one that joins maps of different strides.
    """
    axes = len(patch_size)
    with FakeTensorMode(), torch.no_grad():
        network = build().eval()
        image = torch.empty(1, input_channels, *map(int, patch_size))
        with _Tracker(image, axes) as tracker:
            output = network(image)
    field = tracker.fields.get(output if isinstance(output, Tensor) else output[0])
    if field is None:
        raise ValueError("the network's logits do not depend on its image: it has no receptive field")
    return ReceptiveField(tuple(ceil(-a.low) for a in field), tuple(floor(a.high) for a in field))


@dataclass(frozen=True)
class _Axis:
    """Entry i depends on voxels from i * step + low to i * step + high, whatever i, along one axis."""

    step: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> _Axis:
        """After a convolution or pooling: entry i takes those from i * stride - padding on"""
        first, last = -padding, (kernel - 1) * dilation - padding
        return _Axis(self.step * stride, self.low + first * self.step, self.high + last * self.step)

    def transposed(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> _Axis:
        """After a transposed convolution: entry j goes to those from j * stride - padding on"""
        step = self.step / stride
        first, last = padding - (kernel - 1) * dilation, padding
        return _Axis(step, self.low + first * step, self.high + last * step)

    def moved(self, entries: int) -> _Axis:
        """Where entry i was the one of i + entries"""
        return _Axis(self.step, self.low + entries * self.step, self.high + entries * self.step)

    def resized(self, old: int, new: int, linear: bool) -> _Axis:
        """After interpolation without aligned corners, from the nearest entry or from the two around"""
        step = self.step * Fraction(old, new)
        sources = [
            (i, (Fraction(2 * i + 1, 2) * Fraction(old, new) - Fraction(1, 2)) if linear else Fraction(i * old, new))
            for i in range(new)
        ]
        lows = [max(floor(s), 0) * self.step - i * step for i, s in sources]
        highs = [min(floor(s) + int(linear and s != floor(s)), old - 1) * self.step - i * step for i, s in sources]
        return _Axis(step, self.low + min(lows), self.high + max(highs))


_Field = tuple[_Axis, ...]


def _united(fields: Sequence[_Field], name: str) -> _Field:
    if len({tuple(axis.step for axis in field) for field in fields}) > 1:
        raise ValueError(f"{name} joins maps of different strides; the receptive field of that is not defined here")
    return tuple(
        _Axis(axes[0].step, min(a.low for a in axes), max(a.high for a in axes)) for axes in zip(*fields, strict=True)
    )


class _Tracker(TorchDispatchMode):
    """Gives every tensor that depends on the image its field"""

    def __init__(self, image: Tensor, axes: int):
        super().__init__()
        self.axes = axes
        self.fields = WeakTensorKeyDictionary()
        self.fields[image] = (_Axis(),) * axes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = [f for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and (f := self.fields.get(t))]
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if known and not (name in _MEANS and made.shape[-self.axes :] != args[0].shape[-self.axes :]):
            rule = _RULES.get(name)
            field = None if rule is None else rule(known[0], args, made, self.axes)
            field = field or _united(known, name)
            self.fields.update((t, field) for t in tree_leaves(made) if isinstance(t, Tensor))
        return made


def _convolved(field: _Field, args: Sequence[Any], made: Any, axes: int) -> _Field | None:
    """None for a convolution along tokens, which is part of a scan"""
    kernel, (stride, padding, dilation, transposed) = args[1].shape[2:], args[3:7]
    if len(kernel) != axes:
        return None
    numbers = zip(field, kernel, *(_each(n, axes) for n in (stride, padding, dilation)), strict=True)
    return tuple((a.transposed if transposed else a.window)(*of_axis) for a, *of_axis in numbers)


def _pooled(field: _Field, args: Sequence[Any], made: Any, axes: int) -> _Field:
    kernel = _each(args[1], axes)
    stride = _each(args[2], axes) if len(args) > 2 and args[2] else kernel
    padding = _each(args[3], axes) if len(args) > 3 else (0,) * axes
    return tuple(a.window(*of_axis) for a, *of_axis in zip(field, kernel, stride, padding, strict=True))


def _resized(linear: bool) -> Callable[..., _Field]:
    def rule(field: _Field, args: Sequence[Any], made: Any, axes: int) -> _Field:
        sizes = zip(field, args[0].shape[2:], made.shape[2:], strict=True)
        return tuple(a.resized(int(old), int(new), linear) for a, old, new in sizes)

    return rule


def _padded(field: _Field, args: Sequence[Any], made: Any, axes: int) -> _Field:
    """Torch names the last axis first, and of each the entries before and behind"""
    before = [*args[1][::2], *(0,) * axes][:axes][::-1]
    return tuple(a.moved(-n) for a, n in zip(field, before, strict=True))


def _cropped(field: _Field, args: Sequence[Any], made: Any, axes: int) -> _Field | None:
    given = dict(enumerate(args))
    dim, start, step = (given.get(n) or least for n, least in ((1, 0), (2, 0), (4, 1)))
    dim = dim % args[0].dim() - 2
    if args[0].dim() != axes + 2 or dim < 0:
        return None
    start = int(start) + (int(args[0].shape[dim + 2]) if start < 0 else 0)
    return tuple(a.window(1, int(step), -start) if i == dim else a for i, a in enumerate(field))


def _each(numbers: int | Sequence[int], axes: int) -> Sequence[int]:
    numbers = [numbers] if isinstance(numbers, int) else list(numbers)
    return numbers * axes if len(numbers) == 1 else numbers


_MEANS = ("mean", "sum", "amax", "amin", "var", "std", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
"""What comes out of these has no field, where they are taken over the volume"""
_RULES: dict[str, Callable[..., _Field | None]] = {
    "convolution": _convolved,
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"), _pooled),
    **dict.fromkeys(("upsample_nearest2d", "upsample_nearest3d"), _resized(linear=False)),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_trilinear3d"), _resized(linear=True)),
    "constant_pad_nd": _padded,
    "slice": _cropped,
}
