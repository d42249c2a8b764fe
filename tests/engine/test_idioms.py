# SPDX-License-Identifier: Apache-2.0
"""What people write in forward() is captured as torch computes it, or refused by name."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine import idiom_models as idioms
from engine import reweighted_models
from engine.checks import RELATIVE, assert_within, norms, rows, unchecked, unchecked_at
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import pyrel


def batch(count: int = 7, steps: int = idioms.STEPS) -> Any:
    shape = count, steps, idioms.FEATURES
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def autograd(model: nn.Module, x: Any, target: Any, *rest: Any) -> tuple[Any, Any]:
    """Outputs and gradients in float64; zeros where none arrives."""
    leaf = torch.from_numpy(x).double().requires_grad_()
    output = model.double()(leaf, *rest)
    score = output[torch.arange(len(x)), torch.as_tensor(target)].sum()
    (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True, materialize_grads=True)
    return output.detach().numpy(), gradient.numpy()


def assert_autograd(e: Any, model: nn.Module, x: Any, *rest: Any) -> None:
    output, gradient = autograd(model, x, e.target, *rest)
    np.testing.assert_allclose(e.output, output, rtol=RELATIVE, atol=RELATIVE)
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")


def every(*groups: tuple[idioms.Forward, ...]) -> list[Any]:
    """Each forward pass of groups; a group is captured together, which takes most of the time."""
    return [
        pytest.param(group, number, id=each.__name__)
        for group in groups
        for number, each in enumerate(group)
    ]


@functools.cache
def explainer(forwards: tuple[idioms.Forward, ...], lengths: bool = False) -> pyrel.Explainer:
    model = idioms.Model(*forwards).eval()
    if lengths:
        return unchecked(model, batch()[:1], method="gradient", lengths=True)
    return unchecked_at(model, batch()[:1], method="gradient")


@pytest.mark.parametrize(
    ("group", "target"), every(idioms.BY_KEYWORD, idioms.VIEWED, idioms.WRITTEN)
)
def test_idioms(group: tuple[idioms.Forward, ...], target: int) -> None:
    x = batch()
    e = explainer(group)(x, target=target)
    assert_autograd(e, idioms.Model(*group).eval(), x)


@pytest.mark.parametrize(("group", "target"), every(idioms.PACKED))
def test_packing_by_keyword(group: tuple[idioms.Forward, ...], target: int) -> None:
    for steps in (idioms.STEPS, idioms.STEPS + 2):
        x = batch(steps=steps)
        lengths = np.full(len(x), steps)
        e = explainer(group, True)(x, target=target, lengths=lengths)
        assert_autograd(e, idioms.Model(*group).eval(), x, torch.from_numpy(lengths))


@pytest.mark.parametrize(
    ("forward", "operator"),
    [(each, operator) for operator, group in idioms.UNWRITTEN.items() for each in group],
)
def test_an_entry_that_was_never_written_is_refused(forward: idioms.Forward, operator: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="an entry is read that was never") as e:
        pyrel.capture(idioms.Model(forward).only("into", "lstm"), batch())
    assert e.value.operator == operator


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda m, x: m.lstm(x)[0].view(-1, idioms.WIDTH)[: len(x)], "Cannot view"),
        (
            lambda m, x: m.by_step(x.transpose(0, 1))[0].transpose(0, 1).view(len(x), -1),
            "itself raises RuntimeError .* view size is not compatible",
        ),
        (lambda m, x: m.into(x[:, 0]).view(torch.int32).view(torch.float32), "bits of numbers"),
    ],
)
def test_views_that_torch_refuses_are_refused(forward: idioms.Forward, reason: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=reason):
        pyrel.capture(idioms.Model(forward).only("into", "lstm", "by_step"), batch())


def test_a_place_that_is_written_twice_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), idioms.WIDTH)
        out[:, [1, 3, 1]] = m.into(x[:, 0])[:, :3]
        return out

    with pytest.raises(pyrel.UnsupportedModelError, match=r"aten\.index_put .* written twice"):
        pyrel.capture(idioms.Model(forward).only("into"), batch())


class Passing(nn.Module):
    """A wrapper that hands on what it is called with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Options(Passing):
    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        return self.inner(x, **kwargs)


@pytest.mark.parametrize("wrapper", [Passing, Options, AveragedModel, nn.DataParallel])
def test_wrappers(wrapper: Any) -> None:
    x = batch(steps=9)
    inner = idioms.Model(idioms.by_keyword, idioms.steps_viewed).only("lstm", "by_step")
    model = wrapper(inner).eval()
    made = unchecked(model, batch()[:1], method="gradient")
    assert made.any_steps
    assert_autograd(made(x), model, x)


@pytest.mark.parametrize("wrapper", [Passing, AveragedModel, nn.DataParallel])
def test_wrappers_hand_on_lengths(wrapper: Any) -> None:
    x, lengths = batch(), torch.full((7,), idioms.STEPS)
    model = wrapper(idioms.Model(idioms.packed_by_keyword).only("lstm")).eval()
    whole = pyrel.capture(model, x, lengths=True)  # of sequences as long as x
    assert_autograd(unchecked(whole, method="gradient")(x), model, x, lengths)
    model = wrapper(idioms.Model(idioms.by_keyword).only("lstm")).eval()
    without = pyrel.capture(model, x, lengths=True)
    assert_autograd(unchecked(without, method="gradient")(x), model, x)


FRESH = ("weight drop", "row drop", "weight norm")  # these hold no weights before they run
REWEIGHTED = [
    *((FRESH, number, False) for number in range(len(FRESH))),
    *((tuple(reweighted_models.LAYERS), n, True) for n in range(len(reweighted_models.NAMES))),
]


@functools.cache
def reweighted(names: tuple[str, ...], runs_before: bool) -> tuple[pyrel.Explainer, nn.Module]:
    model = reweighted_models.Reweighted(*names).eval()
    if runs_before:
        model(torch.from_numpy(batch()))
    return unchecked_at(model, batch()[:1], method="gradient"), model


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("names", "target", "runs_before"), REWEIGHTED)
def test_weights_that_are_made_anew(names: tuple[str, ...], target: int, runs_before: bool) -> None:
    x = batch()
    made, model = reweighted(names, runs_before)
    assert_autograd(made(x, target=target), model, x)


@contextlib.contextmanager
def settings(*entered: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in entered:
            stack.enter_context(each)
        yield


def under(*settings_of: Any) -> idioms.Forward:
    def forward(m: Any, x: Tensor) -> Tensor:
        with settings(*(make() for make in settings_of)):
            h = torch.tanh(m.into(m.lstm(x)[0][:, -1] @ m.out.weight.T @ m.out.weight[:, :4]))
        return h + m.into(x[:, 0])

    return forward


def rounding(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> Any:
    return lambda: torch.autocast(device, dtype=dtype)


def exact() -> Any:
    return torch.autocast("cpu", enabled=False)


def only_elementwise(m: Any, x: Tensor) -> Tensor:
    h = m.into(x[:, 0])
    with rounding()():
        return torch.tanh(h) * 2.0


HARMLESS = {
    "off": under(exact),
    "off within on": under(rounding(), exact),
    "of another device": under(rounding(device="cuda")),
    "decorator": torch.autocast("cpu", enabled=False)(under()),
    "nothing is rounded": only_elementwise,
    "off, with no gradients": under(exact, torch.no_grad),
    "off, within inference mode": under(torch.inference_mode, exact),
}


@functools.cache
def harmless() -> pyrel.Explainer:
    model = idioms.Model(*HARMLESS.values()).only("into", "lstm").eval()
    return unchecked_at(model, batch(), method="gradient")


@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
@pytest.mark.parametrize("name", HARMLESS)
def test_autocast_that_rounds_nothing(name: str) -> None:
    x = batch()
    e = harmless()(x, target=list(HARMLESS).index(name))
    assert_autograd(e, idioms.Model(*HARMLESS.values()).eval(), x)


def whole(m: Any, x: Tensor) -> Tensor:
    return m.into(x[:, 0])


def layer_only(m: Any, x: Tensor) -> Tensor:
    with rounding()():
        out = m.lstm(x)[0]
    return out[:, -1].to(x.dtype)


def cell_only(m: Any, x: Tensor) -> Tensor:
    with rounding(torch.float16)(), torch.no_grad():
        return m.gru_cell(x[:, 0]).to(x.dtype)


@pytest.mark.parametrize(
    ("forward", "operator", "module"),
    [
        (rounding()()(whole), "aten.linear", "into"),
        (layer_only, "aten.lstm", "lstm"),
        (cell_only, "aten.gru_cell", "gru_cell"),
    ],
)
def test_autocast_that_rounds_is_refused(
    forward: idioms.Forward, operator: str, module: str
) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=r"autocast rounds .*enabled=False") as e:
        pyrel.capture(idioms.Model(forward).only("into", "lstm", "gru_cell"), batch())
    assert (e.value.operator, e.value.module) == (operator, module)


def test_autocast_around_the_call_is_not_the_models() -> None:
    x = batch()
    model = idioms.Model(idioms.by_keyword).only("lstm").eval()
    with rounding()():
        e = pyrel.explain(model, x, method="gradient")
    assert_autograd(e, model, x)


def exported(model: nn.Module, batch_size: Any) -> nn.Module:
    x = torch.from_numpy(batch(3))
    program = torch.export.export(model, (x,), dynamic_shapes=(({0: batch_size},),))
    return program.module()


@pytest.mark.filterwarnings("ignore:.*were assigned during export:UserWarning")
def test_modules_of_exported_programs() -> None:
    x, model = batch(), idioms.Model(idioms.by_keyword, idioms.by_slice).only("lstm", "into").eval()
    module = exported(model, torch.export.Dim.DYNAMIC)
    within = nn.Sequential(module, nn.Linear(2, 2))
    hooks = list(module._forward_pre_hooks.items())
    assert_autograd(pyrel.explain(module, x, "gradient"), model, x)
    with pytest.raises(NotImplementedError):
        module.eval()
    assert list(module._forward_pre_hooks.items()) == hooks
    pyrel.capture(within, x)
    assert within.training
    with pytest.raises(pyrel.UnsupportedModelError, match="certain sizes only.*open batch"):
        pyrel.capture(exported(idioms.Model(whole).only("into"), torch.export.Dim.STATIC), x)


def asking(m: Any, x: Tensor) -> Tensor:
    asked = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if asked or torch.jit.is_scripting() or torch.jit.is_tracing():
        return torch.zeros_like(m.into(x[:, 0]))
    return m.into(x[:, 0])


def test_models_that_ask_whether_they_are_compiled() -> None:
    x, model = batch(), idioms.Model(asking).only("into").eval()
    functions = torch.compiler.is_compiling, torch.compiler.is_exporting
    assert_autograd(unchecked_at(model, x, method="gradient")(x), model, x)
    assert (torch.compiler.is_compiling, torch.compiler.is_exporting) == functions


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_modules() -> None:
    x, model = batch(), idioms.Model(idioms.by_keyword, asking).only("lstm", "into").eval()
    e = unchecked_at(model, x, method="gradient")(x)
    wanted = e.relevance
    assert_autograd(e, model, x)
    model.float()
    outer = torch.compile(model)
    np.testing.assert_array_equal(unchecked_at(outer, x, method="gradient")(x).relevance, wanted)
    model.lstm = torch.compile(model.lstm)  # type: ignore[assignment]
    model.compile()
    np.testing.assert_array_equal(unchecked_at(model, x, method="gradient")(x).relevance, wanted)
