# SPDX-License-Identifier: Apache-2.0
"""Layers of Keras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from pyrel.importing._weights import (
    TORCH_GRU,
    TORCH_LSTM,
    Array,
    Layer,
    check_shape,
    checked_array,
    filled,
    reorder,
)

_KERAS_LSTM = ("i", "f", "g", "o")
_KERAS_GRU = ("z", "r", "n")


def keras_lstm(
    kernel: npt.ArrayLike,
    recurrent_kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
) -> nn.LSTM:
    """Return torch's LSTM with the weights of a Keras one: ``*layer.get_weights()``.

    Parameters
    ----------
    kernel : array
        Shape (features, 4 units), in the order i, f, c, o.
    recurrent_kernel : array
        Shape (units, 4 units), in the same order.
    bias : array, optional
        Shape (4 units,), in the same order; None for ``use_bias=False``.
    activation, recurrent_activation : str
        As the layer has them. Torch's LSTM has tanh and sigmoid alone.

    Raises
    ------
    ValueError
        Shapes do not fit, weights are not finite, or the layer has other activations.

    Examples
    --------
    >>> kernel, recurrent_kernel = np.zeros((3, 20)), np.zeros((5, 20))  # layer.get_weights()
    >>> pyrel.importing.keras_lstm(kernel, recurrent_kernel)
    LSTM(3, 5, bias=False, batch_first=True)
    """
    _refuse_activation("activation", activation, ("tanh",))
    _refuse_activation("recurrent_activation", recurrent_activation, ("sigmoid",))
    w, u = _keras_kernels(kernel, recurrent_kernel, 4)
    b = None if bias is None else checked_array("bias", bias, (len(w),))
    w, u = (reorder(m, _KERAS_LSTM, TORCH_LSTM) for m in (w, u))
    if b is not None:
        b = reorder(b, _KERAS_LSTM, TORCH_LSTM)
    return filled(nn.LSTM, [(w, u, b, None)])


def keras_gru(
    kernel: npt.ArrayLike,
    recurrent_kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    reset_after: bool = True,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
) -> nn.GRU:
    """Return torch's GRU with the weights of a Keras one: ``*layer.get_weights()``.

    Parameters
    ----------
    kernel : array
        Shape (features, 3 units), in the order z, r, h.
    recurrent_kernel : array
        Shape (units, 3 units), in the same order.
    bias : array, optional
        Shape (2, 3 units): of the input and of the recurrent product, each in the same order. None
        for ``use_bias=False``.
    reset_after : bool
        As the layer has it. Only True, the default of Keras, can be had in torch: its GRU resets
        the product, ``n = tanh(W x + b + r * (U h + b'))``. With False, Keras resets what goes into
        the product, ``U (r * h)``, which are other numbers for any weights.
    activation, recurrent_activation : str
        As the layer has them. Torch's GRU has tanh and sigmoid alone.

    Raises
    ------
    ValueError
        ``reset_after`` is False, shapes do not fit, weights are not finite, or the layer has other
        activations.
    """
    if not reset_after:
        raise ValueError(
            "reset_after: given False; such a layer multiplies h by the reset gate before the "
            "recurrent product, torch's GRU after it, so no weights make them equal. Train it with "
            "reset_after=True, or write it as a module of its own"
        )
    _refuse_activation("activation", activation, ("tanh",))
    _refuse_activation("recurrent_activation", recurrent_activation, ("sigmoid",))
    w, u = _keras_kernels(kernel, recurrent_kernel, 3)
    b: Array | None = None
    b_recurrent: Array | None = None
    if bias is not None:
        if np.shape(bias) == (len(w),):
            raise ValueError(
                f"bias: given shape ({len(w)},), which a layer with reset_after=False has; wanted "
                f"(2, {len(w)}), see reset_after"
            )
        b, b_recurrent = (
            reorder(row, _KERAS_GRU, TORCH_GRU) for row in checked_array("bias", bias, (2, len(w)))
        )
    w, u = (reorder(m, _KERAS_GRU, TORCH_GRU) for m in (w, u))
    return filled(nn.GRU, [(w, u, b, b_recurrent)])


def keras_rnn(
    kernel: npt.ArrayLike,
    recurrent_kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: str = "tanh",
) -> nn.RNN:
    """Return torch's RNN with the weights of a Keras SimpleRNN: ``*layer.get_weights()``.

    Parameters
    ----------
    kernel, recurrent_kernel : array
        Shapes (features, units) and (units, units).
    bias : array, optional
        Shape (units,); None for ``use_bias=False``.
    activation : {"tanh", "relu"}
        As the layer has it.

    Raises
    ------
    ValueError
        Shapes do not fit, weights are not finite, or the layer has another activation.
    """
    _refuse_activation("activation", activation, ("tanh", "relu"))
    w, u = _keras_kernels(kernel, recurrent_kernel, 1)
    b = None if bias is None else checked_array("bias", bias, (len(w),))
    return filled(nn.RNN, [(w, u, b, None)], nonlinearity=activation)


def bidirectional(forward: Layer, backward: Layer) -> Layer:
    """Return one bidirectional layer made of two layers, as Keras's Bidirectional has them.

    Its outputs are those of both joined, ``merge_mode="concat"``; in torch as in Keras the
    backward layer reads the last step first, and its outputs are in the order of the input.

    Parameters
    ----------
    forward, backward : nn.LSTM, nn.GRU or nn.RNN
        Of one kind and one size, with one layer and direction each, such as the functions of this
        module make.

    Raises
    ------
    ValueError
        They differ in kind, size or activation, or are no single layers.
    """
    layers = (forward, backward)
    for layer in layers:
        if layer.bidirectional or layer.num_layers != 1:
            raise ValueError(f"wanted two layers of one direction each, given {layer}")
    if _described(forward) != _described(backward):
        raise ValueError(f"forward, backward: wanted layers of one kind, given {layers}")
    joined = type(forward)(
        forward.input_size,
        forward.hidden_size,
        bias=forward.bias,
        batch_first=True,
        bidirectional=True,
        **_options(forward),
    )
    state = dict(forward.state_dict())
    state |= {f"{name}_reverse": value for name, value in backward.state_dict().items()}
    joined.load_state_dict(state)
    return joined.eval()


def _keras_kernels(
    kernel: npt.ArrayLike, recurrent_kernel: npt.ArrayLike, gates: int
) -> tuple[Array, Array]:
    """Return both kernels with the gates as rows, as torch has them."""
    w, u = checked_array("kernel", kernel), checked_array("recurrent_kernel", recurrent_kernel)
    if w.ndim != 2 or w.shape[1] % gates or not w.size:
        raise ValueError(f"kernel: given shape {w.shape}; wanted (features, {gates} x units)")
    check_shape("recurrent_kernel", u, (w.shape[1] // gates, w.shape[1]))
    return w.T, u.T


def _described(layer: nn.LSTM | nn.GRU | nn.RNN) -> tuple[object, ...]:
    return type(layer), layer.input_size, layer.hidden_size, layer.bias, _options(layer)


def _options(layer: nn.LSTM | nn.GRU | nn.RNN) -> dict[str, str]:
    return {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}


def _refuse_activation(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ValueError(
            f"{name}: given {given!r}; torch's layer has {' or '.join(known)}, so the weights "
            f"would compute something else there"
        )
