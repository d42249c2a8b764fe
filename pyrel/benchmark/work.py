# SPDX-License-Identifier: Apache-2.0
"""Useful FLOPs of an explanation, counted from the sizes of a cell alone."""

from __future__ import annotations

from pyrel.benchmark.gated import LSTM
from pyrel.benchmark.layers import Layers, layers_of
from pyrel.nn import Cell, ConvDeep

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


def cell_flops(cell: Cell, method: str) -> float:
    """Return the same for a cell.

    Of a convolution only the taps inside the image count. Of an LSTM or a GRU the way back is
    through the candidate and the output alone, and denominators come off the forward pass.
    """
    if isinstance(cell, LSTM):
        return 2.0 * (_gated_products(cell, None) + _gated_products(cell, 1))
    layers = layers_of(cell.config(), {k: v.numpy() for k, v in cell.state_dict().items()})
    convolutions = 0
    if isinstance(cell, ConvDeep):
        pooled = tuple(-(-side // 2) for side in cell.step_shape)
        channels, maps = cell.sizes[:2]
        convolutions = _taps(cell.step_shape, 5) * channels + _taps(pooled, 3) * channels * maps
    passes = 3 if method == "deep_taylor" else 2
    return useful_flops(layers, method) + 2.0 * passes * cell.steps * convolutions


def compulsory_bytes(cell: Cell, batch: int) -> float:
    """Return the bytes per sample that have to be moved even with a perfect cache.

    The input is read and the relevance written once per sample, the weights are read once per call.
    """
    ends = 2 * cell.steps * cell.step_features * _FLOAT
    return ends + sum(p.numel() for p in cell.parameters()) * _FLOAT / batch


def _taps(shape: tuple[int, ...], kernel: int) -> int:
    """Pairs of a kernel's position and an element inside the image, which the kernel keeps."""
    half, count = kernel // 2, 1
    for side in shape:
        count *= sum(min(i + half, side - 1) - max(i - half, 0) + 1 for i in range(side))
    return count


def _gated_products(cell: LSTM, parts: int | None) -> int:
    """Products of one pass, of some of the gates and the candidate or of all."""
    width, inputs = cell.sizes[0], cell.step_features
    rows = width * (parts or cell.gates)
    layers = len(cell.sizes)
    inward = cell.steps * rows * (inputs + (layers - 1) * width)
    return inward + layers * (cell.steps - 1) * rows * width + width * cell.classes


def _forward_products(layers: Layers) -> int:
    steps, state = layers.steps, layers.cell.bias.size
    each_step = sum(layer.weight.size for layer in layers.encoders) + layers.encoded * state
    between = 2 * layers.recurrent * state
    read_out = sum(layer.weight.size for layer in layers.readers)
    return steps * each_step + (steps - 1) * between + read_out
