# SPDX-License-Identifier: Apache-2.0
"""The model of the LSTM-LRP code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pyrel.importing._weights import (
    TORCH_LSTM,
    Array,
    Direction,
    check_shape,
    checked_array,
    checked_matrix,
    filled,
    reorder,
    to_tensor,
)

_LSTM_LRP = ("i", "g", "f", "o")


class LastStates(nn.Module):
    """Classifier on the last states of a bidirectional LSTM, the model of the LSTM-LRP code.

    ``forward`` maps embedded words (n, steps, features), or with an embedding their numbers
    (n, steps), to class scores (n, classes).

    Attributes
    ----------
    embedding : nn.Embedding or None
    lstm : nn.LSTM
    output : nn.Linear
        Reads the state after the last word of the forward direction, then that after the first word
        of the backward one.
    """

    def __init__(self, lstm: nn.LSTM, output: nn.Linear, embedding: nn.Embedding | None) -> None:
        super().__init__()
        self.embedding = embedding
        self.lstm = lstm
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores."""
        if self.embedding is not None:
            x = self.embedding(x)
        _, (h, _) = self.lstm(x)
        scores: Tensor = self.output(torch.cat([h[0], h[1]], 1))
        return scores


def lstm_lrp(
    weights: Mapping[str, npt.ArrayLike], embeddings: npt.ArrayLike | None = None
) -> LastStates:
    """Return the bidirectional LSTM of the LSTM-LRP code from its dictionary of weights.

    The code and model that Arras, Montavon, Müller and Samek published with *Explaining Recurrent
    Neural Network Predictions in Sentiment Analysis* (2017), LRP_for_LSTM. Its file of weights is a
    pickle: read it in an environment that you trust, and give the dictionary.

    Parameters
    ----------
    weights : mapping
        For Left (reads forward) and Right (reads backward): ``Wxh_`` (4 units, features), ``Whh_``
        (4 units, units), ``bxh_`` and ``bhh_`` (4 units,), in the order i, g, f, o, and ``Why_``
        (classes, units).
    embeddings : array, optional
        Shape (words, features): makes a model that takes numbers of words.

    Raises
    ------
    ValueError
        An entry is missing, shapes do not fit, or weights are not finite.
    """
    left, left_reader = _direction(weights, "Left")
    right, right_reader = _direction(weights, "Right")
    features = left[0].shape[1]
    check_shape("Wxh_Right", right[0], left[0].shape)
    check_shape("Why_Right", right_reader, left_reader.shape)
    lstm = filled(nn.LSTM, [left, right])
    reader = np.concatenate([left_reader, right_reader], 1)
    output = nn.Linear(reader.shape[1], reader.shape[0], bias=False)
    output.load_state_dict({"weight": to_tensor(reader)})
    embedding = None
    if embeddings is not None:
        table = checked_array("embeddings", embeddings)
        check_shape("embeddings", table, (len(table), features))
        embedding = nn.Embedding(*table.shape)
        embedding.load_state_dict({"weight": to_tensor(table)})
    return LastStates(lstm, output, embedding).eval()


def _direction(weights: Mapping[str, npt.ArrayLike], side: str) -> tuple[Direction, Array]:
    """Return the weights of one direction in torch's order, and what reads its last state."""
    named = {
        name: checked_array(f"{name}_{side}", _entry(weights, f"{name}_{side}"))
        for name in ("Wxh", "Whh", "bxh", "bhh", "Why")
    }
    rows, _ = checked_matrix(f"Wxh_{side}", named["Wxh"], 4)
    reader = named.pop("Why")
    checked_matrix(f"Why_{side}", reader, 1)
    wanted = {"Whh": (rows, rows // 4), "bxh": (rows,), "bhh": (rows,)}
    for name, shape in wanted.items():
        check_shape(f"{name}_{side}", named[name], shape)
    check_shape(f"Why_{side}", reader, (len(reader), rows // 4))
    w, u, b, b_recurrent = (reorder(m, _LSTM_LRP, TORCH_LSTM) for m in named.values())
    return (w, u, b, b_recurrent), reader


def _entry(weights: Mapping[str, npt.ArrayLike], name: str) -> npt.ArrayLike:
    if name not in weights:
        raise ValueError(f"weights: no entry {name}; given {', '.join(map(str, weights))}")
    return weights[name]
