"""Triton kernels of Mamba-2's scan, backward; see `triton_ssd_forward` for the walk, the layout and the letters.

    states            from the chunks' starts once more: the state before every row
    adjoints          from end to start: each chunk from a zero adjoint, for `carry`; then the adjoint after every row
    head_gradients    every row of every head, with the state before it and the adjoint after it: of x, dt and A, D
    group_gradients   every row of every group likewise: of B and C, summed over the group's heads in registers

The gradient of an exponent dt A is a sum over all pairs of steps that it lies between, and is added up as such: as a
difference of running sums it would lose its digits where decays are steep.
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
    product_onto,
    rows_tile,
    running_sums,
    state_tile,
    time_steps,
    turned_state_tile,
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
    tile, inside = turned_state_tile(n, p, N, P)
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS + head
    G = tl.zeros([BP, BN], ACC)
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
        G = tl.exp2(coarse_end + fine_end) * G + product(tl.trans(read), C, OPERAND, PRECISION, ACC)
    if ends is not None:
        tl.store(ends + index * (N * P) + tile, G, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def head_gradients_kernel(
    u, dt, A, bias, D, grad_y, before, after, grad_u, grad_dt, grad_heads,
    batches, sequences, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr,
    BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """before, after (s rows h n p): the state before every row and the adjoint after it
    -> grad_u (s l k), in scan order, of x only
       grad_dt (s l h), in token order, before bias and softplus if SOFTPLUS
       grad_heads (3 s rows h): of A, of the bias, of D (if given)

    Grid: rows, heads, s.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    E: tl.constexpr = HEADS * P
    K: tl.constexpr = E + 2 * GROUPS * N
    LN2: tl.constexpr = 0.6931471805599453
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    batch = (tl.program_id(2) - order * batches).to(tl.int64)
    head = tl.program_id(1)
    own = order * HEADS + head
    q = tl.arange(0, Q)
    n = tl.arange(0, BN)
    t = tl.program_id(0) * Q + q
    here = t < length
    token = token_of(t, codes, order, length, n_slices)
    rows = t.to(tl.int64) * K
    u += sequence * length * K
    grad_u += sequence * length * K + head * P
    grad_y += batch * length * E + head * P
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS + head
    if bias is not None:
        bias += own

    step = time_steps(dt + batch * dt_b + head, token * dt_t, here, bias, SOFTPLUS, ACC)
    A2 = head_decay(A + own, ACC)
    coarse, fine, coarse_end, fine_end = running_sums(step * A2, Q)
    since_start = tl.exp2(coarse + fine)
    until_end = tl.exp2((coarse_end - coarse) + (fine_end - fine))
    bc = u + E + head // (HEADS // GROUPS) * N
    B = rows_tile(bc, rows, n, here, n < N, N == BN)
    C = rows_tile(bc + GROUPS * N, rows, n, here, n < N, N == BN)
    weights = product(C, tl.trans(B), OPERAND, PRECISION, ACC) * between(coarse, fine, Q)
    skip = tl.sum(tl.zeros([Q], ACC), 0)
    if D is not None:
        skip = tl.load(D + own)
    pairs = tl.zeros([Q, Q], ACC)
    grad_step = tl.zeros([Q], ACC)
    from_start = tl.zeros([Q], ACC)
    to_end = tl.zeros([Q], ACC)
    along = tl.zeros([Q], ACC)
    whole = tl.zeros([BN], ACC)
    for p0 in range(0, P, BP):
        p = p0 + tl.arange(0, BP)
        x = rows_tile(u + head * P, rows, p, here, p < P, P % BP == 0)
        grad = rows_tile(grad_y, token * E, p, here, p < P, P % BP == 0)
        tile, inside = state_tile(n, p, N, P)
        S = tl.load(before + index * (N * P) + tile, mask=inside, other=0.0)
        G = tl.load(after + index * (N * P) + tile, mask=inside, other=0.0)
        whole += tl.sum(S.to(ACC) * G.to(ACC), 1)
        pairs = product_onto(pairs, grad, tl.trans(x), OPERAND, PRECISION, ACC)
        read = product(C, S, OPERAND, PRECISION, ACC)
        written = product(B, G, OPERAND, PRECISION, ACC) * until_end[:, None]
        into_given = product_onto(written, tl.trans(weights), grad, OPERAND, PRECISION, ACC)
        x = x.to(ACC)
        grad = grad.to(ACC)
        tl.store(
            grad_u + rows[:, None] + p[None, :],
            (into_given * step[:, None] + skip * grad).to(grad_u.dtype.element_ty),
            mask=here[:, None] & (p < P)[None, :],
        )
        grad_step += tl.sum(into_given * x, 1)
        from_start += tl.sum(read * grad, 1)
        to_end += tl.sum(written * x, 1)
        along += tl.sum(grad * x, 1)
    # step t is in the exponents of every pair j < t <= i, of reading the start at i >= t, of what j < t gives the end,
    # and of the start's share of the end
    from_here = tl.where(q[None, :] >= q[:, None], 1.0, 0.0)
    crossing = product(from_here, pairs * weights * step[None, :], OPERAND, PRECISION, ACC)
    shares = tl.where(q[None, :] < q[:, None], crossing + (to_end * step)[None, :], (from_start * since_start)[None, :])
    into_exponent = tl.sum(shares, 1) + tl.sum(whole, 0) * tl.exp2(coarse_end + fine_end)
    grad_step += into_exponent * (A2 * LN2)
    if SOFTPLUS:
        grad_step *= softplus_slope(step, ACC)
    tl.store(grad_dt + (sequence * length + token) * HEADS + head, grad_step, mask=here)
    size = sequences.to(tl.int64) * tl.num_programs(0) * HEADS
    tl.store(grad_heads + index, tl.sum(into_exponent * step, 0))
    tl.store(grad_heads + size + index, tl.sum(tl.where(here, grad_step, 0.0), 0))
    if D is not None:
        tl.store(grad_heads + 2 * size + index, tl.sum(along, 0))


@triton.jit(do_not_specialize=COUNTS)
def group_gradients_kernel(
    u, dt, A, bias, grad_y, before, after, grad_u, grad_bc,
    batches, sequences, length, codes, n_slices, dt_b, dt_t,
    HEADS: tl.constexpr, P: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr, Q: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """before, after as above -> gradients of B and C: in grad_u (s l k) if PARTS is 1, else in grad_bc (parts s l 2gn)

    Grid: rows, groups x PARTS (programs that share a group's heads), s.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    OPERAND: tl.constexpr = tl.bfloat16 if u.dtype.element_ty == tl.bfloat16 else ACC
    E: tl.constexpr = HEADS * P
    K: tl.constexpr = E + 2 * GROUPS * N
    SHARE: tl.constexpr = HEADS // GROUPS // PARTS
    sequence = tl.program_id(2).to(tl.int64)
    order = tl.program_id(2) // batches
    batch = (tl.program_id(2) - order * batches).to(tl.int64)
    group = tl.program_id(1) // PARTS
    part = tl.program_id(1) % PARTS
    q = tl.arange(0, Q)
    n = tl.arange(0, BN)
    t = tl.program_id(0) * Q + q
    here = t < length
    token = token_of(t, codes, order, length, n_slices)
    rows = t.to(tl.int64) * K
    u += sequence * length * K
    grad_y += batch * length * E
    index = (sequence * tl.num_programs(0) + tl.program_id(0)) * HEADS

    grad_products = tl.zeros([Q, Q], ACC)
    grad_B = tl.zeros([Q, BN], ACC)
    grad_C = tl.zeros([Q, BN], ACC)
    for k in range(0, SHARE):
        head = tl.program_id(1) * SHARE + k
        own = order * HEADS + head
        step = time_steps(dt + batch * dt_b + head, token * dt_t, here, None if bias is None else bias + own,
                          SOFTPLUS, ACC)  # fmt: skip
        coarse, fine, coarse_end, fine_end = running_sums(step * head_decay(A + own, ACC), Q)
        since_start = tl.exp2(coarse + fine)
        until_end = tl.exp2((coarse_end - coarse) + (fine_end - fine)) * step
        pairs = tl.zeros([Q, Q], ACC)
        for p0 in range(0, P, BP):
            p = p0 + tl.arange(0, BP)
            x = rows_tile(u + head * P, rows, p, here, p < P, P % BP == 0)
            grad = rows_tile(grad_y + head * P, token * E, p, here, p < P, P % BP == 0)
            tile, inside = state_tile(n, p, N, P)
            at = (index + head) * (N * P) + tile
            S = tl.load(before + at, mask=inside, other=0.0)
            G = tl.load(after + at, mask=inside, other=0.0)
            pairs = product_onto(pairs, grad, tl.trans(x), OPERAND, PRECISION, ACC)
            grad_C = product_onto(grad_C, grad.to(ACC) * since_start[:, None], tl.trans(S), OPERAND, PRECISION, ACC)
            grad_B = product_onto(grad_B, x.to(ACC) * until_end[:, None], tl.trans(G), OPERAND, PRECISION, ACC)
        grad_products += pairs * between(coarse, fine, Q) * step[None, :]
    bc = u + E + group * N
    B = rows_tile(bc, rows, n, here, n < N, N == BN)
    C = rows_tile(bc + GROUPS * N, rows, n, here, n < N, N == BN)
    grad_C = product_onto(grad_C, grad_products, B, OPERAND, PRECISION, ACC)
    grad_B = product_onto(grad_B, tl.trans(grad_products), C, OPERAND, PRECISION, ACC)
    if PARTS == 1:
        into = grad_u + sequence * length * K + E + group * N + rows[:, None] + n[None, :]
    else:
        first = (part.to(tl.int64) * sequences + sequence) * length * (2 * GROUPS * N) + group * N
        into = grad_bc + first + t.to(tl.int64)[:, None] * (2 * GROUPS * N) + n[None, :]
    mask = here[:, None] & (n < N)[None, :]
    tl.store(into, grad_B.to(into.dtype.element_ty), mask=mask)
    tl.store(into + GROUPS * N, grad_C.to(into.dtype.element_ty), mask=mask)
