# SPDX-License-Identifier: Apache-2.0
"""Products of a recurrent layer that do not wait for its steps are formed for all at once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.graph.recurrences import find_recurrences

STEPS, INPUTS, WIDTH = 5, 3, 4


class ByLayers(nn.Module):
    """Two layers, one after the other."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = kind(INPUTS, WIDTH, 2, batch_first=True)
        self.output = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x)[0][:, -1])


class BySteps(nn.Module):
    """The same LSTM, all layers at one step before the next."""

    def __init__(self, layers: nn.LSTM, output: nn.Linear) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(INPUTS, WIDTH), nn.LSTMCell(WIDTH, WIDTH)])
        for number, cell in enumerate(self.cells):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            cell.load_state_dict({n: getattr(layers, f"{n}_l{number}").detach() for n in names})
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros(x.shape[0], WIDTH)
        states = [(zero, zero), (zero, zero)]
        for t in range(x.shape[1]):
            h = x[:, t]
            for number, cell in enumerate(self.cells):
                states[number] = cell(h, states[number])
                h = states[number][0]
        return self.output(h)


def captured(model: nn.Module) -> Graph:
    return pyrel.capture(model.eval(), np.zeros((1, STEPS, INPUTS), np.float32))


# A GRU's candidate keeps both of its products apart anyhow; an LSTM's gates and candidate do not.
@pytest.mark.parametrize(("kind", "joined"), [(nn.LSTM, 2), (nn.GRU, 1), (nn.RNN, 1)])
def test_what_a_layer_reads_is_early_at_all_steps_but_the_first(
    kind: Callable[..., nn.Module], joined: int
) -> None:
    found = find_recurrences(captured(ByLayers(kind)))
    assert len(found) == 2 * joined * (STEPS - 1)  # the first step reads no state
    widths = sorted((~recurrence.late).sum() for recurrence in found.values())
    assert widths == [INPUTS] * (len(found) // 2) + [WIDTH] * (len(found) // 2)


def test_of_a_model_that_goes_step_by_step_the_lowest_layer_is_early() -> None:
    by_layers = ByLayers(nn.LSTM)
    by_steps = BySteps(by_layers.layers, by_layers.output)
    found = find_recurrences(captured(by_steps))
    assert {int((~recurrence.late).sum()) for recurrence in found.values()} == {INPUTS}
    x = np.random.default_rng(1).standard_normal((2, STEPS, INPUTS)).astype(np.float32)
    one, other = (
        pyrel.Explainer(captured(model), method="lrp_epsilon")(x) for model in (by_layers, by_steps)
    )
    largest = np.abs(one.relevance).max()
    np.testing.assert_allclose(one.relevance, other.relevance, rtol=0, atol=1e-5 * largest)
