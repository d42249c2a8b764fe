# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of torch from the weights of other frameworks, given as NumPy arrays.

A recurrent layer keeps the weights of its gates in one matrix, and each framework puts them in
another order. What is called so by another framework:

============================ ====================== ================================================
weights of                   order                  in torch's terms
============================ ====================== ================================================
torch LSTM                   i, f, g, o             input, forget, candidate, output
Keras LSTM                   i, f, c, o             the same order; kernels are transposed
LSTM-LRP (Arras et al. 2017) i, g, f, o             candidate before forget
torch GRU                    r, z, n                reset, update, candidate
Keras GRU                    z, r, h                update before reset; kernels are transposed
============================ ====================== ================================================

The layers take sequences (n, steps, features), batch first, and are in eval mode. Weights become
float32, in which pyrel explains.
"""

from pyrel.importing.keras import bidirectional, keras_gru, keras_lstm, keras_rnn
from pyrel.importing.lstm_lrp import LastStates, lstm_lrp
from pyrel.importing.state import torch_recurrent

__all__ = [
    "LastStates",
    "bidirectional",
    "keras_gru",
    "keras_lstm",
    "keras_rnn",
    "lstm_lrp",
    "torch_recurrent",
]
