# SPDX-License-Identifier: Apache-2.0
"""How large errors of rounding are.

A sum of n rounded terms has a relative error of at most λ √n u with probability
1 − 2n exp(−λ²/2) (Higham and Mary, SIAM J. Sci. Comput. 41, 2019); u, the largest relative error of
one rounding, is half the distance from 1 to the next number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LAMBDA = 6.0  # for which that fails once in 3e7 / n sums

# What the project promises in float32: 80 roundings in a row, each by at most half of 2^-23.
RELATIVE = 1e-5

# Below this, float32 has fewer digits, or the engine takes a number for zero.
LEAST = 2.0**-126
# So numbers are as exact as float32 is down to this, if no number on the way is smaller.
TINY = LEAST * 2.0**24


@dataclass(frozen=True)
class Roundoff:
    """The largest relative error of rounding what is multiplied, and of rounding a sum.

    Attributes
    ----------
    product, addition : float
    usual : float
        Up to which errors, relative to the largest number of a sample, are not looked into.
    """

    product: float
    addition: float
    usual: float

    def of_sum(self, terms: int) -> float:
        """Return the largest relative error of a sum of products, but for rare cases."""
        return LAMBDA * (self.product + math.sqrt(terms) * self.addition)


FLOAT32 = Roundoff(2.0**-24, 2.0**-24, RELATIVE)
# Of products of numbers that are rounded to 11 digits, summed in float32; three of them, of a
# number and of what it has lost, leave out what is below 22.
TF32 = Roundoff(2.0**-11, 2.0**-24, LAMBDA * 2.0**-12)
THREE_OF_TF32 = Roundoff(2.0**-22, 2.0**-24, RELATIVE)
# Of numbers that are rounded to 8 digits.
BFLOAT16 = Roundoff(2.0**-8, 2.0**-24, LAMBDA * 2.0**-9)
