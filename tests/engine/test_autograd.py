# SPDX-License-Identifier: Apache-2.0
"""Gradients are torch autograd's: what stops or replaces them in a forward pass."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import (
    RELATIVE,
    assert_conserved,
    assert_within,
    captured_but_for_one_step,
    norms,
    rows,
    target_score,
    unchecked,
)
from engine.detached_models import (
    CUSTOM,
    FEATURES,
    STEPS,
    STOPPED,
    Forward,
    Model,
    Reversal,
    Together,
    input_hooked,
)
from graph_values import graph_outputs
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.compiler.graph.nodes import Graph, StopGradient

# What becomes of torch's gradient g at an input x. (These models have no ReLU.)
FINISHED: dict[str, Any] = {
    "gradient": lambda g, x: g,
    "sensitivity": lambda g, x: g**2,
    "guided_backprop": lambda g, x: g**2,
    "gradient_x_input": lambda g, x: g * x,
}


def batch(steps: int = STEPS) -> Any:
    return np.random.default_rng(3).normal(size=(7, steps, FEATURES)).astype(np.float32)


@functools.cache
def at_steps(*forwards: Forward) -> Graph:
    """Capture for the steps of a batch alone, by half as many exports."""
    return pyrel.capture(made(*forwards), batch()[:1])


def made(*forwards: Forward) -> nn.Module:
    return (Model if len(forwards) == 1 else Together)(*forwards).eval()


def autograd(module: nn.Module, x: Any, target: Any) -> tuple[Any, Any]:
    """Outputs and gradients in float64; zeros where none arrives."""
    leaf = torch.from_numpy(x).double().requires_grad_()
    output = module.double()(leaf)
    score = output[torch.arange(len(x)), torch.as_tensor(target).clone()].sum()
    if score.requires_grad:
        score.backward()
    gradient = np.zeros(x.shape) if leaf.grad is None else leaf.grad.numpy()
    return output.detach().numpy(), gradient


def assert_autograd(e: Any, module: nn.Module, x: Any, method: str = "gradient") -> None:
    output, gradient = autograd(module, x, e.target)
    np.testing.assert_allclose(e.output, output, rtol=RELATIVE, atol=RELATIVE)
    expected = FINISHED[method](gradient, x)
    error = norms(rows(e.relevance) - rows(expected))
    assert_within(error, RELATIVE * norms(expected), method)


LOOPS = ("truncated",)  # over the steps, so that their number is fixed
TOGETHER = tuple(forward for name, forward in STOPPED.items() if name not in LOOPS)
CASES = [
    *((TOGETHER, number, name) for number, name in enumerate(n for n in STOPPED if n not in LOOPS)),
    *((tuple(STOPPED[name] for name in LOOPS), number, name) for number, name in enumerate(LOOPS)),
]


@functools.cache
def stopped(forwards: tuple[Forward, ...], method: str) -> Any:
    return unchecked(stopped_capture(forwards), batch()[:1], method=method)


@functools.cache
def stopped_capture(forwards: tuple[Forward, ...]) -> Capture:
    return captured_but_for_one_step(made(*forwards), batch()[:1])


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
@pytest.mark.parametrize(
    ("forwards", "target", "name"), CASES, ids=[f"{name}-" for _, _, name in CASES]
)
def test_gradients_stop_as_torchs_do(
    forwards: tuple[Forward, ...], target: int, name: str, method: str
) -> None:
    explainer = stopped(forwards, method)
    assert explainer.any_steps == (name not in LOOPS)
    for steps in (STEPS, STEPS + 2) if explainer.any_steps else (STEPS,):
        x = batch(steps)
        e = explainer(x, target=target if explainer.classes == len(forwards) else None)
        assert_autograd(e, made(*forwards), x, method)


@pytest.mark.parametrize("method", FINISHED)
def test_every_gradient_method_stops(method: str) -> None:
    forwards, x = tuple(map(STOPPED.__getitem__, ("no_grad_block", "half_detached"))), batch()
    for target in range(2):
        assert_autograd(stopped(forwards, method)(x, target=target), made(*forwards), x, method)


def test_forward_passes_are_those_of_the_model() -> None:
    x = batch()
    output, _ = autograd(made(*TOGETHER), x, np.zeros(len(x), int))
    values = graph_outputs(stopped_capture(TOGETHER).graph(), x)
    np.testing.assert_allclose(values, output, rtol=1e-6, atol=1e-6)


def less_the_last(m: Any, x: Tensor) -> Tensor:
    last = x[:, -1:].detach()
    with torch.no_grad():
        level = m.branch.layer(x[:, 0])
    return m.last(x - last) * torch.sigmoid(level)


@functools.cache
def for_any_steps() -> Capture:
    return capture_at(made(less_the_last), batch()[:1])


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
def test_programs_for_any_number_of_steps_stop_there_too(method: str, tmp_path: Path) -> None:
    explainer = unchecked(for_any_steps(), batch()[:1], method=method)
    assert explainer.any_steps
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    for steps in (1, 5, 40):
        x = batch(steps)
        e = explainer(x)
        assert_autograd(e, made(less_the_last), x, method)
        np.testing.assert_array_equal(loaded(x).relevance, e.relevance)


def customs() -> Graph:
    """Capture all with custom gradients, and without."""
    return at_steps(*(f for f, _, _ in CUSTOM.values()), *(f for _, _, f in CUSTOM.values()))


def alone(graph: Graph, output: int) -> Graph:
    """The model of one output."""
    return replace(graph, outputs=graph.outputs[output : output + 1])


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_gradients_are_refused_by_name(name: str) -> None:
    number, x = list(CUSTOM).index(name), batch()
    graph, plain = (alone(customs(), n) for n in (number, number + len(CUSTOM)))
    for method in FINISHED:
        with pytest.raises(pyrel.UnsupportedModelError) as refusal:
            unchecked(graph, method=method)
        assert CUSTOM[name][1] in str(refusal.value)
        assert 'autograd="ignore"' in str(refusal.value)
        unchecked(plain, method=method)
    options: dict[str, Any] = {"method": "lrp_epsilon", "gates": "half"}
    e, expected = (unchecked(each, **options)(x) for each in (graph, plain))
    assert_conserved(e, target_score(e))
    peak = np.abs(np.asarray(expected.relevance)).sum(axis=(1, 2))
    assert_within(norms(rows(e.relevance) - rows(expected.relevance)), RELATIVE * peak, name)


@pytest.mark.parametrize(
    "name", ["reversal", "by another name", "surrogate", "hook", "no operator"]
)
def test_ignored_functions_are_differentiated(name: str, tmp_path: Path) -> None:
    x, graph = batch(), alone(customs(), list(CUSTOM).index(name))
    explainer = unchecked(graph, method="gradient", autograd="ignore")
    assert explainer.method.autograd == "ignore"
    e = explainer(x)
    leaf = torch.from_numpy(x).double().requires_grad_()
    plain = made(CUSTOM[name][2]).double()
    plain(leaf)[:, 0].sum().backward()
    assert leaf.grad is not None
    expected = leaf.grad.numpy()
    assert_within(norms(rows(e.relevance) - rows(expected)), RELATIVE * norms(expected), name)
    explainer.save(tmp_path / "program")
    assert pyrel.Explainer.load(tmp_path / "program").method.autograd == "ignore"


def test_hooks_of_the_input_are_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=r"input_hooked\.<locals>\.<lambda>"):
        unchecked(at_steps(input_hooked), method="gradient")


def test_the_module_of_a_function_is_named() -> None:
    class Reversing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Reversal.apply(x)

    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), Reversing()), nn.Linear(3, 2))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"Reversal in module '1\.1'"):
        pyrel.explain(model, np.zeros((1, 4), np.float32), method="gradient")
    pyrel.explain(model, np.zeros((1, 4), np.float32), method="lrp_epsilon")


def test_backward_hooks_of_modules_are_refused_and_left_alone() -> None:
    def doubled(module: Any, before: Any, after: Any) -> Any:
        return tuple(2 * each for each in before)

    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[1].register_full_backward_hook(doubled)
    before = dict(model[1]._backward_hooks)
    x = np.ones((2, 4), np.float32)
    with pytest.raises(pyrel.UnsupportedModelError, match="doubled"):
        unchecked(model, x, method="gradient")
    unchecked(model, x, method="gradient", autograd="ignore")
    assert model[1]._backward_hooks == before
    assert not {"_call_impl", "forward"} & set(vars(model[1])) | set(vars(model)) & {"_call_impl"}


def test_the_state_of_functorch_is_left_alone() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=r"torch\.vmap"):
        at_steps(lambda m, x: torch.vmap(m.first)(x).mean(1))
    torch.vmap(lambda v: v.sum())(torch.zeros(2, 3))
    torch.zeros(2).uniform_()  # refused while vmap runs


def test_relevance_goes_through_inference_mode() -> None:
    """Torch itself can differentiate no product with what was made there."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            h = m.level(x)
        return torch.sigmoid(m.level(x)) * h

    x = batch()
    e = unchecked(at_steps(forward), method="lrp_epsilon")(x)
    assert_conserved(e, target_score(e))
    with torch.inference_mode():
        assert torch.zeros(1).is_inference()


@pytest.mark.parametrize("call", [torch.autograd.grad, torch.autograd.backward])
def test_gradients_within_forward_are_refused(call: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.last(x)
        call(h.sum(), m.core.weight_ih_l0)
        return h

    with pytest.raises(pyrel.UnsupportedModelError, match=f"torch.autograd.{call.__name__}"):
        at_steps(forward)


def test_capture_leaves_the_state_of_autograd() -> None:
    x = torch.from_numpy(batch())
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            pyrel.capture(made(STOPPED["gradients_off_and_on"]), x)
            assert torch.is_grad_enabled() == enabled
    with torch.inference_mode():
        graph = pyrel.capture(made(STOPPED["no_grad_block"]), x[:1])
        e = unchecked(graph, method="gradient")(x)
        assert torch.is_inference_mode_enabled()
    assert_autograd(e, made(STOPPED["no_grad_block"]), batch())
    leaf = x.clone().requires_grad_()
    Reversal.apply(leaf).sum().backward()
    assert (leaf.grad == -1).all()


def written_in_torchs_block(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = torch.tanh(m.first(x)).clone()
        h[:, 0] = 0
    return (h * torch.sigmoid(m.first(x))).mean(1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch.export, on the unused LSTM
@pytest.mark.parametrize(
    "forward",
    [written_in_torchs_block, *map(STOPPED.get, ("on_again_inside", "detached_in_place"))],
)
def test_exported_programs_show_blocks_and_detached_values(forward: Forward) -> None:
    """As torch.export has them: a graph of its own for what runs under no_grad."""
    x = torch.from_numpy(batch())
    batches = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Model(forward).eval(), (x,), dynamic_shapes=(batches,))
    code = program.graph_module.code
    assert_autograd(unchecked(program, method="gradient")(batch()), made(forward), batch())
    assert program.graph_module.code == code


# Methods that conserve


@functools.cache
def without(forward: Forward) -> Graph:
    """Capture a forward pass in which detach does nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "detach", lambda self: self)
        source = captured_but_for_one_step(made(forward), batch()[:1])
    graph = source.graph()
    assert not any(isinstance(node, StopGradient) for node in graph.nodes)
    return graph


@pytest.mark.parametrize("name", ["detach", "detach in a sum", "truncated", "everything"])
@pytest.mark.parametrize("gates", ["signal", "half"])
def test_relevance_passes_as_if_nothing_were_detached(name: str, gates: str) -> None:
    x = batch()
    graph, plain = at_steps(STOPPED[name]), without(STOPPED[name])
    assert any(isinstance(node, StopGradient) for node in graph.nodes)
    options: dict[str, Any] = {"method": "lrp_epsilon", "gates": gates}
    e, expected = (unchecked(each, **options)(x) for each in (graph, plain))
    for field in ("relevance", "output", "absorbed"):
        np.testing.assert_array_equal(getattr(e, field), getattr(expected, field))


class Stabilised(torch.nn.Module):
    """z whose gradient is multiplied by z / (z + ε sign z): ε-LRP is its gradient × input."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, z: Tensor) -> Tensor:
        sign = torch.where(z >= 0, 1.0, -1.0)
        ratio = (z / (z + self.epsilon * sign)).detach()
        return z * ratio + (z * (1 - ratio)).detach()


EPSILON = 0.01


def stable(m: Any, z: Tensor) -> Tensor:
    """Stabilise where the reference does, and do nothing where pyrel does it."""
    return m.stabilise(z) if hasattr(m, "stabilise") else z


def shifted(m: Any, x: Tensor) -> Tensor:
    centred = stable(m, x - x[:, -1:].detach())
    return torch.relu(stable(m, m.first(centred[:, 0])))


def gated(m: Any, x: Tensor) -> Tensor:
    z = stable(m, m.first(x[:, 0]))
    return z * torch.sigmoid(m.first(x[:, 1])).detach()


def scaled(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = torch.tanh(m.first(x[:, 1])) * torch.tanh(m.first(x[:, 2]))
    return torch.relu(stable(m, m.first(x[:, 0]))) * scale


def truncated_relu(m: Any, x: Tensor) -> Tensor:
    h = torch.relu(stable(m, m.first(x[:, 0])))
    for t in range(1, STEPS):
        before = h.detach() if t == 3 else h
        h = torch.relu(stable(m, m.first(x[:, t]) + m.second(before)))
    return h


@functools.cache
def reference(forward: Forward) -> tuple[Any, Any]:
    """Outputs and ε-LRP of the predicted class in float64, by autograd."""

    class WithRule(Model):
        def __init__(self) -> None:
            super().__init__(forward)
            self.stabilise = Stabilised(EPSILON)

        def forward(self, x: Tensor) -> Tensor:
            return self.stabilise(self.out(self.given(self, x)))

    leaf = torch.from_numpy(batch()).double().requires_grad_()
    output = WithRule().double()(leaf)
    output.max(1).values.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return output.detach().numpy(), (leaf.grad * leaf.detach()).numpy()


@pytest.mark.parametrize("forward", [shifted, gated, scaled, truncated_relu])
@pytest.mark.parametrize("gates", ["signal", "half"])
def test_detached_relevance_is_absorbed(forward: Forward, gates: str, tmp_path: Path) -> None:
    x = batch()
    options: dict[str, Any] = {"epsilon": EPSILON, "gates": gates, "detach": "stop"}
    explainer = unchecked(at_steps(forward), method="lrp_epsilon", **options)
    e = explainer(x)
    output, expected = reference(forward)
    np.testing.assert_allclose(e.output, output, rtol=1e-5, atol=1e-5)
    peak = np.abs(expected).sum(axis=(1, 2)) + np.abs(target_score(e))
    assert_within(norms(rows(e.relevance) - rows(expected)), RELATIVE * peak, "relevance")
    assert_conserved(e, target_score(e))
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert loaded.method.detach == "stop"
    np.testing.assert_array_equal(loaded(x).relevance, e.relevance)


def test_deep_taylor_absorbs_what_arrives_at_a_detached_state() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.first(x[:, 0]))
        for t in range(1, STEPS):
            h = torch.relu(m.first(x[:, t]) + m.second(h.detach()))
        return h

    x, graph = np.abs(batch()), at_steps(forward)
    passed, stopped = (
        unchecked(graph, low=0.0, high=float("inf"), detach=detach)(x)
        for detach in ("pass", "stop")
    )
    np.testing.assert_array_equal(stopped.relevance[:, -1], passed.relevance[:, -1])
    assert not stopped.relevance[:, :-1].any()
    assert passed.relevance[:, :-1].any()
    assert_conserved(stopped, np.maximum(target_score(stopped), 0.0))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lrp_epsilon", {"detach": "halt"}),
        ("deep_taylor", {"detach": None}),
        ("gradient", {"autograd": "exactly"}),
        ("guided_backprop", {"autograd": True}),
    ],
)
def test_options_are_one_of_their_words(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: wanted"):
        pyrel.methods.get(method, **options)
