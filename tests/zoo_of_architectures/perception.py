# SPDX-License-Identifier: Apache-2.0
"""Readers of images, videos and sound, and of what a policy sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextLineReader(nn.Module):
    """Convolutions over a line of text, then a BiLSTM over its columns, time first, as for CTC.

    Shi et al. 2017. Returns (columns, n, characters).
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.lstm, self.out = nn.LSTM(4, 5, bidirectional=True), nn.Linear(10, 6)

    def forward(self, image: Tensor) -> Tensor:  # (n, 1, 4, width)
        columns = self.features(image).squeeze(2).permute(2, 0, 1)
        states, _ = self.lstm(columns)
        steps, count, width = states.shape
        return self.out(states.view(steps * count, width)).view(steps, count, -1)


class SpeechReader(nn.Module):
    """Convolutions clipped at 20, batch norm between recurrent layers (Amodei et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 3, (3, 3), stride=(2, 1), padding=(1, 1)),
            nn.BatchNorm2d(3),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.first = nn.GRU(9, 6, batch_first=True, bidirectional=True)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 4, bias=False)

    def forward(self, spectrum: Tensor) -> Tensor:  # (n, 1, frequencies, steps)
        maps = self.front(spectrum)
        steps = maps.flatten(1, 2).transpose(1, 2)
        both, _ = self.first(steps)
        summed = both.view(*both.shape[:2], 2, -1).sum(2)
        normal = self.norm(summed.flatten(0, 1)).view_as(summed)
        return self.out(self.second(normal)[0])


class VideoReader(nn.Module):
    """The same convolutions for each frame, then an LSTM over frames (Donahue et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)
        )
        self.lstm, self.out = nn.LSTM(5, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, video: Tensor) -> Tensor:  # (n, frames, 2, 5, 5)
        count, frames = video.shape[:2]
        seen = self.frame(video.flatten(0, 1)).view(count, frames, -1)
        return self.out(self.lstm(seen)[0].mean(dim=1))


class WaveformReader(nn.Module):
    """Logarithms of the energies in bands of a spectrogram, then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))
        steps = torch.linspace(0, math.pi, 5)[:, None] * torch.arange(1, 4)
        self.register_buffer("bands", steps.sin().abs())  # (frequencies, bands)
        self.lstm, self.out = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, wave: Tensor) -> Tensor:  # (n, samples)
        spectrum = torch.stft(
            wave, 8, hop_length=4, window=self.window, center=True, return_complex=True
        )
        energies = spectrum.abs().square().transpose(1, 2) @ self.bands
        return self.out(self.lstm(torch.log(energies + 0.1))[0][:, -1])


class Autoencoder(nn.Module):
    """An LSTM that packs a sequence into one state and unpacks it; its error is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.LSTM(3, 5, batch_first=True), nn.LSTM(5, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:  # (n, steps, 3)
        _, (state, _) = self.encode(x)
        repeated = state[-1].unsqueeze(1).repeat(1, x.shape[1], 1)
        again = self.out(self.decode(repeated)[0])
        return functional.mse_loss(again, x, reduction="none").mean(dim=(1, 2))


class Policy(nn.Module):
    """A recurrent policy: logits of actions and the value of what is seen (Hausknecht 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.gru = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True)
        self.actor, self.critic = nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.gru(torch.tanh(self.encode(seen)))
        return self.actor(states[:, -1]), self.critic(states[:, -1])
