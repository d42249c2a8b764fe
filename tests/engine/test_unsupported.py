# SPDX-License-Identifier: Apache-2.0
"""What cannot be explained is refused with its name; nothing is explained wrongly in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import sample
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture.operators import NO_RULE, hint

SHAPE = (4, 6)


class Best(nn.Module):
    """What stands where each feature is largest."""

    def forward(self, x: Tensor) -> Tensor:
        return x.gather(1, x.argmax(dim=1, keepdim=True))


class Chosen(nn.Module):
    """Chooses values inside a named part."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Best()
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.memory(x)[:, 0])


class Blocks(nn.Module):
    """Windows that are taken for columns, two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Unfold((3, 3))))
        self.out = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.front(x[:, None]).flatten(1))


class Round(nn.Module):
    """A step function."""

    def forward(self, x: Tensor) -> Tensor:
        return x.round()


class Stepped(nn.Module):
    """A step function in a module that the loop calls at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(11, 5), Round())})
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 5)
        for t in range(4):
            h = self.cell["inner"](torch.cat([x[:, t], h], 1))
        return self.out(h)


class Branching(nn.Module):
    """The way through the model depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(24, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.one(flat) if flat.sum() > 10 else self.other(flat)


@pytest.mark.parametrize(
    ("make", "operator", "path"),
    [
        (Chosen, "argmax", "memory"),
        (Blocks, "im2col", "front.1.0"),
        (Stepped, "round", "cell.inner.1"),
    ],
)
def test_unsupported_operator_is_named(
    make: Callable[[], nn.Module], operator: str, path: str
) -> None:
    x = sample(SHAPE, 3)
    with pytest.raises(pyrel.UnsupportedModelError) as raised:
        pyrel.Explainer(make(), x, method="gradient")
    message = str(raised.value)
    assert operator in message.lower()
    assert f"module '{path}'" in message
    assert "docs/models.md" in message
    assert {"linear", "relu", "cat"} <= {*raised.value.supported}
    reason, listed = message.split("\n")
    assert len(reason) < 300  # not lost among the names of all operators
    assert listed.startswith("docs/models.md lists the supported operators")


def test_what_to_write_instead_is_told() -> None:
    with pytest.raises(
        pyrel.UnsupportedModelError, match=r"aten\.fmin .*write it as torch\.minimum\(a, b\)\n"
    ):
        pyrel.capture(Outputs(lambda z: torch.fmin(z[:, 0], z[:, 1])), sample(SHAPE, 3))
    with pytest.raises(
        pyrel.UnsupportedModelError, match=r"aten\.sinh .*no rule for this operator\n"
    ) as raised:
        pyrel.capture(Outputs(lambda z: z[:, 0].sinh()), sample(SHAPE, 3))
    assert len(str(raised.value)) < 300  # the names, over a hundred, are in the attribute
    assert len(raised.value.supported) > 100
    for name in ("atan", "tan", "clip", "tril", "greater", "median", "real", "argwhere"):
        assert hint(name) == NO_RULE  # and no operator of a similar name


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        (lambda z: torch.fmin(z[0], z[1]), lambda z: torch.minimum(z[0], z[1])),
        (lambda z: torch.fmax(z[0], z[1]), lambda z: torch.maximum(z[0], z[1])),
    ],
)
def test_what_is_to_be_written_instead_is_the_same(
    wanted: Callable[..., torch.Tensor], written: Callable[..., torch.Tensor]
) -> None:
    z = torch.randn(2, 5)
    torch.testing.assert_close(written(z), wanted(z))


class Step(torch.autograd.Function):
    """A step function, with the gradient of another function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class SetUpStep(Step):
    """The same, by `setup_context`."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


@pytest.mark.parametrize("function", [Step, SetUpStep])
def test_an_operator_in_a_custom_function_is_placed_there(function: Any) -> None:
    told = (
        rf"aten\.round .*it is a step function.* It is in the torch\.autograd\.Function "
        rf"[\w.]*\b{function.__name__}, whose forward is explained as it computes"
    )
    with pytest.raises(pyrel.UnsupportedModelError, match=told):
        pyrel.capture(Outputs(lambda z: function.apply(z[:, 0])), sample(SHAPE, 3))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"step function, .*relevance\n"):
        pyrel.capture(Outputs(lambda z: z[:, 0].round()), sample(SHAPE, 3))


def test_a_known_operator_points_to_no_others() -> None:
    model = Outputs(lambda z: nn.functional.dropout(z[:, 0]))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"training=self\.training.*obey it$"):
        pyrel.capture(model, sample(SHAPE, 3))


def test_programs_exported_in_training_mode_are_refused() -> None:
    x = torch.from_numpy(sample(SHAPE, 3)).flatten(1)
    for part, words in ((nn.BatchNorm1d(24), "eval mode"), (nn.Dropout(), "dropout is active")):
        model = nn.Sequential(part, nn.Linear(24, 3)).train()
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        with pytest.raises(pyrel.UnsupportedModelError, match=words):
            pyrel.Explainer(exported, method="gradient")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripts_are_refused_by_path() -> None:
    script = torch.jit.trace(nn.Linear(6, 3), torch.zeros(2, 6))
    with pytest.raises(pyrel.UnsupportedModelError, match="the model itself: a compiled module"):
        pyrel.Explainer(script, np.zeros((2, 6), np.float32), "gradient")
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(script), nn.Dropout())
    with pytest.raises(pyrel.UnsupportedModelError, match=r"module '1\.0': a compiled module"):
        pyrel.explain(model, np.zeros((2, 6), np.float32), "gradient")
    assert all(part.training for part in model.modules())


def test_branch_on_data_is_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError):
        pyrel.Explainer(Branching(), sample(SHAPE, 3), method="gradient")


class Outputs(nn.Module):
    """A model with an unusual output."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.give = nn.Linear(6, 4), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.first(x))


@pytest.mark.parametrize(
    "give",
    [
        lambda z: (z[:, 0], z[:, 1]),
        lambda z: {"scores": z[:, 0]},
        lambda z: z.sum(),
        lambda z: None,
        lambda z: 1.0,
        lambda z: z[:, 0].argmax(1),
    ],
    ids=["tuple", "dict", "scalar", "none", "number", "integers"],
)
def test_other_outputs_are_refused(give: Callable[[Tensor], Any]) -> None:
    with pytest.raises((pyrel.UnsupportedModelError, ValueError, TypeError)):
        pyrel.Explainer(Outputs(give).eval(), sample(SHAPE, 3), method="gradient")


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x[:, 0] + y[:, 0]

    with pytest.raises((pyrel.UnsupportedModelError, ValueError, TypeError)):
        pyrel.Explainer(Two().eval(), sample(SHAPE, 3), method="gradient")


@pytest.mark.parametrize("broken", [False, True])
def test_training_mode_is_restored_in_every_part(broken: bool) -> None:
    torch.manual_seed(0)
    last: nn.Module = Round() if broken else nn.ReLU()
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(24, 5), nn.Dropout(0.9)), nn.Linear(5, 3), last
    )
    inner: Any = model[1]
    model.train()
    inner.eval()
    inner[1].train()
    modes = [part.training for part in model.modules()]
    x = sample(SHAPE, 4)
    if broken:
        with pytest.raises(pyrel.UnsupportedModelError):
            pyrel.Explainer(model, x, method="gradient")
    else:
        e = pyrel.Explainer(model, x, method="gradient")(x)
        assert [part.training for part in model.modules()] == modes
        model.eval()
        # Dropout is off while explaining: one product sum after another, a few eps.
        np.testing.assert_allclose(
            e.output, model(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-6
        )
        return
    assert [part.training for part in model.modules()] == modes


def test_a_refused_model_is_left_as_it_was() -> None:
    """To say what is wrong with an example, the model runs: its buffers and the draws come back."""

    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x[:, 0] + torch.rand(1)

    model = Counting().eval()
    before = torch.random.get_rng_state()
    with pytest.raises(pyrel.UnsupportedModelError):
        pyrel.capture(model, sample(SHAPE, 3))
    assert model.calls.item() == 0
    assert torch.equal(torch.random.get_rng_state(), before)
