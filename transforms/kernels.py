"""Pieces of arithmetic that several kernels share."""

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils


@numba.njit(nogil=True, cache=True, inline="always")
def mix(word):
    """Spread the bits of a uint64 (the finalizer of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.extending.intrinsic
def prefetch(context, array, index, offset):
    """Ask for the cache line `offset` bytes behind the start of an item; changes nothing but a later access's time."""

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        values = context.make_array(kind)(context, builder, arguments[0])
        item = builder.bitcast(builder.gep(values.data, [arguments[1]]), ir.PointerType(ir.IntType(8)))
        place = builder.gep(item, [arguments[2]])
        ask = ir.FunctionType(ir.VoidType(), [place.type, *(ir.IntType(32),) * 3])
        function = cgutils.get_or_insert_function(builder.module, ask, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(ir.IntType(32), flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return numba.types.void(array, index, offset), generate
