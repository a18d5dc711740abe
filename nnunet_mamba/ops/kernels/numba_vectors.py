"""Vectors of 16 numbers as values in numba's code: what a loop over channels is, written without the loop.

The compiler keeps them in registers and cuts them to the width of the machine: one register of AVX-512, two of AVX2,
four of NEON. The loops it vectorises by itself would be short here, a few registers of channels, start anew for every
state, and load and store what two states share.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
LOG2_E = 1 / math.log(2)
INLINE = {"forceinline": True}


class Vector(types.Type):
    """LANES numbers of one precision"""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"vector of {LANES} {dtype}")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), LANES))


def polynomial(function, degree: int, low: float, high: float) -> list[float]:
    """Coefficients, lowest first, of a polynomial close to the function between low and high"""
    chebyshev = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, [low, high])
    return [float(c) for c in chebyshev.convert(kind=np.polynomial.Polynomial).coef]


# a systematic error of the decay adds up over a scan's memory: degree 5, good to 8e-8, made results 20 times worse
EXP2 = {
    types.float32: polynomial(np.exp2, 6, -0.5, 0.5),
    types.float64: [
        math.log(2) ** k / math.factorial(k) for k in range(14)
    ],  # the series, exact to the last place here
}


def _log1p_part(v):
    return np.where(v > 1e-12, np.log1p(v) / np.maximum(v, 1e-12), 1.0)


LOG1P = {
    types.float32: polynomial(_log1p_part, 9, 0.0, 1.0),
    types.float64: polynomial(_log1p_part, 21, 0.0, 1.0),
}
"""log1p(v) / v"""


@intrinsic
def load(typingctx, array, at):
    """LANES neighbours of a contiguous array, the first at a flat index"""

    def codegen(context, builder, signature, args):
        vector = context.get_value_type(signature.return_type)
        place = _place(context, builder, signature.args[0], args, vector)
        return builder.load(place, align=_alignment(array))

    return Vector(array.dtype)(array, at), codegen


@intrinsic
def store(typingctx, array, at, values):
    """Write LANES neighbours of a contiguous array, the first at a flat index"""

    def codegen(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args, args[2].type)
        builder.store(args[2], place, align=_alignment(array))
        return context.get_dummy_value()

    return types.none(array, at, values), codegen


def _place(context, builder, array_type, args, vector):
    array = context.make_array(array_type)(context, builder, args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), vector.as_pointer())


def _alignment(array) -> int:
    return array.dtype.bitwidth // 8


@intrinsic
def spread(typingctx, value):
    """A vector whose numbers are all this one"""

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0], context.get_value_type(signature.return_type))

    return Vector(value)(value), codegen


def _splat(builder, value, vector):
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


def _operator(instruction: str):
    @intrinsic
    def compute(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=("contract",))

        return a(a, b), codegen

    return compute


_add, _sub, _mul = map(_operator, ("fadd", "fsub", "fmul"))


def _are_vectors(a, b) -> bool:
    return isinstance(a, Vector) and a == b


@overload(operator.add, jit_options=INLINE)
def _(a, b):
    return (lambda a, b: _add(a, b)) if _are_vectors(a, b) else None


@overload(operator.sub, jit_options=INLINE)
def _(a, b):
    return (lambda a, b: _sub(a, b)) if _are_vectors(a, b) else None


@overload(operator.mul, jit_options=INLINE)
def _(a, b):
    return (lambda a, b: _mul(a, b)) if _are_vectors(a, b) else None


@intrinsic
def totals(typingctx, a, b):
    """The sums of two vectors' numbers, as a pair"""

    def codegen(context, builder, signature, args):
        a, b = args
        half, lanes = LANES // 2, range(LANES)
        # the halves of both are added at once, then quarters, ...
        lower = [*range(half), *range(LANES, LANES + half)]
        upper = [lane + half for lane in lower]
        both = builder.fadd(_shuffle(builder, a, b, lower), _shuffle(builder, a, b, upper))
        while half > 1:
            half //= 2
            both = builder.fadd(both, _shuffle(builder, both, both, [lane ^ half for lane in lanes]))
        pair = [builder.extract_element(both, ir.IntType(32)(lane)) for lane in (0, LANES // 2)]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(a.dtype, 2)(a, b), codegen


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(lanes)))


@intrinsic
def exp2(typingctx, exponents):
    """2**x, relative error 1e-7 (float32) and 3e-16 (float64); NaN stays NaN, what is below the range is about zero"""
    return exponents(exponents), lambda context, builder, signature, args: _exp2(builder, args[0])


@intrinsic
def softplus(typingctx, values):
    """log(1 + exp(x))"""

    def codegen(context, builder, signature, args):
        (x,) = args
        zero = ir.Constant(x.type, [0.0] * LANES)
        v = _exp_of_minus_size(builder, x)
        tail = builder.fmul(v, _horner(builder, v, LOG1P[values.dtype]))
        # not positive: NaN goes through
        positive = builder.select(builder.fcmp_ordered("<=", x, zero), zero, x)
        return builder.fadd(positive, tail)

    return values(values), codegen


@intrinsic
def sigmoid(typingctx, values):
    """1 / (1 + exp(-x))"""

    def codegen(context, builder, signature, args):
        (x,) = args
        one = ir.Constant(x.type, [1.0] * LANES)
        power = _exp2(builder, builder.fmul(x, ir.Constant(x.type, [-LOG2_E] * LANES)))
        return builder.fdiv(one, builder.fadd(one, power))

    return values(values), codegen


def _exp_of_minus_size(builder, x):
    """exp(-|x|)"""
    negative = builder.fcmp_ordered("<", x, ir.Constant(x.type, [0.0] * LANES))
    minus, plus = (ir.Constant(x.type, [sign * LOG2_E] * LANES) for sign in (-1, 1))
    return _exp2(builder, builder.fmul(x, builder.select(negative, plus, minus)))


def _exp2(builder, x):
    single = isinstance(x.type.element, ir.FloatType)
    bits, mantissa = (32, 23) if single else (64, 52)
    vector, whole = x.type, ir.VectorType(ir.IntType(bits), LANES)
    largest = 2 ** (bits - mantissa - 2)

    def constant(value, kind=vector):
        return ir.Constant(kind, [value] * LANES)

    low, high = constant(float(2 - largest)), constant(float(largest))
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)  # false for NaN, which passes
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    rounding = constant(1.5 * 2**mantissa)
    shifted = builder.fadd(x, rounding)  # rounds x to a whole number and leaves it in the lowest bits
    f = builder.fsub(x, builder.fsub(shifted, rounding))
    power = builder.add(builder.bitcast(shifted, whole), constant(largest - 1, whole))
    power = builder.shl(power, constant(mantissa, whole))
    p = _horner(builder, f, EXP2[types.float32 if single else types.float64])
    return builder.fmul(p, builder.bitcast(power, vector))


def _horner(builder, x, coefficients):
    """Polynomial of x, coefficients lowest first"""
    *lower, last = (ir.Constant(x.type, [c] * LANES) for c in coefficients)
    p = last
    for coefficient in reversed(lower):
        p = builder.fadd(builder.fmul(x, p, flags=("contract",)), coefficient, flags=("contract",))
    return p
