# SPDX-License-Identifier: Apache-2.0
"""Forecasts of time series."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES, UNITS = 3, 5


class StreamflowModel(nn.Module):
    """An LSTM over daily forcings, called by keyword, that returns a dictionary.

    Kratzert et al. 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size=FEATURES, hidden_size=UNITS, batch_first=True)
        self.dropout, self.head = nn.Dropout(p=0.4), nn.Linear(UNITS, 1)
        with torch.no_grad():
            self.lstm.bias_hh_l0[UNITS : 2 * UNITS] = 3.0

    def forward(self, forcings: Tensor) -> dict[str, Tensor]:
        output, (h, c) = self.lstm(input=forcings)
        return {"y_hat": self.head(self.dropout(output))[:, -1], "h_n": h, "c_n": c}


class SegmentModel(nn.Module):
    """A GRU over segments of each channel, decoded at all horizons at once (Lin et al. 2023).

    The last value, detached, is taken off the channel and put back.
    """

    def __init__(self, steps: int = 6, segment: int = 2, ahead: int = 4) -> None:
        super().__init__()
        self.segment, self.ahead = segment, ahead
        self.embed = nn.Sequential(nn.Linear(segment, 6), nn.ReLU())
        self.gru = nn.GRU(6, 6, batch_first=True)
        self.position = nn.Parameter(torch.randn(ahead // segment, 3))
        self.channel = nn.Parameter(torch.randn(FEATURES, 3))
        self.predict = nn.Linear(6, segment)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, later = len(x), x.shape[2], self.ahead // self.segment
        last = x[:, -1:, :].detach()
        series = (x - last).permute(0, 2, 1)
        parts = self.embed(series.reshape(count * channels, -1, self.segment))
        _, state = self.gru(parts)
        place = torch.cat(
            [
                self.position.unsqueeze(0).repeat(channels, 1, 1),
                self.channel.unsqueeze(1).repeat(1, later, 1),
            ],
            dim=-1,
        ).view(-1, 1, 6)
        asked = place.repeat(count, 1, 1)
        _, found = self.gru(asked, state.repeat(1, 1, later).view(1, -1, 6))
        ahead = self.predict(found).view(count, channels, self.ahead)
        return (ahead.permute(0, 2, 1) + last).flatten(1)


class LongShortTerm(nn.Module):
    """Convolution, a GRU, a GRU over every third step, and an autoregression beside them.

    Lai et al. 2018.
    """

    def __init__(self, steps: int = 8, skip: int = 3, kernel: int = 3, highway: int = 4) -> None:
        super().__init__()
        self.skip, self.kernel, self.highway = skip, kernel, highway
        self.periods = (steps - kernel + 1) // skip
        self.conv = nn.Conv2d(1, 4, (kernel, FEATURES))
        self.gru, self.skipping = nn.GRU(4, UNITS), nn.GRU(4, 2)
        self.out = nn.Linear(UNITS + skip * 2, FEATURES)
        self.autoregression = nn.Linear(highway, 1)

    def forward(self, x: Tensor) -> Tensor:
        count = x.size(0)
        maps = torch.relu(self.conv(x.view(-1, 1, x.size(1), FEATURES))).squeeze(3)
        state = self.gru(maps.permute(2, 0, 1).contiguous())[1].squeeze(0)
        s = maps[:, :, -self.periods * self.skip :].contiguous()
        s = s.view(count, 4, self.periods, self.skip).permute(2, 0, 3, 1).contiguous()
        s = self.skipping(s.view(self.periods, count * self.skip, 4))[1].view(count, -1)
        recent = x[:, -self.highway :, :].permute(0, 2, 1).contiguous().view(-1, self.highway)
        return self.out(torch.cat([state, s], 1)) + self.autoregression(recent).view(-1, FEATURES)


class DualStageAttention(nn.Module):
    """Attention over driving series before the encoder, over its steps before the decoder.

    Qin et al. 2017; the decoder sees contexts alone.
    """

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.encode, self.decode = nn.LSTMCell(FEATURES, UNITS), nn.LSTMCell(UNITS, 4)
        self.of_series = nn.Linear(2 * UNITS + steps, 1)
        self.of_steps = nn.Sequential(nn.Linear(8 + UNITS, 6), nn.Tanh(), nn.Linear(6, 1))
        self.out = nn.Linear(4 + UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        count, steps, series = x.shape
        h = c = x.new_zeros(count, UNITS)
        states = []
        for t in range(steps):
            both = torch.cat([h, c], 1).unsqueeze(1).expand(-1, series, -1)
            scores = self.of_series(torch.cat([both, x.permute(0, 2, 1)], dim=2)).squeeze(2)
            h, c = self.encode(scores.softmax(dim=1) * x[:, t], (h, c))
            states.append(h)
        encoded = torch.stack(states, dim=1)
        d = s = x.new_zeros(count, 4)
        for _ in range(steps):
            both = torch.cat([d, s], 1).unsqueeze(1).expand(-1, steps, -1)
            weights = self.of_steps(torch.cat([both, encoded], dim=2)).softmax(dim=1)
            context = (weights * encoded).sum(dim=1)
            d, s = self.decode(context, (d, s))
        return self.out(torch.cat([d, context], dim=1))


class ReversibleNorm(nn.Module):
    """Each series is normalised by itself, forecast by a GRU, and put back (Kim et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Parameter(torch.rand(FEATURES) + 0.5),
            nn.Parameter(0.1 * torch.randn(FEATURES)),
        )
        self.gru, self.out = nn.GRU(FEATURES, UNITS, batch_first=True), nn.Linear(UNITS, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True).detach()
        deviation = torch.sqrt(x.var(dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
        normal = (x - mean) / deviation * self.scale + self.shift
        found = self.out(self.gru(normal)[0][:, -1])
        return (found - self.shift) / (self.scale + 1e-10) * deviation[:, 0] + mean[:, 0]


class DeepAr(nn.Module):
    """Mean and deviation of each next value, scaled by the mean of magnitudes.

    Salinas et al. 2020.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, UNITS, num_layers=2, batch_first=True)
        self.mean, self.deviation = nn.Linear(UNITS, 1), nn.Linear(UNITS, 1)
        self.register_buffer("age", torch.linspace(0, 1, 6)[None, :, None])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (n, 6)
        scale = 1 + z.abs().mean(dim=1, keepdim=True)
        scaled = (z / scale).unsqueeze(2)
        states, _ = self.lstm(torch.cat([scaled, self.age.expand_as(scaled)], dim=2))
        mean = self.mean(states[:, -1]) * scale
        return mean, functional.softplus(self.deviation(states[:, -1])) * scale


class EncoderDecoder(nn.Module):
    """An LSTM reads, another writes step by step; what is static begins and joins each step.

    Sutskever et al. 2014.
    """

    def __init__(self, ahead: int = 3) -> None:
        super().__init__()
        self.ahead = ahead
        self.start = nn.Linear(2, UNITS)
        self.encode, self.decode = nn.LSTM(FEATURES, UNITS, batch_first=True), nn.LSTMCell(3, UNITS)
        self.out = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor, static: Tensor) -> Tensor:
        first = torch.tanh(self.start(static)).unsqueeze(0)
        _, (h, c) = self.encode(x, (first, torch.zeros_like(first)))
        h, c, y = h[0], c[0], x[:, -1, :1]
        found = []
        for _ in range(self.ahead):
            h, c = self.decode(torch.cat([y, static], dim=1), (h, c))
            y = self.out(h)
            found.append(y)
        return torch.cat(found, dim=1)
