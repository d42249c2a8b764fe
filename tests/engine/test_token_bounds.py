# SPDX-License-Identifier: Apache-2.0
"""Token ids of which each element has the bound of the tables that read it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.sequences import assert_same, made
from torch import Tensor, nn

import pyrel
from pyrel.engine.program_file import dump_program
from pyrel.files.tensors import read_tensors, write_tensors

ROWS = (6, 9)


class Columns(nn.Module):
    """Two columns of tokens, each with a table of its own, and a third that is not read."""

    shape: tuple[int, ...] = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(ROWS[0], 4), nn.Embedding(ROWS[1], 3)
        self.inner, self.out = nn.Linear(7, 5), nn.Linear(5, 2)

    def embedded(self, x: Tensor) -> list[Tensor]:
        return [self.a(x[:, 0]), self.b(x[:, 1])]

    def scores(self, parts: list[Tensor]) -> Tensor:
        return self.out(torch.tanh(self.inner(torch.cat(parts, -1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.embedded(x))


class Steps(Columns):
    """The same at each of any number of steps, summed over them."""

    shape = (5, 3)

    def embedded(self, x: Tensor) -> list[Tensor]:
        return [self.a(x[:, :, 0]), self.b(x[:, :, 1])]

    def scores(self, parts: list[Tensor]) -> Tensor:
        return super().scores(parts).sum(1)


class Recurrent(Steps):
    """Steps through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(7, 5, batch_first=True)

    def scores(self, parts: list[Tensor]) -> Tensor:
        return self.out(self.core(torch.cat(parts, -1))[0][:, -1])


class Flat(Steps):
    """Sequences of three columns in one row."""

    shape = (15,)

    def embedded(self, x: Tensor) -> list[Tensor]:
        return super().embedded(x.reshape(-1, 5, 3))


MODELS = (Columns, Steps, Recurrent, Flat)


@functools.cache
def same(make: type[nn.Module]) -> nn.Module:
    """Return a model that no test changes, so that it is captured once."""
    return made(make)


def ids(make: type[Columns], n: int = 8, steps: int | None = None) -> Any:
    """Ids up to the bound of each column; of the third, any."""
    rng = np.random.default_rng(0)
    shape = (n, *make.shape) if steps is None else (n, steps, 3)
    high = np.resize([*ROWS, 10**6], shape[-1])
    return rng.integers(0, high, shape)


def reference(model: Any, x: Any, target: Any) -> tuple[Any, Any]:
    """Outputs, and autograd's gradients summed over the dimensions of each embedding."""
    model = model.double()
    parts = [p.detach().requires_grad_() for p in model.embedded(torch.from_numpy(x))]
    out = model.scores(parts)
    chosen = out.gather(1, torch.as_tensor(target)[:, None]).sum()
    gradients = [g.sum(-1) for g in torch.autograd.grad(chosen, parts)]
    relevance = torch.stack([*gradients, torch.zeros_like(gradients[0])], -1)
    return out.detach().numpy(), relevance.reshape(x.shape).numpy()


@pytest.mark.parametrize("make", MODELS)
def test_outputs_and_gradients_are_torchs(make: type[Columns]) -> None:
    x = ids(make)
    e = pyrel.explain(same(make), x, "gradient")
    output, relevance = reference(made(make), x, e.target)
    # Some fifty terms of size one or less, of float32.
    np.testing.assert_allclose(e.output, output, rtol=0, atol=50 * 2.0**-23)
    np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=50 * 2.0**-23)
    assert np.abs(relevance).max() > 0.01


@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
@pytest.mark.parametrize("make", [Columns, Flat])
def test_relevance_is_that_of_the_embeddings(make: type[Columns], method: str) -> None:
    x = ids(make)
    try:
        e = pyrel.explain(same(make), x, method)
    except pyrel.UnsupportedModelError:
        assert method == "deep_taylor"  # tanh hands it values below zero
        return
    start = np.take_along_axis(e.output, e.target[:, None], 1)[:, 0]
    if method == "deep_taylor":
        start = np.maximum(start, 0)
    np.testing.assert_allclose(
        e.relevance.reshape(len(x), -1).sum(1) + e.absorbed, start, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(e.relevance.reshape(len(x), -1, 3)[..., 2], 0)


@pytest.mark.parametrize("make", MODELS)
def test_each_column_has_its_own_bound(make: type[Columns]) -> None:
    explainer = unchecked(same(make), ids(make), "gradient")
    for column, rows in enumerate(ROWS):
        x = ids(make)
        where = (3, *np.unravel_index(column, make.shape))
        for wrong in (rows, -1):
            x[where] = wrong
            got = rf"ids from 0 to {rows - 1}, got x\[{', '.join(map(str, where))}\] = {wrong}$"
            with pytest.raises(ValueError, match=got):
                explainer(x)
        x[where] = rows - 1
        explainer(x)
    with pytest.raises(TypeError, match="token ids below 6 to 9, by element, of shape"):
        explainer(x.astype(np.float32))


def test_a_column_that_no_table_reads_may_hold_any_number() -> None:
    explainer = unchecked(same(Steps), ids(Steps), "gradient")
    x = ids(Steps)
    wanted = explainer(x)
    x[:, :, 2] = [-7, 2**24, 0, 99, -(2**20)]
    assert_same(explainer(x), wanted)


def test_an_element_that_two_tables_read_has_the_smaller_bound() -> None:
    class Twice(Columns):
        shape = (2,)

        def embedded(self, x: Tensor) -> list[Tensor]:
            return [self.a(x[:, 0]), self.b(x[:, 0]) + self.b(x[:, 1])]

    explainer = unchecked(made(Twice), np.zeros((2, 2), int), "gradient")
    explainer(np.array([[5, 8]]))
    with pytest.raises(ValueError, match=r"from 0 to 5, got x\[0, 0\] = 6$"):
        explainer(np.array([[6, 8]]))


@pytest.mark.parametrize("make", [Steps, Recurrent])
def test_any_number_of_steps(make: type[Columns]) -> None:
    explainer = unchecked(same(make), ids(make), "gradient", lengths=True)
    assert explainer.any_steps
    for steps in (1, 2, 9, 20):
        x = ids(make, 4, steps)
        e = explainer(x)
        output, relevance = reference(made(make), x, e.target)
        np.testing.assert_allclose(e.output, output, rtol=0, atol=200 * 2.0**-23)
        np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=200 * 2.0**-23)
    lengths = [3, 20, 7, 1]
    alone = [explainer(x[i : i + 1, :n]).relevance[0] for i, n in enumerate(lengths)]
    padded = explainer(x, lengths=lengths).relevance
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(padded[i, :n], alone[i])


def test_a_step_that_is_not_read_counts_as_the_others() -> None:
    class Shifted(Steps):
        def embedded(self, x: Tensor) -> list[Tensor]:
            return super().embedded(x[:, :-1])

    explainer = unchecked(made(Shifted), ids(Shifted), "gradient")
    x = ids(Shifted, 2, 7)
    explainer(x)
    x[1, 6, 1] = 9
    with pytest.raises(ValueError, match=r"from 0 to 8, got x\[1, 6, 1\] = 9$"):
        explainer(x)


def test_bounds_that_differ_from_step_to_step() -> None:
    class First(nn.Module):
        """The first token is of another kind."""

        def __init__(self) -> None:
            super().__init__()
            self.kind, self.word = nn.Embedding(3, 4), nn.Embedding(9, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.kind(x[:, 0]) + self.word(x[:, 1:]).sum(1))

    x = np.array([[2, 8, 7, 8, 0], [0, 1, 2, 3, 4]])
    model = made(First)
    explainer = unchecked(model, x, "gradient")
    wanted = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(explainer(x).output, wanted, rtol=0, atol=20 * 2.0**-23)
    with pytest.raises(ValueError, match=r"from 0 to 2, got x\[0, 0\] = 3$"):
        explainer(np.array([[3, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="other bounds at some steps than at others"):
        explainer(np.zeros((1, 6), int))
    with pytest.raises(pyrel.UnsupportedModelError, match="lengths=True is for models .*other bou"):
        unchecked(model, x, "gradient", lengths=True)


@pytest.mark.parametrize("make", [Columns, Flat])
def test_bounds_are_saved(make: type[Columns], tmp_path: Path) -> None:
    explainer, x = unchecked(same(make), ids(make), "gradient"), ids(make)
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert_same(loaded(x), explainer(x))
    x.reshape(len(x), -1)[1, 0] = 6
    with pytest.raises(ValueError, match="from 0 to 5, got"):
        loaded(x)


@pytest.mark.parametrize("own", [[6, 9], [6, 9, -1], [6, 8, 0], [0, 0, 0], [6, 9, 10]])
def test_saved_bounds_that_make_no_sense(own: list[int], tmp_path: Path) -> None:
    explainer, path = unchecked(same(Columns), ids(Columns), "gradient"), tmp_path / "p"
    explainer.save(path)
    tensors, content = read_tensors(path, "program")
    tensors["vocabulary"] = torch.tensor(own)
    write_tensors(path, "program", tensors, content)
    with pytest.raises(ValueError, match="its vocabularies do not fit its input"):
        pyrel.Explainer.load(path)


def test_one_bound_for_all_is_saved_as_before() -> None:
    """So a pyrel that does not know bounds by element reads such files."""
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(8, 2))
    explainer = unchecked(model, np.zeros((2, 2), int), "gradient")
    compiled: Any = explainer._programs.source
    data = dump_program(explainer.method, explainer.inputs, compiled)
    assert b'"vocabulary"' not in data[: data.index(b"__metadata__")]
    assert explainer.inputs.vocabularies is None


class Counted(nn.Module):
    """Packs by constant lengths."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.table, self.core = nn.Embedding(7, 5, padding_idx=0), nn.LSTM(5, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.table(x)
        steps = 3 if self.what == "short" else x.shape[1]
        lengths = torch.full((x.shape[0],), steps)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True)
        return self.out(self.core(packed)[1][0][-1])


def test_constant_lengths_that_are_short_are_refused_by_name() -> None:
    x = np.array([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [1, 1, 2, 3, 4]])
    with pytest.raises(pyrel.UnsupportedModelError, match="lengths as its second argument") as r:
        pyrel.Explainer(Counted("short").eval(), x, "gradient", check=None)
    assert r.value.operator == "aten.packed_lengths"


def test_constant_lengths_that_are_full_are_packed() -> None:
    model, x = Counted("full").eval(), np.array([[1, 0, 3, 4, 5], [2, 3, 4, 0, 0]])
    e = pyrel.explain(model, x, "gradient")
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(e.output, wanted, rtol=0, atol=100 * 2.0**-23)
