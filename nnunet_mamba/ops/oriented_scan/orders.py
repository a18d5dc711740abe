"""Token orders of a flattened volume: which token each scan step reads.

f  forward        step t reads token t
b  reverse        step t reads token l-1-t
s  inter-slice    all slices' first tokens, then all second tokens, ...: step t reads token (t % n) * (l // n) + t // n
"""

from __future__ import annotations

from torch import Tensor

ORDERS = "fbs"


def permute(x: Tensor, order: str, n_slices: int) -> Tensor:
    """(b l k) natural -> scan order"""
    if order == "f":
        return x
    if order == "b":
        return x.flip(1)
    batch, length, channels = x.shape
    return x.reshape(batch, n_slices, length // n_slices, channels).transpose(1, 2).reshape(batch, length, channels)


def restore(x: Tensor, order: str, n_slices: int) -> Tensor:
    """(b l k) scan order -> natural; the inverse of `permute`"""
    if order == "s":
        return permute(x, order, x.shape[1] // n_slices)
    return permute(x, order, n_slices)


def check_orders(op: str, orders: str, n_slices: int, length: int) -> None:
    """Refuse unknown letters, and slices that do not divide the tokens."""
    if not orders or any(letter not in ORDERS for letter in orders):
        raise ValueError(f"{op}: orders={orders!r}; expected one or more of the letters {', '.join(ORDERS)}")
    if "s" in orders and (n_slices < 1 or length % n_slices):
        raise ValueError(
            f"{op}: {length} tokens cannot be cut into n_slices={n_slices} equal slices; "
            "give the size of the volume's first axis"
        )
