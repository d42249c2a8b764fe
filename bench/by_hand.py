# SPDX-License-Identifier: Apache-2.0
"""Deep Taylor decomposition of the Deep cell, written by hand with torch products.

What a careful user would write today: weights prepared once, the encoder and the denominators of
all steps in one product each, the zero first recurrent input skipped, the z^β rule by two products.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from pyrel.nn import Deep


class DeepTaylorByHand:
    """Explains a `Deep` cell on inputs in [0, 1]; call it with x of shape (n, steps, ...)."""

    def __init__(self, cell: Deep) -> None:
        self.steps, self.width = cell.steps, cell.sizes[0]
        layers = {
            "encoder": cell.encoder,
            "cell": cell.cell,
            "feedback": cell.feedback,
            "decision": cell.decision,
            "output": cell.output,
        }
        self.weight = {n: m.weight.detach().T.contiguous() for n, m in layers.items()}
        self.bias = {n: -F.softplus(m.bias.detach()) for n, m in layers.items()}
        self.positive = {n: w.clamp(min=0) for n, w in self.weight.items()}
        self.back = {n: w.T.contiguous() for n, w in self.positive.items()}
        encoder = self.weight["encoder"]
        self.encoder_back = encoder.T.contiguous()
        self.encoder_back_negative = encoder.clamp(max=0).T.contiguous()
        # z^β for l = 0, h = 1: z − b − Σ_j w⁻ is the denominator, b being below zero.
        self.encoder_constant = -self.bias["encoder"] - encoder.clamp(max=0).sum(0)

    def _layer(self, name: str, a: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias[name], a, self.weight[name])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the relevance of the predicted class, of the shape of ``x``."""
        n, pixels = x.shape[0], x.flatten(2)
        encoded = self._layer("encoder", pixels.reshape(n * self.steps, -1)).relu_()
        encoded = encoded.view(n, self.steps, -1)
        joined, states = self._recurrence(encoded)
        decision = self._layer("decision", states[-1]).relu_()
        output = self._layer("output", decision)
        r = torch.zeros_like(output)
        target = output.argmax(1, keepdim=True)
        r.scatter_(1, target, output.gather(1, target).clamp_(min=0))
        r = self._z_plus("output", decision, r)
        r = self._z_plus("decision", states[-1], r)
        return self._back_through_time(pixels, encoded, joined, states, r).view(x.shape)

    def _recurrence(self, encoded: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        weight, width = self.weight["cell"], self.width
        state = torch.addmm(self.bias["cell"], encoded[:, 0], weight[:width]).relu_()
        joined, states = [encoded[:, 0]], [state]
        for t in range(1, self.steps):
            r = self._layer("feedback", state).relu_()
            joined.append(torch.cat([encoded[:, t], r], 1))
            state = self._layer("cell", joined[-1]).relu_()
            states.append(state)
        return joined, states

    def _z_plus(self, name: str, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        rows = a.shape[1]
        z = a @ self.positive[name][:rows]
        s = torch.where(z > 0, r / z, 0)
        return (s @ self.back[name][:, :rows]).mul_(a)

    def _back_through_time(
        self,
        pixels: torch.Tensor,
        encoded: torch.Tensor,
        joined: list[torch.Tensor],
        states: list[torch.Tensor],
        r: torch.Tensor,
    ) -> torch.Tensor:
        parts = torch.empty_like(encoded)
        for t in range(self.steps - 1, 0, -1):
            both = self._z_plus("cell", joined[t], r)
            parts[:, t] = both[:, : self.width]
            r = self._z_plus("feedback", states[t - 1], both[:, self.width :])
        parts[:, 0] = self._z_plus("cell", joined[0], r)
        s = (parts / (encoded + self.encoder_constant)).flatten(0, 1)
        flat = pixels.flatten(0, 1)
        return (s @ self.encoder_back).mul_(flat).sub_(s @ self.encoder_back_negative)
