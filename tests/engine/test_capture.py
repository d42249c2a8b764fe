# SPDX-License-Identifier: Apache-2.0
"""What capture leaves behind, and models that torch.export does not take as they are."""

import numpy as np
import pytest
import torch
from torch import nn

import pyrel

RNG = np.random.default_rng(7)


class Loop(nn.Module):
    """A recurrence whose first state is made by a method that the tests replace."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.cached: torch.Tensor | None = None

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.first(x)
        for t in range(x.shape[1]):
            state = torch.relu(self.into(x[:, t]) + self.again(state))
        return self.out(state)


class Caching(Loop):
    def first(self, x: torch.Tensor) -> torch.Tensor:
        if self.cached is None:
            self.cached = x.new_zeros(x.shape[0], 8)
        return self.cached


class Averaging(Loop):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / len(x)


def test_the_batch_size_as_a_number() -> None:
    model, x = Loop(), RNG.random((7, 4, 5), dtype=np.float32)
    e = pyrel.explain(model, x, "gradient", target=1)
    inputs = torch.from_numpy(x).requires_grad_()
    model(inputs)[:, 1].sum().backward()
    assert inputs.grad is not None
    # Sums of at most 8 · 4 + 8 terms below 1 in size: float32 rounds each by less than 1e-7.
    np.testing.assert_allclose(e.relevance, inputs.grad.numpy(), atol=5e-6)


def test_a_function_of_the_batch_size_is_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="depends on the size of the batch"):
        pyrel.capture(Averaging(), np.zeros((2, 4, 5), np.float32))


def test_what_forward_assigns_is_taken_back() -> None:
    model = Caching().train()
    pyrel.capture(model, np.zeros((2, 4, 5), np.float32))
    assert model.cached is None
    assert model.training
    assert model(torch.zeros(6, 4, 5)).shape == (6, 3)


def test_wrappers_are_looked_through() -> None:
    model, x = Loop(), RNG.random((2, 4, 5), dtype=np.float32)
    wanted = pyrel.explain(model, x, "gradient").relevance
    wrapped = nn.DataParallel(model)
    np.testing.assert_array_equal(pyrel.explain(wrapped, x, "gradient").relevance, wanted)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(Loop):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else self.out(x[:, 0, :1].expand(-1, 8))

    with pytest.raises(pyrel.UnsupportedModelError, match="branches on the values"):
        pyrel.capture(Branching(), np.zeros((2, 4, 5), np.float32))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"input of shape \(n, 4, 9\)"):
        pyrel.capture(Loop(), np.zeros((2, 4, 9), np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_get_a_hint(layer: type[nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = layer(5, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.layer(x)[0][:, -1])

    with pytest.raises(pyrel.UnsupportedModelError, match="a Python loop over steps") as refusal:
        pyrel.capture(Recurrent(), np.zeros((2, 4, 5), np.float32))
    assert refusal.value.module == "layer"


def test_more_than_one_input() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(pyrel.UnsupportedModelError, match="more than one input"):
        pyrel.capture(Two(), np.zeros((2, 3), np.float32))
