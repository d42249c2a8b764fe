# SPDX-License-Identifier: Apache-2.0
"""The way back through a convolution, block by block."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference_graph as ref
import torch
from engine.cases import sample
from engine.checks import assert_relevance, unchecked
from engine.layer_graphs import layer_graph
from engine.operator_models import chain, seeded
from reference import explain
from torch import nn

import pyrel
from pyrel.compiler.limits import SEGMENTS
from pyrel.compiler.lowering import transposed_convolution as transposed
from pyrel.compiler.lowering.lower import lower
from pyrel.compiler.lowering.transposed_convolution import WayBack, find_way_back
from pyrel.compiler.program.enums import Scale
from pyrel.compiler.program.instructions import Gemm, Seed
from pyrel.compiler.program.program import Program
from pyrel.methods import DeepTaylor

Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of one size in both directions, over a square map whose channels lie side by side.

    ``halo`` is copied zeros on all sides, ``joined`` positions of a line are one row.
    """

    size: int
    channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    halo: int = 0
    joined: int = 1

    def inputs(self) -> Integers:
        """Return the addresses that positions read, in the map with its halo."""
        side = self.size + 2 * self.halo
        reach = (self.kernel - 1) * self.dilation + 1
        tops = np.arange(0, side - reach + 1, self.stride)
        taps = np.arange(self.kernel) * self.dilation
        line, column = tops[:, None, None, None] + taps[:, None], tops[:, None, None] + taps
        pixels = (line * side + column).reshape(tops.size**2, -1)
        channels = pixels[..., None] * self.channels + np.arange(self.channels)
        return channels.reshape(tops.size**2, -1)

    def sources(self) -> Integers:
        """Return what each address of the map with its halo is a copy of; -1 in the halo."""
        real = np.arange(self.size**2 * self.channels).reshape(self.size, self.size, self.channels)
        halo = ((self.halo,) * 2, (self.halo,) * 2, (0, 0))
        return np.pad(real, halo, constant_values=-1).ravel()


KERNELS = [
    Kernel(6, 3, 3, halo=1),
    Kernel(6, 3, 3),
    Kernel(7, 1, 3, halo=1, joined=7),
    Kernel(8, 2, 5, joined=2),
    Kernel(9, 2, 3, stride=2, halo=1),
    Kernel(8, 2, 2, stride=2),
    Kernel(8, 1, 2, stride=3),
    Kernel(7, 4, 3, dilation=2, halo=2),
    Kernel(3, 2, 5, halo=2),
    Kernel(4, 5, 1),
    Kernel(1, 3, 3, halo=1),
    Kernel(11, 1, 9, halo=4),
]


def joined(inputs: Integers, count: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Let rows read all that ``count`` of them read; which of it each position reads."""
    groups = inputs.reshape(-1, count, inputs.shape[1])
    union = np.unique(groups[0] - groups[0, 0, 0])
    support = np.array([np.isin(union, row - groups[0, 0, 0]) for row in groups[0]])
    return groups[:, 0, :1] + union, support


@pytest.mark.parametrize("through", [False, True], ids=["copies", "sources"])
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_blocks_are_the_transpose(
    kernel: Kernel, terms: int, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transposed, "_cost_of_adding_up", lambda *_: 1 << 40)
    rng = np.random.default_rng(0)
    inputs, support = joined(kernel.inputs(), kernel.joined)
    width = 3
    copies = kernel.sources()[inputs]
    sources = copies if through else np.where(copies < 0, -1, inputs)
    weight = rng.integers(1, 9, (len(support), width, inputs.shape[1])) * support[:, None]
    s = rng.integers(-9, 9, (inputs.shape[0], len(support) * width))
    wanted = np.zeros(sources.max() + 1)
    for row, values in zip(sources, s @ weight.reshape(s.shape[1], -1), strict=True):
        np.add.at(wanted, row[row >= 0], values[row >= 0])
    owners = np.zeros(wanted.size, dtype=np.int64)
    way_back = find_way_back(inputs, sources, owners, support, width, terms)
    assert way_back is not None
    found, written = product(way_back, weight.reshape(s.shape[1], -1), s.ravel(), wanted.size)
    np.testing.assert_array_equal(found, wanted)
    read = np.zeros(wanted.size, dtype=bool)
    read[sources[sources >= 0]] = True
    most = -(-kernel.kernel // SEGMENTS)
    assert (written[read] >= 1).all()
    assert (written <= most * read).all()


def product(
    way_back: WayBack, weight: Any, s: Any, size: int
) -> tuple[npt.NDArray[np.float64], Integers]:
    """Do what the engine does with blocks; return the sums, and how often each is written."""
    found, written = np.zeros(size), np.zeros(size, dtype=np.int64)
    for blocks in way_back.blocks:
        assert len(blocks.lengths) <= SEGMENTS
        matrix = way_back.matrix(blocks, weight)
        width = matrix.shape[0] // sum(blocks.lengths)
        for start, firsts in zip(blocks.starts, blocks.firsts.T, strict=True):
            runs = [
                s[first * width : (first + length) * width]
                for first, length in zip(firsts, blocks.lengths, strict=True)
            ]
            found[start : start + blocks.size] += np.concatenate(runs) @ matrix
            written[start : start + blocks.size] += 1
    return found, written


def test_no_block_leaves_a_node_or_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transposed, "_cost_of_adding_up", lambda *_: 1 << 40)
    inputs = np.arange(12).reshape(6, 2)  # every row reads two addresses of its own
    owners = np.repeat([-1, 0, 1], [3, 4, 5])
    way_back = find_way_back(inputs, inputs, owners, np.ones((1, 2), dtype=bool), 2, 1)
    assert way_back is not None
    for blocks in way_back.blocks:
        touched = owners[blocks.starts[:, None] + np.arange(blocks.size)]
        assert (touched == touched[:, :1]).all()
        # Places in the input and in the arena are operands of different instructions.
        assert np.unique(touched < 0).size == 1


def models() -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    yield "stride", lambda: chain(
        nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 2, stride=2),
        nn.ReLU(), nn.Linear(3 * 4, 3),
    ), (2, 7, 7)  # fmt: skip
    yield "dilation", lambda: chain(
        nn.Conv2d(1, 6, 3, dilation=2, padding=2), nn.ReLU(), nn.Conv2d(6, 3, 3, dilation=2),
        nn.ReLU(), nn.Linear(3 * 6, 3),
    ), (1, 7, 6)  # fmt: skip
    yield "groups", lambda: chain(
        nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(), nn.Linear(8 * 6, 3),
    ), (4, 5, 4)  # fmt: skip
    yield "kernel larger than the image", lambda: chain(
        nn.Conv2d(2, 7, 5, padding=2), nn.ReLU(), nn.Linear(7 * 6, 3)
    ), (2, 3, 2)  # fmt: skip
    yield "1 x 1, one pixel", lambda: chain(
        nn.Conv2d(3, 9, 1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(9, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3),
    ), (3, 2, 1)  # fmt: skip
    yield "over the steps", lambda: chain(
        nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 9, padding=4), nn.ReLU(),
        nn.Linear(8 * 11, 3),
    ), (3, 11)  # fmt: skip


CHAINS = {name: (make, shape) for name, make, shape in models()}


@functools.cache
def captured(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return a module, its graph, and bounds that differ in every element: no vector of rows."""
    make, shape = CHAINS[name]
    module = seeded(make, 3)
    rng = np.random.default_rng(5)
    high = rng.uniform(0.5, 1.0, shape).astype(np.float32)
    low = -rng.uniform(0.0, 1.0, shape).astype(np.float32)
    graph = pyrel.capture(module, sample(shape, 2, low, high))
    return module, graph, {"low": low, "high": high}


# Both ways are right whichever a count of vectors would choose.
@pytest.mark.parametrize("most", [0, 1 << 40], ids=["added up", "blocks"])
@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon"])
@pytest.mark.parametrize("name", CHAINS)
def test_both_ways_agree_with_the_reference(
    name: str, method: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transposed, "_cost_of_adding_up", lambda *_: most)
    module, captured_graph, bounds = captured(name)
    shape = CHAINS[name][1]
    x = sample(shape, 9, **bounds)
    expected = explain(layer_graph(module, ref.input_node(shape, *bounds.values())), x, method)
    e = unchecked(captured_graph, x, method=method, **bounds)(x, target=expected.target)
    assert_relevance(e, expected, method)


def program(steps: int) -> Program:
    module = pyrel.nn.ConvDeep(steps, (28, 7), sizes=pyrel.nn.ConvDeep.majority_sizes).eval()
    graph = pyrel.capture(module, np.zeros((1, steps, 28, 7), np.float32))
    size = graph.input_size
    return lower(graph, DeepTaylor(), np.zeros(size), np.ones(size))


@pytest.mark.parametrize("steps", [3, 5])
def test_a_convolution_is_a_few_products_whatever_the_number_of_steps(steps: int) -> None:
    templates = [each.template for each in program(steps).every_instruction()]
    seed = next(i for i, template in enumerate(templates) if isinstance(template, Seed))
    back = [template for template in templates[seed:] if isinstance(template, Gemm)]
    # Pairs of pixels of six maps, left and right in a line; pairs of lines of pixels. Each in the
    # middle, at the top and at the bottom. Pixels get two terms, the second one added to the first.
    maps, pixels = ([t for t in back if t.columns == columns] for columns in (12, 14))
    assert (len(maps), len(pixels)) == (6, 6)
    assert all(t.epilogue.scale != Scale.none for t in maps + pixels)
    assert sum(t.epilogue.accumulate for t in pixels) == 3
    assert not any(t.epilogue.accumulate for t in back if t.columns != 14)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon"])
def test_channels_without_weights_hand_down_nothing(groups: int, method: str) -> None:
    torch.manual_seed(0)
    pruned = nn.Conv2d(4, 4, 3, groups=groups, padding=1)
    pruned.weight.data[: 4 // groups] = 0.0
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), pruned, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    x = np.random.default_rng(0).random((20, 1, 4, 4), np.float32)
    e = unchecked(model, x[:1], method=method, low=0.0, high=1.0)(x)
    if method != "gradient":
        start = np.maximum(e.output.max(1), 0.0) if method == "deep_taylor" else e.output.max(1)
        error = e.relevance.sum((1, 2, 3)) + e.absorbed - start
        assert np.abs(error).max() <= 1e-5 * np.abs(e.relevance).sum((1, 2, 3)).max() + 1e-6
        return
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    model.double()(leaf).max(1).values.sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(e.relevance, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)
