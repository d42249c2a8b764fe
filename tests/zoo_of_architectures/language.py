# SPDX-License-Identifier: Apache-2.0
"""Readers of text: attention over the states of an LSTM, taggers, language models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, UNITS, CLASSES = 11, 4, 5, 3


class AdditiveAttention(nn.Module):
    """An LSTM whose states are averaged with weights v·tanh(W h) (Bahdanau et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True, bidirectional=True)
        self.project, self.score = nn.Linear(2 * UNITS, 4), nn.Linear(4, 1, bias=False)
        self.out = nn.Linear(2 * UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        weights = torch.softmax(self.score(torch.tanh(self.project(states))), dim=1)
        return self.out((weights * states).sum(dim=1))


class DotAttention(nn.Module):
    """An LSTM whose last state asks all states by dot products (Luong et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True)
        self.join, self.out = nn.Linear(2 * UNITS, UNITS), nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, (last, _) = self.lstm(x)
        query = last[-1]
        scores = torch.bmm(states, query.unsqueeze(2)).squeeze(2)
        context = torch.bmm(functional.softmax(scores, dim=1).unsqueeze(1), states).squeeze(1)
        return self.out(torch.tanh(self.join(torch.cat([context, query], dim=1))))


class SelfAttentiveEmbedding(nn.Module):
    """Several weighted means of the states make a matrix for a sentence (Lin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True, bidirectional=True)
        self.first, self.second = nn.Linear(2 * UNITS, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.hidden, self.out = nn.Linear(4 * UNITS, UNITS), nn.Linear(UNITS, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(ids))
        weights = self.second(torch.tanh(self.first(states))).softmax(dim=1)
        matrix = weights.transpose(1, 2) @ states
        return self.out(torch.relu(self.hidden(matrix.flatten(1))))


class WordLanguageModel(nn.Module):
    """Predicts each next word; the output's weights are the embedding's (Press and Wolf 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, num_layers=2, batch_first=True, dropout=0.2)
        self.drop, self.decode = nn.Dropout(0.2), nn.Linear(UNITS, VOCABULARY)
        self.decode.weight = self.embed.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, hidden = self.lstm(self.drop(self.embed(ids)))
        return functional.log_softmax(self.decode(self.drop(states)), dim=-1), hidden


class Tagger(nn.Module):
    """A bidirectional LSTM that gives scores of tags for each word (Huang et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * UNITS, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(ids))[0])


class GenomeReader(nn.Module):
    """Convolution, pooling and an LSTM over one-hot nucleotides (Quang and Xie 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.motifs, self.pool = nn.Conv1d(4, 6, 4), nn.MaxPool1d(3)
        self.lstm = nn.LSTM(6, UNITS, batch_first=True, bidirectional=True)
        self.hidden, self.out = nn.Linear(2 * UNITS * 5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:  # (n, 4, length)
        found = self.pool(torch.relu(self.motifs(x)))
        states, _ = self.lstm(found.transpose(1, 2))
        return self.out(torch.relu(self.hidden(states.flatten(1))))
