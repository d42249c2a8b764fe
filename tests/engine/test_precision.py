# SPDX-License-Identifier: Apache-2.0
"""Products of bfloat16: within the bound of their rounding, and with the class of float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.cases import ALL_CASES, Case, captured, compiled, inputs, sample
from engine.cells import CellCase
from engine.checks import unchecked
from engine.fields import bits

import pyrel
from pyrel import _core
from pyrel.compiler.graph.nodes import Graph, Linear
from pyrel.engine import captures
from pyrel.engine import config as runtime

U = 2.0**-8  # unit roundoff of bfloat16: 8 significant bits, to the nearest
FLOAT32 = 1e-5  # what float32 adds at most, as for the other tests

bf16 = pytest.mark.skipif(
    not _core.has_bf16(runtime.isa()), reason="this instruction set has no products of bfloat16"
)
every_model = pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)


def explainer(case: Case | CellCase, precision: str, method: str = "deep_taylor") -> Any:
    _, graph = captured(case)
    domain = {"low": case.low, "high": case.high}
    example = sample(case.shape, 2, case.low, case.high)
    return unchecked(graph, example, method=method, precision=precision, **domain)


def depth(graph: Graph) -> int:
    """Most linear nodes on a way through the graph."""
    below = np.zeros(graph.size + 1, dtype=int)
    for node in graph.nodes:
        longest = below[np.maximum(node.inputs, -1)].max() + isinstance(node, Linear)
        below[node.start : node.start + node.size] = longest
    return int(below[graph.outputs].max())


@bf16
@every_model
def test_deep_taylor_is_within_its_rounding(case: Case | CellCase) -> None:
    """A term s w a has two roundings, and so has each term of the denominator below it.

    All terms are of one sign, so the relative error of a sum is at most that of its terms, and a
    way through n linear nodes multiplies by at most ((1 + u) / (1 − u))²ⁿ. The forward pass is that
    of float32: no ReLU differs.
    """
    x = inputs(case)
    exact, rounded = compiled(case, "deep_taylor")(x), explainer(case, "bf16")(x)
    for field in ("output", "target"):
        assert getattr(exact, field).tobytes() == getattr(rounded, field).tobytes()
    growth = ((1 + U) / (1 - U)) ** (2 * depth(captured(case)[1])) - 1
    for field in ("relevance", "absorbed"):
        one = np.asarray(getattr(exact, field), dtype=np.float64)
        other = np.asarray(getattr(rounded, field), dtype=np.float64)
        start = np.maximum(exact.output[np.arange(len(x)), exact.target], 0).astype(np.float64)
        slack = FLOAT32 * start.reshape(-1, *[1] * (one.ndim - 1))
        assert (np.abs(other - one) <= growth * one + slack).all(), field
        assert (other >= 0).all()


def layers(
    depths: tuple[int, ...], seed: int
) -> tuple[torch.nn.Module, list[npt.NDArray[np.float64]]]:
    torch.manual_seed(seed)
    linear = [torch.nn.Linear(a, b) for a, b in zip(depths, depths[1:], strict=False)]
    parts = [part for layer in linear[:-1] for part in (layer, torch.nn.ReLU())]
    weights = [layer.weight.detach().double().numpy() for layer in linear]
    return torch.nn.Sequential(*parts, linear[-1]).eval(), weights


@bf16
@pytest.mark.parametrize("depths", [(5, 3), (31, 17, 4), (64, 33, 65, 3), (200, 129, 70, 31, 2)])
def test_gradient_is_within_its_rounding(depths: tuple[int, ...]) -> None:
    """|error| ≤ ((1 + u)²ⁿ − 1) · what the same products of absolute values give."""
    model, weights = layers(depths, seed=1)
    x = np.random.default_rng(2).normal(size=(37, depths[0])).astype(np.float32)
    exact = pyrel.Explainer(model, x, "gradient")(x)
    rounded = pyrel.Explainer(model, x, "gradient", precision="bf16")(x)
    assert exact.target.tobytes() == rounded.target.tobytes()
    active, a = [], torch.from_numpy(x)
    for part in model:
        a = part(a)
        if isinstance(part, torch.nn.ReLU):
            active.append((a > 0).double().numpy())
    bound = np.abs(weights[-1])[exact.target]
    for weight, on in zip(reversed(weights[:-1]), reversed(active), strict=True):
        bound = (bound * on) @ np.abs(weight)
    growth = (1 + U) ** (2 * len(weights)) - 1
    error = np.abs(rounded.relevance.astype(float) - exact.relevance)
    assert (error <= (growth + FLOAT32) * bound).all()


@bf16
@pytest.mark.parametrize("cell", ["Shallow", "Deep", "DeepV2"])
def test_bf16_all_keeps_the_class_and_the_direction(cell: str) -> None:
    torch.manual_seed(3)
    model = getattr(pyrel.nn, cell)(4).eval()
    x = np.random.default_rng(4).random((3000, 4, 28, 7), dtype=np.float32)
    options: dict[str, Any] = {"low": 0.0, "high": 1.0}
    graph = pyrel.capture(model, x[:2])
    exact = unchecked(graph, x[:2], **options)(x)
    rounded = unchecked(graph, x[:2], precision="bf16_all", **options)(x)
    np.testing.assert_array_equal(rounded.target, exact.target)
    one, other = (e.relevance.reshape(len(x), -1).astype(float) for e in (exact, rounded))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert np.quantile(cosine, 0.01) >= 0.9999


@bf16
def test_close_calls_are_decided_in_float32() -> None:
    """Outputs that bfloat16 cannot tell apart: without a decision, about half would be wrong."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 2)).eval()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0] * (1 + 2.0**-12)
        model[0].bias.zero_()
    x = np.random.default_rng(5).normal(size=(500, 64)).astype(np.float32)
    exact = pyrel.Explainer(model, x, "gradient_x_input")(x)
    careful = pyrel.Explainer(model, x, "gradient_x_input", precision="bf16_all")
    assert set(exact.target) == {0, 1}
    e = careful(x)
    np.testing.assert_array_equal(e.target, exact.target)
    assert bits(e) == bits(careful(x, target=exact.target))  # all of it belongs to that class
    for i in range(0, 500, 7):
        assert bits(careful(x[i : i + 1])) == tuple(
            np.ascontiguousarray(getattr(e, name)[i : i + 1]).tobytes()
            for name in (
                "relevance",
                "output",
                "target",
                "absorbed",
                "conservation",
                "amplification",
            )
        )


@bf16
@pytest.mark.parametrize("bounded", [True, False])
def test_class_where_inputs_are_far_from_zero(bounded: bool) -> None:
    """Standardising folded into the first layer: its products are large, their sums are not."""
    model, _ = layers((64, 32, 10), seed=10)
    with torch.no_grad():
        first = model[0]
        first.bias -= first.weight.sum(1) * 20.0
        first.weight /= 10.0
    x = np.random.default_rng(11).normal(200, 10, (4000, 64)).clip(0, 255).astype(np.float32)
    domain = {"low": 0.0, "high": 255.0} if bounded else {}
    exact = pyrel.Explainer(model, x, "gradient", **domain)(x)
    careful = pyrel.Explainer(model, x, "gradient", precision="bf16_all", **domain)
    np.testing.assert_array_equal(careful(x).target, exact.target)
    for some in (x[:1], x[5:25], x[30:94]):  # 64 or fewer are all decided
        first = next(i for i in range(len(x)) if (x[i] == some[0]).all())
        np.testing.assert_array_equal(careful(some).target, exact.target[first : first + len(some)])


@bf16
def test_a_sample_that_overflows_in_float32_only_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([[1.0, 1.0], [1.0, 0.5]])
    x = np.ones((80, 2), np.float32)
    x[77] = [3.4e38, 3.0e36]  # rounds down in bfloat16, and the sum is infinite in float32
    explainer = pyrel.Explainer(model, x, "gradient", precision="bf16_all")
    with pytest.raises(ValueError, match=r"for x\[77\] is NaN or infinite"):
        explainer(x)


@bf16
def test_explain_keeps_what_it_compiled() -> None:
    model, _ = layers((8, 4, 3), seed=12)
    x = np.zeros((2, 8), np.float32)
    pyrel.explain(model, x, "gradient", precision="bf16")
    kept = captures.of(model)
    (_, explainer), *_ = kept.explainers
    pyrel.explain(model, x, "gradient", precision="bf16")
    assert [one for _, one in kept.explainers] == [explainer]


@bf16
@pytest.mark.parametrize("precision", ["bf16", "bf16_all"])
def test_a_saved_program_needs_such_products_too(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = layers((4, 2), seed=13)
    x = np.zeros((1, 4), np.float32)
    pyrel.Explainer(model, x, "gradient", precision=precision).save(tmp_path / "p")
    monkeypatch.setenv("PYREL_ISA", "baseline")
    with pytest.raises(ValueError, match="needs products of bfloat16"):
        pyrel.Explainer.load(tmp_path / "p")


@bf16
@pytest.mark.parametrize("precision", ["bf16", "bf16_all"])
def test_same_bits_for_batches_threads_and_files(precision: str, tmp_path: Path) -> None:
    model, _ = layers((200, 129, 70, 10), seed=6)
    x = np.random.default_rng(7).random((61, 200), dtype=np.float32)
    x[::3, :150] = 0.0  # rows whose zeros are skipped, among others
    e = pyrel.Explainer(model, x, low=0.0, high=1.0, precision=precision)
    whole = e(x)
    e.save(tmp_path / "one.program")
    assert bits(pyrel.Explainer.load(tmp_path / "one.program")(x)) == bits(whole)
    for count in (1, 2, 12, 25):
        part = e(x[:count])
        for name in ("relevance", "output", "target"):
            assert getattr(part, name).tobytes() == getattr(whole, name)[:count].tobytes()


def test_unknown_precision() -> None:
    model, _ = layers((4, 2), seed=8)
    with pytest.raises(ValueError, match="precision: wanted .*bf16_all.*, got 'half'"):
        pyrel.Explainer(model, np.zeros((1, 4), np.float32), precision="half")


def test_refused_where_there_are_no_such_products(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = layers((4, 2), seed=9)
    monkeypatch.setenv("PYREL_ISA", "baseline")
    with pytest.raises(ValueError, match=r"needs products of bfloat16 \(avx512_bf16\), and base"):
        pyrel.Explainer(model, np.zeros((1, 4), np.float32), precision="bf16")
