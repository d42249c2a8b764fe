# SPDX-License-Identifier: Apache-2.0
"""Imported layers against NumPy loops written from the formulas of each framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from recurrent_weights import (
    FEATURES,
    SAMPLES,
    STEPS,
    UNITS,
    Array,
    arras_weights,
    drawn,
    sigmoid,
)
from torch import nn

from pyrel import importing

# In float64 after the import: six steps of sums of ten terms below 1, 100 roundings of 2^-53 that
# later steps enlarge by less than 1e3. Gates in another order are off by more than 1e-3.
CLOSE = {"rtol": 0, "atol": 1e-11}


def sequences() -> Array:
    return drawn(SAMPLES, STEPS, FEATURES, seed=9).astype(np.float64)


def outputs_of(layer: nn.LSTM | nn.GRU | nn.RNN, x: Array) -> Array:
    with torch.no_grad():
        found: Array = layer.double()(torch.from_numpy(x))[0].numpy()
    return found


def keras_lstm(w: Array, u: Array, b: Array, x: Array) -> Array:
    """Keras: z = x W + h U + b is split into i, f, c, o."""
    h, c, seen = np.zeros((len(x), UNITS)), np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        z0, z1, z2, z3 = np.split(x[:, t] @ w + h @ u + b, 4, axis=1)
        c = sigmoid(z1) * c + sigmoid(z0) * np.tanh(z2)
        h = sigmoid(z3) * np.tanh(c)
        seen.append(h)
    return np.stack(seen, 1)


def keras_gru(w: Array, u: Array, b: Array, x: Array) -> Array:
    """Keras with reset_after: z, r, h of the input and of the recurrent product apart."""
    h, seen = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        x_z, x_r, x_h = np.split(x[:, t] @ w + b[0], 3, axis=1)
        h_z, h_r, h_h = np.split(h @ u + b[1], 3, axis=1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_h + r * h_h)
        seen.append(h)
    return np.stack(seen, 1)


def keras_rnn(w: Array, u: Array, b: Array, x: Array, activation: Any) -> Array:
    h, seen = np.zeros((len(x), UNITS)), []
    for t in range(x.shape[1]):
        h = activation(x[:, t] @ w + h @ u + b)
        seen.append(h)
    return np.stack(seen, 1)


def lstm_lrp_scores(weights: Mapping[str, Array], x: Array) -> Array:
    """LSTM-LRP: columns of one sequence at a time, gates i, g, f, o, Right reads backwards."""
    scores = []
    for sequence in x:
        total = np.zeros(2)
        for side, steps in (("Left", sequence), ("Right", sequence[::-1])):
            h, c = np.zeros(UNITS), np.zeros(UNITS)
            for step in steps:
                pre = weights[f"Wxh_{side}"] @ step + weights[f"bxh_{side}"]
                pre = pre + weights[f"Whh_{side}"] @ h + weights[f"bhh_{side}"]
                i, g, f, o = pre.reshape(4, UNITS)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            total = total + weights[f"Why_{side}"] @ h
        scores.append(total)
    return np.stack(scores)


def doubles(*arrays: npt.NDArray[np.float32]) -> list[Array]:
    return [array.astype(np.float64) for array in arrays]


def test_keras_lstm() -> None:
    arrays = drawn(FEATURES, 4 * UNITS), drawn(UNITS, 4 * UNITS), drawn(4 * UNITS)
    x = sequences()
    wanted = keras_lstm(*doubles(*arrays), x)
    np.testing.assert_allclose(outputs_of(importing.keras_lstm(*arrays), x), wanted, **CLOSE)


def test_keras_gru() -> None:
    arrays = drawn(FEATURES, 3 * UNITS), drawn(UNITS, 3 * UNITS), drawn(2, 3 * UNITS)
    x = sequences()
    wanted = keras_gru(*doubles(*arrays), x)
    np.testing.assert_allclose(outputs_of(importing.keras_gru(*arrays), x), wanted, **CLOSE)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_keras_rnn(activation: str) -> None:
    arrays = drawn(FEATURES, UNITS), drawn(UNITS, UNITS), drawn(UNITS)
    x = sequences()
    function = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[activation]
    wanted = keras_rnn(*doubles(*arrays), x, function)
    layer = importing.keras_rnn(*arrays, activation=activation)
    np.testing.assert_allclose(outputs_of(layer, x), wanted, **CLOSE)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_layers_without_bias(kind: str) -> None:
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    w, u = drawn(FEATURES, gates * UNITS), drawn(UNITS, gates * UNITS)
    make = getattr(importing, f"keras_{kind}")
    layer = make(w, u)
    assert layer.bias is False
    zero = np.zeros((2, gates * UNITS) if kind == "gru" else gates * UNITS, np.float32)
    x = sequences()
    np.testing.assert_array_equal(outputs_of(layer, x), outputs_of(make(w, u, zero), x))


def test_keras_bidirectional() -> None:
    sides = [
        (
            drawn(FEATURES, 3 * UNITS, seed=s),
            drawn(UNITS, 3 * UNITS, seed=s),
            drawn(2, 3 * UNITS, seed=s),
        )
        for s in (1, 2)
    ]
    layer = importing.bidirectional(*(importing.keras_gru(*side) for side in sides))
    x = sequences()
    # The backward layer reads x reversed, and its outputs are reversed back.
    wanted = [
        keras_gru(*doubles(*sides[0]), x),
        keras_gru(*doubles(*sides[1]), x[:, ::-1])[:, ::-1],
    ]
    np.testing.assert_allclose(outputs_of(layer, x), np.concatenate(wanted, 2), **CLOSE)


def test_bidirectional_keeps_the_activation() -> None:
    arrays = drawn(FEATURES, UNITS), drawn(UNITS, UNITS), drawn(UNITS)
    relu, tanh = (importing.keras_rnn(*arrays, activation=name) for name in ("relu", "tanh"))
    assert importing.bidirectional(relu, relu).nonlinearity == "relu"
    with pytest.raises(ValueError, match="wanted layers of one kind"):
        importing.bidirectional(relu, tanh)
    with pytest.raises(ValueError, match="two layers of one direction each"):
        importing.bidirectional(relu, importing.bidirectional(relu, relu))
    lstm = importing.keras_lstm(drawn(FEATURES, 4 * UNITS), drawn(UNITS, 4 * UNITS))
    with pytest.raises(ValueError, match="wanted layers of one kind"):
        importing.bidirectional(relu, lstm)  # type: ignore[type-var]


def test_lstm_lrp() -> None:
    weights = arras_weights()
    x = sequences()
    wanted = lstm_lrp_scores({k: v.astype(np.float64) for k, v in weights.items()}, x)
    model = importing.lstm_lrp(weights).double()
    with torch.no_grad():
        found = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_lstm_lrp_with_embeddings_takes_words() -> None:
    weights, table = arras_weights(), drawn(11, FEATURES)
    words = torch.tensor([[3, 0, 10, 3], [1, 1, 2, 9]])
    model = importing.lstm_lrp(weights, table)
    embedded = importing.lstm_lrp(weights)
    assert torch.equal(model(words), embedded(torch.from_numpy(table)[words]))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_torch_layers_are_kept_as_they_are(
    kind: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN], layers: int, directions: int
) -> None:
    torch.manual_seed(5)
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": directions == 2}
    if kind is nn.RNN:
        options["nonlinearity"] = "relu"
    source = kind(FEATURES, UNITS, batch_first=True, **options)
    state = {f"encoder.{name}": value.numpy() for name, value in source.state_dict().items()}
    state["output.weight"] = drawn(2, 2)
    twin = importing.torch_recurrent(state, prefix="encoder.", nonlinearity="relu")
    assert type(twin) is kind and not twin.training
    x = torch.rand(SAMPLES, STEPS, FEATURES)
    assert torch.equal(twin(x)[0], source(x)[0])


def test_torch_layers_without_bias() -> None:
    source = nn.GRU(FEATURES, UNITS, bias=False, batch_first=True)
    twin = importing.torch_recurrent(source.state_dict())
    x = torch.rand(SAMPLES, STEPS, FEATURES)
    assert torch.equal(twin(x)[0], source(x)[0])


W, U, B = drawn(FEATURES, 12), drawn(UNITS, 12), drawn(2, 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: importing.keras_gru(W, U, B, reset_after=False),
            "multiplies h by the reset gate before the recurrent product, torch's GRU after it",
        ),
        (lambda: importing.keras_gru(W, U, B[0]), "which a layer with reset_after=False has"),
        (lambda: importing.keras_gru(W, U, B[:, :9]), "bias: given shape (2, 9); wanted (2, 12)"),
        (
            lambda: importing.keras_gru(W, U, B, recurrent_activation="hard_sigmoid"),
            "recurrent_activation: given 'hard_sigmoid'; torch's layer has sigmoid",
        ),
        (lambda: importing.keras_lstm(W, U.T), "recurrent_kernel: given shape (12, 4); wanted (3,"),
        (lambda: importing.keras_lstm(W[:, :10], U), "wanted (features, 4 x units)"),
        (lambda: importing.keras_lstm(W * np.nan, U), "kernel: holds NaN or infinity"),
        (lambda: importing.keras_lstm(W.astype(int), U), "wanted an array of floating-point"),
        (lambda: importing.keras_rnn(W, U, activation="elu"), "torch's layer has tanh or relu"),
        (lambda: importing.lstm_lrp({"Wxh_Left": W}), "weights: no entry Whh_Left"),
        (
            lambda: importing.lstm_lrp(arras_weights() | {"Why_Left": drawn(3, UNITS)}),
            "Why_Right: given shape (2, 4); wanted (3, 4)",
        ),
        (
            lambda: importing.lstm_lrp(arras_weights(), drawn(7, FEATURES + 1)),
            "embeddings: given shape (7, 6); wanted (7, 5)",
        ),
        (lambda: importing.torch_recurrent({"w": W}), "state: no recurrent weights"),
        (
            lambda: importing.torch_recurrent({"weight_ih_l0": W, "weight_hh_l0": drawn(8, 4)}),
            "wanted 4 (LSTM), 3 (GRU) or 1 (RNN) times as many rows as columns",
        ),
        (
            lambda: importing.torch_recurrent(
                {"weight_ih_l0": drawn(12, 5), "weight_hh_l0": drawn(12, 4), "bias_ih_l0": W[0]}
            ),
            "wanted bias_hh_l0, bias_ih_l0",
        ),
        (
            lambda: importing.torch_recurrent(nn.LSTM(3, 4, proj_size=2).state_dict()),
            "projections (proj_size)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
