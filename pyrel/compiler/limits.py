# SPDX-License-Identifier: Apache-2.0
"""What every engine allows, and the costs that the compiler counts by.

The numbers are those of ``pyrel._core.limits`` (csrc/program/limits.h), written here as well so
that programs are made without the compiled extension; a test compares both.
"""

SEGMENTS = 8  # of one product
LARGEST_EXACT = 1 << 24  # float32 holds all whole numbers up to this
LINE = 16  # floats of a cache line, and of the widest vector: values start on one
# What a row of an instruction, and a vector of its results, cost beside the products: as much as
# this many multiply-adds of vectors (AVX-512, Zen 5).
ROW_COST, RESULT_COST = 12, 8

# Products, and comparisons, that are written out as values of a graph: compiling that many takes a
# minute or two. While capturing, those of all samples that are traced together count.
MOST_PRODUCTS = 1 << 19
