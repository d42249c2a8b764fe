# SPDX-License-Identifier: Apache-2.0
"""Roots, natural decompositions and inputs of large scores, where they are known by formula."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver
from torch import nn

import pyrel
from pyrel.experiment.activation_maximisation import maximise_activation
from pyrel.experiment.natural_decomposition import (
    FUNCTIONS,
    grid,
    largest_jump,
    natural_decomposition,
)
from pyrel.experiment.nearest_root import NearestRoot, _Search, nearest_root
from pyrel.experiment.reproduce import Settings, experiment_of
from pyrel.experiment.reproduce.runs import Kept
from pyrel.nn import DetectionPooling

WEIGHTS = torch.tensor([1.0, 2.0, -0.5, 0.0], dtype=torch.float64)


def plane(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ WEIGHTS + 0.3)


def test_the_nearest_root_of_a_plane() -> None:
    """It lies at x − λw with w·ξ + b = 0.1 f(x): R_p = w_p²/Σw² · 0.9 f(x), equation 13."""
    torch.manual_seed(0)
    x = 0.1 + torch.rand(20, 4, dtype=torch.float64)
    found = nearest_root(plane, x, low=-100.0, high=100.0)
    assert found.found.all()
    assert (found.output > 0).all()
    # Halving the way 24 times leaves 2⁻²⁴ of it.
    wanted = 0.9 * found.output[:, None] * (WEIGHTS**2 / (WEIGHTS**2).sum())
    assert (found.relevance - wanted).abs().max() <= 2.0**-23 * found.output.max()
    assert (found.rest < 0.1 * found.output).all()


def test_the_nearest_root_in_a_box() -> None:
    """The Lagrangian's: clip(x − λw), λ by bisection in float64."""
    torch.manual_seed(1)
    x = torch.rand(30, 4, dtype=torch.float64)
    found = nearest_root(plane, x, low=-0.2, high=1.2)
    least, most = torch.zeros(30, 1).double(), torch.full((30, 1), 100.0).double()
    for _ in range(80):
        middle = (least + most) / 2
        high = (plane((x - middle * WEIGHTS).clamp(-0.2, 1.2)) > 0.1 * plane(x))[:, None]
        least, most = torch.where(high, middle, least), torch.where(high, most, middle)
    wanted = (x - most * WEIGHTS).clamp(-0.2, 1.2)
    held = ((wanted == -0.2) | (wanted == 1.2)).any(1)
    assert found.found.all()
    assert 5 < held.sum() < 30
    # Where the box holds an element, the way back along a line may miss the nearest point. The
    # search aims at 0.0999 f(x), by which the distances of both differ by that at most.
    distance = (found.root - x).norm(dim=1)
    assert (distance <= (wanted - x).norm(dim=1) * 0.9001 / 0.9 + 1e-6).all()
    assert (distance >= (wanted - x).norm(dim=1) - 1e-6).all()
    assert found.relevance.min() >= 0


def test_what_is_zero_is_its_own_root_and_what_has_none_is_told() -> None:
    x = torch.tensor([[-1.0, -1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    found = nearest_root(plane, x, low=-1.0, high=1.0)
    assert found.found.tolist() == [True, True]
    assert not found.relevance[0].any()
    above = nearest_root(lambda x: plane(x) + 10, x, low=-1.0, high=1.0)
    assert above.found.tolist() == [False, False]
    assert above.relevance.isnan().all()


def test_relevance_at_roots_of_smooth_networks_is_positive() -> None:
    """At the nearest root of a differentiable function the gradient points to x (section 2.2)."""
    torch.manual_seed(2)
    net = DetectionPooling(30, ((16, 8), (8, 1))).double()
    with torch.no_grad():
        for layer in net.linear:
            layer.weight.mul_(8)
            layer.bias.fill_(-0.2)
    x = 2 * torch.rand(40, 30, dtype=torch.float64) - 0.5

    def against(found: NearestRoot) -> torch.Tensor:
        known = found.found & (found.output > 0)
        assert known.sum() > 30
        assert (found.rest[known] < 0.1 * found.output[known]).all()
        relevance = found.relevance[known]
        return -relevance.clamp(max=0).sum(1) / relevance.abs().sum(1)

    def smooth(sharpness: float, x: torch.Tensor) -> torch.Tensor:
        return net.activities(x, sharpness=sharpness)[-1][1][:, 0]

    ends = {"low": -0.5, "high": 1.5}
    found = None
    for sharpness in (1.0, 2.0, 4.0, 8.0, 16.0):
        start = None if found is None else found.root
        found = nearest_root(partial(smooth, sharpness), x, iterations=100, start=start, **ends)
    assert found is not None
    assert against(found).max() <= 1e-5  # by which definition 2 is measured everywhere
    as_it_is = nearest_root(lambda x: net(x)[:, 0], x, iterations=100, **ends)
    assert against(as_it_is).max() > 1e-3  # at kinks of the ReLUs the gradient points elsewhere


def test_a_root_is_kept_as_the_start() -> None:
    torch.manual_seed(0)
    x = 0.1 + torch.rand(20, 4, dtype=torch.float64)
    root = nearest_root(plane, x, low=-100.0, high=100.0).root
    again = nearest_root(plane, x, low=-100.0, high=100.0, iterations=1, start=root)
    assert ((again.root - x).norm(dim=1) <= (root - x).norm(dim=1)).all()
    zero = nearest_root(lambda x: plane(x) * 0, x, low=-100.0, high=100.0, start=root)
    assert torch.equal(zero.root, x)  # its own root, wherever the search began


def test_settings_of_the_search_are_checked() -> None:
    x = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="fraction"):
        nearest_root(plane, x, low=-1.0, high=1.0, fraction=1.0)
    with pytest.raises(ValueError, match=r"wanted values of shape \(2,\), given \(2, 4\)"):
        nearest_root(lambda x: x, x, low=-1.0, high=1.0)
    with pytest.raises(ValueError, match="wanted low < high, given 1.0 and 0.0"):
        nearest_root(plane, x, low=1.0, high=0.0)
    with pytest.raises(ValueError, match=r"x: wanted numbers in \[0.5, 1.0\]"):
        nearest_root(plane, x, low=0.5, high=1.0)
    for start in (x + 2, x * torch.nan):
        with pytest.raises(ValueError, match=r"start: wanted numbers in \[-1.0, 1.0\]"):
            nearest_root(plane, x, low=-1.0, high=1.0, start=start)
    with pytest.raises(ValueError, match=r"start: wanted shape \(2, 4\), given \(4,\)"):
        nearest_root(plane, x, low=-1.0, high=1.0, start=x[0])


def test_a_step_ends_at_the_nearest_point_of_the_box_that_falls_enough() -> None:
    """Beside bisection of λ: the fall of start − λ g, held to the box, grows with λ."""
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.uniform(-1, 1, (200, 6)))
    gradient = torch.from_numpy(rng.normal(size=(200, 6)) * rng.integers(0, 2, (200, 6)))
    most = (gradient * start + gradient.abs()).sum(1)  # at the corner of the box
    fall = most * torch.from_numpy(rng.uniform(-0.2, 1.2, 200))

    def at(length: torch.Tensor) -> torch.Tensor:
        return (start - length[:, None] * gradient).clamp(-1, 1)

    few, many = torch.zeros(200, dtype=torch.float64), torch.full((200,), 1e6, dtype=torch.float64)
    for _ in range(120):
        middle = (few + many) / 2
        enough = (gradient * (start - at(middle))).sum(1) >= fall
        few, many = torch.where(enough, few, middle), torch.where(enough, middle, many)
    found = _Search(plane, start, fall, (-1.0, 1.0))._step(start, gradient, fall)
    assert (fall > most).sum() > 20
    assert (fall < 0).sum() > 20
    torch.testing.assert_close(found, at(many), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_natural_decompositions_add_up_and_slopes_are_derivatives(name: str) -> None:
    function, x = FUNCTIONS[name], grid(10)  # without points at the kinks
    np.testing.assert_allclose(function.decomposition(x).sum(1), function.value(x), rtol=1e-15)
    h = 1e-6
    for p in (0, 1):
        moved = h * np.eye(2)[p]
        slope = (function.value(x + moved) - function.value(x - moved)) / (2 * h)
        np.testing.assert_allclose(function.sensitivity(x)[:, p], slope**2, atol=1e-8)


def test_sensitivity_of_the_hinge_jumps_and_its_decomposition_does_not() -> None:
    hinge = FUNCTIONS["hinge"]
    assert largest_jump(hinge.sensitivity) == 1.0
    assert largest_jump(hinge.decomposition) <= 1.01e-6


def test_arrows_of_figure_1_are_the_fields() -> None:
    """At three points of the grid: of the hinge, and of half its square."""
    experiment = experiment_of("taylor")(Settings(seeds=1))
    (run,) = experiment.runs()
    found = run.work(Path())
    kept = Kept(run.settings, found.numbers, found.arrays, 0.0, {})
    figures = experiment.page({"plane": kept}).figures
    points = [(0.6, -0.6), (0.6, 1.0), (-1.0, -1.0)]
    wanted = {
        "hinge": {
            "sensitivity": [(1, 0), (1, 1), (0, 0)],
            "decomposition": [(0.6, 0), (0.6, 1), (0, 0)],
        },
        "squared-hinge": {
            "sensitivity": [(0.36, 0), (0.36, 1), (0, 0)],
            "decomposition": [(0.18, 0), (0.18, 0.5), (0, 0)],
        },
    }
    for name, fields in wanted.items():
        panels = {axes.get_title(): axes for axes in figures[name].axes}
        assert list(panels) == list(fields)
        for title, arrows in fields.items():
            (quiver,) = (c for c in panels[title].collections if isinstance(c, Quiver))
            for point, arrow in zip(points, arrows, strict=True):
                (at,) = np.flatnonzero(np.isclose(quiver.XY, point, rtol=0, atol=1e-12).all(1))
                drawn = quiver.U[at], quiver.V[at]
                np.testing.assert_allclose(drawn, arrow, rtol=0, atol=1e-12)


def test_deep_taylor_of_the_hinge_is_its_natural_decomposition() -> None:
    """One detection unit for each input: w² and equation 10 give R_p = max(0, x_p)."""
    net = DetectionPooling(2, [(2, 1)])
    with torch.no_grad():
        net.linear[0].weight.copy_(torch.eye(2))
    x = grid().astype(np.float32)
    e = pyrel.Explainer(net, x, "deep_taylor")(x)
    np.testing.assert_array_equal(e.relevance, FUNCTIONS["hinge"].decomposition(x))


def test_what_has_no_natural_decomposition() -> None:
    with pytest.raises(ValueError, match="at least 0, given one that is not"):
        natural_decomposition([np.square, np.sin], [[1.0, -1.0]])
    with pytest.raises(ValueError, match=r"wanted shape \(n, 2\), given \(1, 3\)"):
        natural_decomposition([np.square, np.square], [[1.0, -1.0, 0.0]])


class Bowl(nn.Module):
    """A score that is largest at a given point; the other class has the opposite one."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.tensor([0.5, -0.25, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = -((x - self.top) ** 2).sum(1, keepdim=True)
        return torch.cat([score, -score], 1)


def test_activations_are_maximised_within_the_range() -> None:
    """−‖x − top‖² − λ‖x‖² is largest at top/(1 + λ), held to the range."""
    model = Bowl().train()
    settings = {"count": 4, "prior": 0.25, "steps": 400, "rate": 0.02}
    found = maximise_activation(model, (3,), 0, low=-1.0, high=1.0, **settings)
    wanted = (model.top.detach() / 1.25).clamp(-1, 1)
    # The gradient points at the top, so the distance to it is at most the last step but one.
    assert (found.x - wanted).norm(dim=1).max() <= 2 * 0.02 * 3**0.5 / 400
    assert found.scores.shape == (401, 4)
    assert (found.scores[-1] > found.scores[0]).all()
    assert model.training
    assert model.top.grad is None
    again = maximise_activation(model, (3,), 0, low=-1.0, high=1.0, **settings)
    assert torch.equal(found.x, again.x)
    low = maximise_activation(model, (3,), 1, low=-1.0, high=1.0, prior=0.0)
    assert set(low.x.abs().unique().tolist()) == {1.0}


def test_an_ascent_starts_where_units_are_on_or_says_that_none_is() -> None:
    """A ReLU that is off around zeros: noise over the whole range turns it on."""
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(-0.5)
    found = maximise_activation(nn.Sequential(layer, nn.ReLU()), (4,), 0, low=0.0, high=1.0)
    assert found.x.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    with torch.no_grad():
        layer.bias.fill_(-5.0)
    with pytest.raises(ValueError, match="class 0 has no gradient at 2 of 2 starts"):
        maximise_activation(nn.Sequential(layer, nn.ReLU()), (4,), 0, low=0.0, high=1.0, count=2)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"low": 0.5}, "low, high"),
        ({"steps": 0}, "steps"),
        ({"prior": -1.0}, "prior"),
        ({"target": 2}, "wanted 0 to 1, given 2"),
    ],
)
def test_settings_of_the_ascent_are_checked(changed: dict, says: str) -> None:
    given = {"target": 0, "low": -1.0, "high": 1.0} | changed
    with pytest.raises(ValueError, match=says):
        maximise_activation(Bowl(), (3,), **given)
