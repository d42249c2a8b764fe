# SPDX-License-Identifier: Apache-2.0
"""How much work an explanation is: counted from the sizes of a cell, whoever does the work."""

from __future__ import annotations

from pyrel.benchmark.layers import Layers

_FLOAT = 4  # bytes


def useful_flops(layers: Layers, method: str) -> float:
    """Return the floating-point operations that explaining one sample takes at least.

    The products of the forward pass; for gradients as many again on the way back; for deep Taylor
    also those of the denominators, or, at pixels (z^β rule), whose denominators come off the
    forward pass, a second product on the way back. A product of the first recurrent input, which is
    zero, is not counted, and neither is anything but products. Zeros in the data count in full.
    """
    passes = 3 if method == "deep_taylor" else 2
    return 2.0 * passes * _forward_products(layers)


def compulsory_bytes(layers: Layers, batch: int) -> float:
    """Return the bytes per sample that have to be moved even with a perfect cache.

    The input is read and the relevance written once per sample, the weights are read once per call.
    """
    ends = 2 * layers.steps * layers.pixels * _FLOAT
    return ends + layers.parameters * _FLOAT / batch


def _forward_products(layers: Layers) -> int:
    steps, state = layers.steps, layers.cell.bias.size
    each_step = sum(layer.weight.size for layer in layers.encoders) + layers.encoded * state
    between = 2 * layers.recurrent * state
    read_out = sum(layer.weight.size for layer in layers.readers)
    return steps * each_step + (steps - 1) * between + read_out
