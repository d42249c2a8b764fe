# SPDX-License-Identifier: Apache-2.0
"""The architectures: how to make each, its input, and whether LRP-ε takes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from zoo_of_architectures import clinical, forecasting, gated_states, language, perception

import pyrel

SAMPLES = 6


@dataclass(frozen=True, eq=False)
class Architecture:
    """One model; ``refused`` are words of the refusal of LRP-ε, "" where it is accepted.

    ``shape`` is one sample's, or that of each input by name; ``vocabulary`` the number of token
    ids, 0 for floats. ``output`` is that of `pyrel.capture`, ``constant`` that of `Explainer` for
    LRP-ε, ``target`` that of a call where the predicted class will not do.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] | dict[str, tuple[int, ...]]
    vocabulary: int = 0
    output: Any = None
    target: Any = None
    constant: tuple[str, ...] = ()
    refused: str = ""

    @functools.cached_property
    def module(self) -> nn.Module:
        """The module in eval mode, with statistics as training would leave them."""
        torch.manual_seed(1)
        module = self.make()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.normal_(0.0, 0.3)
                layer.running_var.uniform_(0.5, 2.0)
        return module.eval()

    @functools.cached_property
    def inputs(self) -> Any:
        """Samples, drawn anew for each architecture; inputs that are constant are 0 or 1."""
        rng = np.random.default_rng(4)
        if isinstance(self.shape, dict):
            values = {name: rng.normal(size=(SAMPLES, *s)) for name, s in self.shape.items()}
            for name in self.constant:
                values[name] = values[name] > 0
            return {name: value.astype(np.float32) for name, value in values.items()}
        if self.vocabulary:
            return rng.integers(0, self.vocabulary, (SAMPLES, *self.shape))
        return rng.normal(size=(SAMPLES, *self.shape)).astype(np.float32)

    @functools.cached_property
    def captured(self) -> Any:
        """The captured graph, which both methods share."""
        return pyrel.capture(self.module, self.example, output=self.output)

    @property
    def example(self) -> Any:
        """The first two samples."""
        if isinstance(self.inputs, dict):
            return {name: value[:2] for name, value in self.inputs.items()}
        return self.inputs[:2]

    def scores(self, module: nn.Module, x: Any) -> Any:
        """Outputs (n, ...) of a module of this architecture."""
        out = module(**x) if isinstance(x, dict) else module(x)
        if self.output is None:
            return out
        return self.output(out) if callable(self.output) else out[self.output]


TWO_SIGNALS = "here both or neither is a gate"

ARCHITECTURES = [
    Architecture(
        "time-first CRNN", perception.TextLineReader, (1, 4, 10),
        output=lambda out: out.transpose(0, 1), target=(3, 2),
    ),
    Architecture("DeepSpeech 2", perception.SpeechReader, (1, 6, 5), target=(4, 1)),
    Architecture("video CNN-LSTM", perception.VideoReader, (3, 2, 5, 5)),
    Architecture("spectrogram and LSTM", perception.WaveformReader, (24,)),
    Architecture("autoencoder's error", perception.Autoencoder, (4, 3)),
    Architecture("policy GRU", perception.Policy, (5, 4), output=0),
    Architecture("additive attention", language.AdditiveAttention, (5, 4)),
    Architecture("dot attention", language.DotAttention, (5, 4)),
    Architecture("self-attentive embedding", language.SelfAttentiveEmbedding, (5,), 11),
    Architecture(
        "word language model", language.WordLanguageModel, (5,), 11, output=0, target=(4, 2)
    ),
    Architecture("BiLSTM tagger", language.Tagger, (5,), 11, target=(2, 1)),
    Architecture("CNN-LSTM for DNA", language.GenomeReader, (4, 18)),
    Architecture("hydrology LSTM", forecasting.StreamflowModel, (6, 3), output="y_hat"),
    Architecture("SegRNN", forecasting.SegmentModel, (6, 3), target=5),
    Architecture("LSTNet", forecasting.LongShortTerm, (8, 3), target=1),
    Architecture("DA-RNN", forecasting.DualStageAttention, (4, 3)),
    Architecture("RevIN and GRU", forecasting.ReversibleNorm, (6, 3), target=1),
    Architecture("DeepAR", forecasting.DeepAr, (6,), output=0),
    Architecture(
        "seq2seq with static features", forecasting.EncoderDecoder,
        {"x": (5, 3), "static": (2,)}, target=2,
    ),
    Architecture(
        "GRU-D", clinical.DecayingGru, {"values": (3, 3), "masks": (3, 3), "since": (3, 3)},
        constant=("masks",),
    ),
    Architecture("RETAIN", clinical.ReverseTimeAttention, (4, 3), refused=TWO_SIGNALS),
    Architecture("ODE-RNN", clinical.OdeRnn, (3, 3)),
    Architecture("minGRU", gated_states.MinGru, (4, 4)),
    Architecture("sLSTM", gated_states.SLstm, (3, 4)),
    Architecture("Mamba block", gated_states.MambaBlock, (3, 4)),
]  # fmt: skip
