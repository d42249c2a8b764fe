# SPDX-License-Identifier: Apache-2.0
"""Settings of gradients within others, as blocks, decorators and calls: the innermost one holds."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrel

MODES: dict[str, tuple[Callable[[], Any], bool | None]] = {  # and what each sets, if anything
    "no_grad": (torch.no_grad, False),
    "enable_grad": (torch.enable_grad, True),
    "set_grad_enabled(True)": (lambda: torch.set_grad_enabled(True), True),
    "set_grad_enabled(False)": (lambda: torch.set_grad_enabled(False), False),
    "autocast": (lambda: torch.autocast("cpu", enabled=False), None),
}
Change = Callable[[Tensor, Tensor], Tensor]


def written(h: Tensor, x: Tensor) -> Tensor:
    h[:, 1:3] = 0.4 * x[:, :2]
    return h


def written_view(h: Tensor, x: Tensor) -> Tensor:
    h[:, :2].add_(x[:, 1:3])
    return h


def hidden(h: Tensor, x: Tensor) -> Tensor:
    with torch.inference_mode():
        g = torch.tanh(x)
    return h + g.clone()


OUT_OF_PLACE: dict[str, Change] = {
    "tanh": lambda h, x: 1.1 * torch.tanh(h),
    "add": lambda h, x: h + 0.7 * x,
    "clone": lambda h, x: h.clone(),
    "dropout": lambda h, x: functional.dropout(h, 0.5, False),
    "half detached": lambda h, x: h + 0.5 * h.detach(),
    "hidden": hidden,
}
IN_PLACE: dict[str, Change] = {  # which pyrel refuses under no_grad
    "mul_": lambda h, x: h.mul_(0.9),
    "add_": lambda h, x: h.add_(x, alpha=0.3),
    "written": written,
    "written view": written_view,
}
# Changes, and blocks of some: the mode, whether it decorates a function, and what is inside.
Tree: TypeAlias = "tuple[str | tuple[str, bool, Tree], ...]"


def drawn(draw: random.Random, depth: int = 2, on: bool = True) -> Tree:
    """Draw changes; those in place where gradients are on."""
    parts: list[Any] = []
    for _ in range(draw.randint(1, 3)):
        if depth and draw.random() < 0.6:
            mode = draw.choice(list(MODES))
            sets = MODES[mode][1]
            inside = drawn(draw, depth - 1, on if sets is None else sets)
            parts.append((mode, draw.random() < 0.3, inside))
        else:
            parts.append(draw.choice([*OUT_OF_PLACE, *(IN_PLACE if on else ())]))
    return tuple(parts)


def run(tree: Tree, h: Tensor, x: Tensor) -> Tensor:
    for part in tree:
        if isinstance(part, str):
            h = {**OUT_OF_PLACE, **IN_PLACE}[part](h, x)
            continue
        mode, decorates, inside = part
        if decorates:
            h = MODES[mode][0]()(functools.partial(run, inside))(h, x)
        else:
            with MODES[mode][0]():
                h = run(inside, h, x)
    return h


class Nested(nn.Module):
    """An output for each tree."""

    def __init__(self, trees: tuple[Tree, ...]) -> None:
        super().__init__()
        self.first, self.out, self.trees = nn.Linear(4, 4), nn.Linear(4, 1), trees

    def forward(self, x: Tensor) -> Tensor:
        first = [run(tree, self.first(x), x) for tree in self.trees]
        return torch.cat([self.out(each) + 0.1 * self.out(x) for each in first], 1)


FIXED: tuple[Tree, ...] = (
    (("no_grad", False, (("enable_grad", False, ("add_", "mul_")),)), "tanh"),
    (("no_grad", True, ("clone", ("enable_grad", True, ("written",)), "add")),),
    (("no_grad", False, (("autocast", False, (("enable_grad", False, ("mul_", "tanh")),)),)),),
    (("no_grad", False, ("dropout",)), ("no_grad", True, (("autocast", True, ("dropout",)),))),
)
DRAW = random.Random(0)
TREES = (*FIXED, *(drawn(DRAW) for _ in range(4)))


@functools.cache
def explained(exported: bool) -> tuple[Any, Any]:
    """Explain every output, and ask autograd."""
    torch.manual_seed(0)
    model, x = Nested(TREES).eval(), torch.randn(2, 4)
    given = model
    if exported:
        batches = {0: torch.export.Dim.DYNAMIC}
        given = torch.export.export(model, (x,), dynamic_shapes=(batches,))
    explainer = pyrel.Explainer(given, x[:1], "gradient", check=None)
    maps = np.stack([explainer(x.numpy(), target=n).relevance for n in range(len(TREES))])
    leaf = x.clone().requires_grad_()
    output = (given.module() if exported else model)(leaf)
    wanted = [torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0] for each in output.T]
    assert not torch.equal(wanted[0], wanted[3])
    np.testing.assert_allclose(explainer(x.numpy()).output, output.detach(), atol=1e-5)
    return maps, np.stack(wanted)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("number", range(len(TREES)))
def test_the_innermost_setting_holds(number: int, exported: bool) -> None:
    maps, wanted = explained(exported)
    np.testing.assert_allclose(maps[number], wanted[number], atol=1e-5, err_msg=str(TREES[number]))
