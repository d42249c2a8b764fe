# SPDX-License-Identifier: Apache-2.0
"""The detection-pooling network: how it starts, what it computes, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from pyrel.nn import DetectionPooling, MinMaxRelevance


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    network = DetectionPooling()
    first, second = network.linear
    assert (first.weight.shape, second.weight.shape) == ((400, 1568), (400, 100))
    # The standard deviation of n draws is off by sigma/√(2n) itself.
    assert first.weight.std().item() == pytest.approx(0.05, rel=5 / math.sqrt(2 * 627_200))
    assert not first.bias.any()
    assert not second.bias.any()


@pytest.mark.parametrize("pooling", ["sum", "max", 2.0, math.inf])
def test_a_network_of_one_layer(pooling: str | float) -> None:
    network = DetectionPooling(2, [(4, 2)], pooling)
    with torch.no_grad():
        network.linear[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [3, 4]]))
        network.linear[0].bias.copy_(torch.tensor([0.0, 0, 0, -1]))
    detected = torch.tensor([[3.0, 4.0], [0.0, 24.0]])
    wanted = {"sum": [7.0, 24.0], 2.0: [5.0, 24.0]}.get(pooling, [4.0, 24.0])
    (units, pools) = network.activities(torch.tensor([[3.0, 4.0]]))[0]
    assert torch.equal(units.reshape(2, 2), detected)
    assert pools.tolist() == [wanted]


def test_sharpness_tends_to_the_relu() -> None:
    network, x = DetectionPooling(20, [(8, 2)]), torch.rand(5, 20)
    exact, _ = network.activities(x)[0]
    soft, _ = network.activities(x, sharpness=100.0)[0]
    difference = exact - soft
    # log(0.5 + 0.5 exp(t z)) / t lies between z - log(2)/t and 0 - log(2)/t below the ReLU, or on.
    assert difference.min() >= -1e-6
    assert difference.max() <= math.log(2) / 100 + 1e-6
    zero = DetectionPooling(1, [(1, 1)])
    assert zero.activities(torch.zeros(1, 1), sharpness=3.0)[0][0].item() == pytest.approx(
        0, abs=1e-7
    )


def test_biases_are_kept_below_zero() -> None:
    network = DetectionPooling(3, [(2, 1)])
    with torch.no_grad():
        network.linear[0].bias.copy_(torch.tensor([0.5, -0.5]))
    network.clamp()
    assert network.linear[0].bias.tolist() == [0.0, -0.5]


def test_it_can_be_made_again() -> None:
    for pooling in ("sum", "max", 2.5):
        network = DetectionPooling(6, ((4, 2), (3, 1)), pooling)
        again = DetectionPooling(**network.config())
        assert again.config() == network.config()
        assert repr(pooling) in repr(network)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"layers": []}, ValueError, "one at least"),
        ({"layers": [(5, 2)]}, ValueError, "5 units do not make 2 pools"),
        ({"layers": [(0, 1)]}, ValueError, "at least 1, not 0"),
        ({"inputs": 2.5}, TypeError, "float"),
        ({"pooling": "mean"}, ValueError, "'sum', 'max' or a number q, not 'mean'"),
        ({"pooling": 0.5}, ValueError, "at least 1, not 0.5"),
        ({"pooling": math.nan}, ValueError, "at least 1, not nan"),
    ],
)
def test_wrong_arguments(arguments: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        DetectionPooling(**arguments)


def test_inhibition_only_lowers_the_modelled_relevance() -> None:
    torch.manual_seed(0)
    model = MinMaxRelevance(10, above=6, pools=3, units=2)
    x, above = torch.rand(7, 10), 100 * torch.rand(7, 6)
    free = torch.relu(model.detection(x)).reshape(7, 3, 2).sum(2)
    assert (model(x, above) <= free + 1e-6).all()
    assert torch.allclose(model(x, torch.zeros(7, 6)), free)
