"""Triton kernels of Mamba-2's scan, backward; see `triton_ssd_forward` for the walk, the layout and the letters.

    states       from the chunks' starts once more: the state before every row
    adjoints     from end to start: each chunk from a zero adjoint, for `carry`; then the adjoint after every row
    gradients    every row of its own, with the state before it and the adjoint after it: all gradients

`gradients` walks the heads of a group, so that C B^T is computed once and the gradients of B and C are summed up in
registers. The gradient of an exponent dt A is a sum over all pairs of steps that it lies between, and is added up as
such: as a difference of running sums it would lose its digits where decays are steep.
"""

# Triton's language only looks like Python to a type checker
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from nnunet_mamba.ops.kernels.triton_pieces import softplus_slope, token_of
from nnunet_mamba.ops.kernels.triton_ssd_pieces import (
    COUNTS,
    between,
    head_decay,
    product,
    rows_tile,
    running_sums,
    state_tile,
    time_steps,
)


@triton.jit(do_not_specialize=COUNTS)
def adjoints_kernel(
    u, dt, A, bias, grad_y, entering, ends, kept, batches, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, Q: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_y (b l h p) in token order, entering (s c h n p) at each chunk's end: zero if None
    -> ends (s c h n p): the adjoint at each chunk's start; or, if given, kept (s rows h n p): that after every row

    Grid: chunks, tiles of heads, s.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    K: tl.constexpr = HEADS * P + 2 * GROUPS * N
    TILES: tl.constexpr = (P + BP - 1) // BP
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    batch = (tl.program_id(2) - order * batches).to(tl.int64)
    start = tl.program_id(0) * CHUNK
    head = tl.program_id(1) // TILES
    p = tl.program_id(1) % TILES * BP + tl.arange(0, BP)
    n = tl.arange(0, BN)
    q = tl.arange(0, Q)
    dt += batch * dt_b + head
    if bias is not None:
        bias += order * HEADS + head
    A2 = head_decay(A + order * HEADS + head, ACC)
    tile, inside = state_tile(n, p, N, P)
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS + head
    G = tl.zeros([BN, BP], ACC)
    if entering is not None:
        G = tl.load(entering + index * (N * P) + tile, mask=inside, other=0.0)
    u += sequence * length * K
    grad_y += batch * length * (HEADS * P) + head * P
    rows_here = tl.cdiv(tl.minimum(CHUNK, length - start), Q)
    for back in range(0, rows_here):
        first = start + (rows_here - 1 - back) * Q
        t = first + q
        here = t < length
        if kept is not None:
            at = (sequence * tl.cdiv(length, Q) + first // Q) * HEADS + head
            tl.store(kept + at * (N * P) + tile, G.to(kept.dtype.element_ty), mask=inside)
        token = token_of(t, codes, order, length, n_slices)
        step = time_steps(dt, token * dt_t, here, bias, SOFTPLUS, ACC)
        coarse, fine, coarse_end, fine_end = running_sums(step * A2, Q)
        grad = rows_tile(grad_y, token * (HEADS * P), p, here, p < P, P % BP == 0).to(ACC)
        C = rows_tile(
            u + HEADS * P + (GROUPS + head // (HEADS // GROUPS)) * N, t.to(tl.int64) * K, n, here, n < N, N == BN
        )
        read = grad * tl.exp2(coarse + fine)[:, None]
        G = tl.exp2(coarse_end + fine_end) * G + product(tl.trans(C), read, OPERAND, PRECISION, ACC)
    if ends is not None:
        tl.store(ends + index * (N * P) + tile, G, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def gradients_kernel(
    u, dt, A, bias, D, grad_y, before, after, grad_u, grad_bc, grad_dt, grad_heads,
    batches, sequences, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr, Q: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """before, after (s rows h n p): the state before every row and the adjoint after it
    -> grad_u (s l k), in scan order: of x, and of B and C too if PARTS is 1; else those go to grad_bc (parts s l 2gn)
       grad_dt (s l h), in token order, before bias and softplus if SOFTPLUS
       grad_heads (3 s rows h): of A, of the bias, of D (if given)

    Grid: rows, groups x PARTS (programs that share a group's heads), s.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    E: tl.constexpr = HEADS * P
    K: tl.constexpr = E + 2 * GROUPS * N
    SHARE: tl.constexpr = HEADS // GROUPS // PARTS
    LN2: tl.constexpr = 0.6931471805599453
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    batch = (tl.program_id(2) - order * batches).to(tl.int64)
    group = tl.program_id(1) // PARTS
    part = tl.program_id(1) % PARTS
    q = tl.arange(0, Q)
    n = tl.arange(0, BN)
    earlier = q[None, :] < q[:, None]
    from_here = tl.where(q[None, :] >= q[:, None], 1.0, 0.0)
    t = tl.program_id(0) * Q + q
    here = t < length
    token = token_of(t, codes, order, length, n_slices)
    rows = t.to(tl.int64) * K
    grad_rows = token * E
    u += sequence * length * K
    grad_u += sequence * length * K
    grad_y += batch * length * E
    index = sequence * tl.num_programs(0) + tl.program_id(0)

    B = rows_tile(u + E + group * N, rows, n, here, n < N, N == BN)
    C = rows_tile(u + E + (GROUPS + group) * N, rows, n, here, n < N, N == BN)
    products = product(C, tl.trans(B), OPERAND, PRECISION, ACC)
    grad_products = tl.zeros([Q, Q], ACC)
    grad_B = tl.zeros([Q, BN], ACC)
    grad_C = tl.zeros([Q, BN], ACC)
    for k in range(0, SHARE):
        head = (group * PARTS + part) * SHARE + k
        own = order * HEADS + head
        step = time_steps(dt + batch * dt_b + head, token * dt_t, here, None if bias is None else bias + own,
                          SOFTPLUS, ACC)  # fmt: skip
        A2 = head_decay(A + own, ACC)
        coarse, fine, coarse_end, fine_end = running_sums(step * A2, Q)
        decays = between(coarse, fine, Q)
        since_start = tl.exp2(coarse + fine)
        until_end = tl.exp2((coarse_end - coarse) + (fine_end - fine))
        weights = products * decays
        skip = tl.sum(tl.zeros([Q], ACC), 0)
        if D is not None:
            skip = tl.load(D + own)
        pairs = tl.zeros([Q, Q], ACC)
        read = tl.zeros([Q, BN], ACC)
        given = tl.zeros([Q, BN], ACC)
        grad_step = tl.zeros([Q], ACC)
        to_end = tl.zeros([Q], ACC)
        along = tl.zeros([Q], ACC)
        whole = tl.sum(tl.zeros([Q], ACC), 0)
        for p0 in range(0, P, BP):
            p = p0 + tl.arange(0, BP)
            x = rows_tile(u + head * P, rows, p, here, p < P, P % BP == 0)
            grad = rows_tile(grad_y + head * P, grad_rows, p, here, p < P, P % BP == 0)
            tile, inside = state_tile(n, p, N, P)
            at = (index * HEADS + head) * (N * P) + tile
            S = tl.load(before + at, mask=inside, other=0.0)
            G = tl.load(after + at, mask=inside, other=0.0)
            pairs += product(grad, tl.trans(x), OPERAND, PRECISION, ACC)
            read += product(grad, tl.trans(S), OPERAND, PRECISION, ACC)
            given += product(x, tl.trans(G), OPERAND, PRECISION, ACC)
            written = product(B, G, OPERAND, PRECISION, ACC) * until_end[:, None]
            into_given = product(tl.trans(weights), grad, OPERAND, PRECISION, ACC) + written
            x = x.to(ACC)
            grad = grad.to(ACC)
            tl.store(
                grad_u + head * P + rows[:, None] + p[None, :],
                (into_given * step[:, None] + skip * grad).to(grad_u.dtype.element_ty),
                mask=here[:, None] & (p < P)[None, :],
            )
            grad_step += tl.sum(into_given * x, 1)
            to_end += tl.sum(written * x, 1)
            along += tl.sum(grad * x, 1)
            whole += tl.sum(tl.sum(S.to(ACC) * G.to(ACC), 1), 0)
        grad_C += read * since_start[:, None]
        grad_B += given * (until_end * step)[:, None]
        pairs *= decays * step[None, :]
        grad_products += pairs
        # step t is in the exponents of every pair j < t <= i, of reading the start at i >= t, of what j < t gives the
        # end, and of the start's share of the end
        crossing = product(from_here, pairs * products, OPERAND, PRECISION, ACC)
        from_start = tl.sum(read * C.to(ACC), 1) * since_start
        into_exponent = tl.sum(tl.where(earlier, crossing + (to_end * step)[None, :], from_start[None, :]), 1)
        into_exponent += whole * tl.exp2(coarse_end + fine_end)
        into_exponent = tl.where(here, into_exponent, 0.0)
        grad_step += into_exponent * (A2 * LN2)
        if SOFTPLUS:
            grad_step *= softplus_slope(step, ACC)
        tl.store(grad_dt + (sequence * length + token) * HEADS + head, grad_step, mask=here)
        where = grad_heads + index * HEADS + head
        size = sequences.to(tl.int64) * tl.num_programs(0) * HEADS
        tl.store(where, tl.sum(into_exponent * step, 0))
        tl.store(where + size, tl.sum(tl.where(here, grad_step, 0.0), 0))
        if D is not None:
            tl.store(where + 2 * size, tl.sum(along, 0))
    grad_C += product(grad_products, B, OPERAND, PRECISION, ACC)
    grad_B += product(tl.trans(grad_products), C, OPERAND, PRECISION, ACC)
    if PARTS == 1:
        into = grad_u + E + group * N
        into_rows = rows
    else:
        into = grad_bc + (part.to(tl.int64) * sequences + sequence) * length * (2 * GROUPS * N) + group * N
        into_rows = t.to(tl.int64) * (2 * GROUPS * N)
    into += into_rows[:, None] + n[None, :]
    mask = here[:, None] & (n < N)[None, :]
    tl.store(into, grad_B.to(into.dtype.element_ty), mask=mask)
    tl.store(into + GROUPS * N, grad_C.to(into.dtype.element_ty), mask=mask)
