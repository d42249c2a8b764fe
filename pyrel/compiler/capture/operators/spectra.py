# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms of a fixed size: linear maps, whose matrices are what impulses become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators.complex_values import WHAT, Complex
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, constant
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Floats

Value = Traced | Complex
Map = Callable[[torch.Tensor], torch.Tensor]


def transform(name: str) -> Callable[..., Value]:
    """Make the handler of a transform along one axis, such as ``aten.fft_rfft``."""
    operator = getattr(torch.ops.aten, name)

    def handler(
        tracer: Tracer, value: Value, size: Any = None, dim: int = -1, norm: Any = None
    ) -> Value:
        def of(rows: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = operator(rows, size, -1, norm)
            return found

        return _mapped(tracer, value, dim, of, (name, size, norm))

    return handler


def over_axes(first: str, others: str, last: bool = True) -> Callable[..., Value]:
    """Make the handler of a transform along several axes.

    ``first`` is the transform of the last axis, which comes first, or at the end unless ``last``.
    """
    of_last, of_others = transform(first), transform(others)

    def handler(
        tracer: Tracer, value: Value, sizes: Any = None, dims: Any = None, norm: Any = None
    ) -> Value:
        rank = (value.real if isinstance(value, Complex) else value).ids.dim()
        if dims is None:
            dims = list(range(0 if sizes is None else rank - len(sizes), rank))
        *rest, end = zip(dims, sizes or [None] * len(dims), strict=True)
        order = [(of_others, *each) for each in reversed(rest)]
        order.insert(0 if last else len(order), (of_last, *end))
        for each, axis, size in order:
            value = each(tracer, value, size, axis, norm)
        return value

    return handler


def over_two_axes(handler: Callable[..., Value]) -> Callable[..., Value]:
    """Make the handler of a transform along the last two axes where no others are named."""
    return lambda tracer, value, sizes=None, dims=(-2, -1), norm=None: handler(
        tracer, value, sizes, dims, norm
    )


def short_time(
    tracer: Tracer,
    value: Value,
    size: int,
    hop: int | None = None,
    window_size: int | None = None,
    window: Any = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Value:
    """``aten.stft``: a window at each frame, and the same transform of all."""
    if isinstance(value, Complex) or align_to_window:
        raise UnsupportedOperandsError("of real values, not aligned to the window, it is supported")
    if value.ids.dim() != 2:
        raise UnsupportedOperandsError("the input has no batch dimension, (n, samples) is wanted")
    shape = None if window is None else constant(window, "window").detach().double()
    settings = (window_size, normalized, onesided)

    def of(rows: torch.Tensor) -> torch.Tensor:
        return torch.stft(
            rows, size, size, window_size, shape, False, "constant", normalized, onesided,
            return_complex=True,
        )[..., 0]  # fmt: skip

    key = ("stft", *settings, None if shape is None else shape.numpy().tobytes())
    frames = Traced(value.ids.unfold(-1, size, size // 4 if hop is None else hop))
    found = _mapped(tracer, frames, -1, of, key)
    assert isinstance(found, Complex)
    real, imaginary = (part.ids.transpose(1, 2) for part in (found.real, found.imaginary))
    if return_complex:
        return Complex(WHAT, Traced(real), Traced(imaginary))
    return Traced(torch.stack([real, imaginary], -1))


def _mapped(tracer: Tracer, value: Value, dim: int, of: Map, key: Any) -> Value:
    """Apply a map that is linear over real numbers along a dimension."""
    parts = [value.real, value.imaginary] if isinstance(value, Complex) else [value]
    ids = torch.cat([part.ids.movedim(dim, -1) for part in parts], -1)
    count = ids.shape[-1] // len(parts)

    def weights() -> tuple[Floats, Floats, bool]:
        impulses = torch.eye(count, dtype=torch.float64)
        if len(parts) == 2:
            wide = impulses.to(torch.complex128)
            impulses = torch.cat([wide, 1j * wide])
        found = of(impulses)
        columns = torch.cat([found.real, found.imag], 1) if found.is_complex() else found
        matrix = columns.T.contiguous().numpy()
        return matrix, np.zeros(len(matrix)), found.is_complex()

    matrix, bias, pairs = tracer.weights.made((*key, count, len(parts)), weights)
    out = tracer.linear(Traced(ids), matrix, bias).ids
    if not pairs:
        return Traced(out.movedim(-1, dim))
    real, imaginary = (part.movedim(-1, dim) for part in out.chunk(2, -1))
    return Complex(WHAT, Traced(real), Traced(imaginary))


def shifted(operator: Any) -> Callable[..., Value]:
    """Make the handler of what moves frequencies along axes."""

    def handler(_tracer: Tracer, value: Value, dim: Any = None) -> Value:
        if isinstance(value, Complex):
            parts = (Traced(operator(each.ids, dim)) for each in (value.real, value.imaginary))
            return Complex(WHAT, *parts)
        return Traced(operator(value.ids, dim))

    return handler


_COMPLEX = over_axes("fft_fft", "fft_fft"), over_axes("fft_ifft", "fft_ifft")
_REAL = over_axes("fft_rfft", "fft_fft"), over_axes("fft_irfft", "fft_ifft", last=False)

HANDLERS: dict[str, Callable[..., Value]] = {
    "fft_fft": transform("fft_fft"),
    "fft_fft2": over_two_axes(_COMPLEX[0]),
    "fft_fftn": _COMPLEX[0],
    "fft_fftshift": shifted(torch.fft.fftshift),
    "fft_hfft": transform("fft_hfft"),
    "fft_ifft": transform("fft_ifft"),
    "fft_ifft2": over_two_axes(_COMPLEX[1]),
    "fft_ifftn": _COMPLEX[1],
    "fft_ifftshift": shifted(torch.fft.ifftshift),
    "fft_ihfft": transform("fft_ihfft"),
    "fft_irfft": transform("fft_irfft"),
    "fft_irfft2": over_two_axes(_REAL[1]),
    "fft_irfftn": _REAL[1],
    "fft_rfft": transform("fft_rfft"),
    "fft_rfft2": over_two_axes(_REAL[0]),
    "fft_rfftn": _REAL[0],
    "stft": short_time,
}
