"""The weights of an oriented scan, and those of an oriented SSD, as one record each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Of all orders, stacked along a first axis o; of one order (`of`), without it.

    conv_weight (o e w), conv_bias (o e), x_proj_weight (o r+2n e), dt_proj_weight (o e r), dt_bias (o e), A (o e n)
    negative, D (o e)
    """

    conv_weight: Tensor
    conv_bias: Tensor
    x_proj_weight: Tensor
    dt_proj_weight: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @property
    def rank(self) -> int:
        return self.dt_proj_weight.shape[-1]

    @property
    def states(self) -> int:
        return self.A.shape[-1]

    def of(self, order: int, dtype: torch.dtype) -> Weights:
        """One order's, in another precision"""
        return Weights(*(w[order].to(dtype) for w in self))

    def like(self, gradients: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Gradients per order -> stacked, in the weights' own precisions"""
        return _stacked(gradients, self)


class SSDWeights(NamedTuple):
    """Of all orders, stacked along a first axis o; of one order (`of`), without it.

    conv_weight (o e+2gn w), conv_bias (o e+2gn), dt_bias (o h), A (o h) negative, D (o h)
    """

    conv_weight: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    def of(self, order: int, dtype: torch.dtype) -> SSDWeights:
        """One order's, in another precision"""
        return SSDWeights(*(w[order].to(dtype) for w in self))

    def like(self, gradients: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Gradients per order -> stacked, in the weights' own precisions"""
        return _stacked(gradients, self)


def _stacked(gradients: list[tuple[Tensor, ...]], weights: tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.stack(g).to(w.dtype) for g, w in zip(zip(*gradients, strict=True), weights, strict=True)]
