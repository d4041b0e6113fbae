"""Steps that several kernels share: arithmetic, memory access, arrays without reference counts."""

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils

Number = int | np.integer
"""A field of a tuple inside a kernel."""

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of a function that only kernels call: without its wrappers for Python and C, it compiles in half the time.

A call from Python would end the process.
"""

step = numba.njit(nogil=True, forceinline=True, **INNER)
"""Decorator of a step of a kernel: compiled into the kernel that calls it, and cached with that."""

part = numba.njit(nogil=True, **INNER)
"""Decorator of a rare part of a kernel: called instead of inlined, and cached with the kernel."""


@numba.njit(nogil=True, cache=True, forceinline=True)  # cached by itself: the first command looks whether it is
def mix(word):
    """Spreads the bits of a uint64 (the finalizer of splitmix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(nogil=True)
def nth(values, rank):
    """Returns the value with `rank` smaller ones before it, and its rank among equal ones.

    Args:
      values: int64, none below 0; found digit by digit, because `np.partition` takes 8 s to compile.
      rank: from 0 to the number of values, exclusive.
    """
    counts = np.empty(256, np.int64)
    found = np.int64(0)
    for shift in range(56, -1, -8):
        counts[:] = 0
        for value in values:
            digits = value >> shift
            if digits >> 8 == found:
                counts[digits & 255] += 1
        digit = 0
        while counts[digit] <= rank:
            rank -= counts[digit]
            digit += 1
        found = found << 8 | digit
    return found, rank


@numba.extending.intrinsic
def borrowed(context, arrays):
    """Returns a tuple whose arrays a kernel uses without counting references; the caller keeps them alive.

    A kernel that takes its arrays in tuples starts with `Columns(*borrowed(columns))`. Otherwise every access to one of
    them counts a reference up and down, which made the flow meter 3.7 times as slow. Its caller passes plain tuples:
    the cache of a kernel names the classes of its arguments, and could not be read after one of them is renamed.
    """

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        parts = []
        for i, kind_of_part in enumerate(kind):
            part = builder.extract_value(arguments[0], i)
            if isinstance(kind_of_part, numba.types.Array):
                values = context.make_array(kind_of_part)(context, builder, part)
                values.meminfo = cgutils.get_null_value(values.meminfo.type)
                part = values._getvalue()
            parts.append(part)
        return context.make_tuple(builder, kind, parts)

    return arrays(arrays), generate


@numba.extending.intrinsic
def prefetch(context, array, index, offset):
    """Prefetches the cache line `offset` bytes behind the start of an item; this only makes a later access faster."""

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


@numba.extending.intrinsic
def copy_bytes(context, target, at, source, begin, count):
    """Copies bytes between uint8 arrays as memcpy does, without bounds checks."""

    def generate(context, builder, signature, arguments):
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        out_of = context.make_array(signature.args[2])(context, builder, arguments[2])
        places = builder.gep(into.data, [arguments[1]]), builder.gep(out_of.data, [arguments[3]])
        cgutils.raw_memcpy(builder, *places, arguments[4], 1)
        return context.get_dummy_value()

    return numba.types.void(target, numba.types.int64, source, numba.types.int64, numba.types.int64), generate


@numba.extending.intrinsic
def clear_bytes(context, target, at, count):
    """Writes zeros into a uint8 array as memset does, without bounds checks."""

    def generate(context, builder, signature, arguments):
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        cgutils.memset(builder, builder.gep(into.data, [arguments[1]]), arguments[2], 0)
        return context.get_dummy_value()

    return numba.types.void(target, numba.types.int64, numba.types.int64), generate


@step
def u16(buffer, at):
    """Returns the big-endian 16-bit number at a position as int64."""
    return (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])


@step
def u32(buffer, at):
    """Returns the big-endian 32-bit number at a position as int64."""
    return (u16(buffer, at) << 16) | u16(buffer, at + 2)


@step
def u64(buffer, at):
    """Returns eight bytes as a word with the same order in memory (on little-endian machines)."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
    return word
