"""Natural logarithm with the same bits on every processor, for values that are stored or that a model reads.

NumPy and the C library choose the code of their logarithms by the vector and fused multiply-add units of the processor,
which changes the last bit of results. This function is IEEE 754 additions, multiplications and divisions in one order.
It is plain Python that `numba.njit` compiles to the same operations.
"""

import math

LN_2 = 0.6931471805599453
_LN_2_HIGH = 6.93147180369123816490e-01
"""The leading 32 bits of ln 2: a multiple of it by an exponent is exact."""
_LN_2_LOW = 1.90821492927058770002e-10
_ROOT_HALF = 0.7071067811865476


def natural_log(x: float) -> float:
    """Returns ln(x) of a positive finite number, within 1 unit in the last place.

    Source: ln(x) = e ln 2 + 2 artanh(s), where x = 2^e (1 + f), s = f / (2 + f) and |s| < 0.172, by twelve terms of the
    series of artanh (Abramowitz and Stegun 4.1.27), with ln 2 in two parts (Cody and Waite 1980).
    """
    mantissa, exponent = math.frexp(x)
    if mantissa < _ROOT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    tail = 2.0 / 21.0 + z * (2.0 / 23.0)
    tail = 2.0 / 17.0 + z * (2.0 / 19.0 + z * tail)
    tail = 2.0 / 13.0 + z * (2.0 / 15.0 + z * tail)
    tail = 2.0 / 9.0 + z * (2.0 / 11.0 + z * tail)
    tail = 2.0 / 5.0 + z * (2.0 / 7.0 + z * tail)
    tail = z * (2.0 / 3.0 + z * tail)
    half_square = 0.5 * f * f
    return exponent * _LN_2_HIGH - ((half_square - (s * (half_square + tail) + exponent * _LN_2_LOW)) - f)
