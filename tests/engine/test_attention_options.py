# SPDX-License-Identifier: Apache-2.0
"""`attention=`: which methods take it, what is kept of it, masks, softmaxes written by hand."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, rows, target_score, unchecked, unchecked_at
from engine.test_attnlrp import CLASSES, EPSILON, STEPS, WIDTH, batch, captured
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.intervals import apart
from pyrel.compiler.graph.verify import verify
from pyrel.compiler.passes.pipeline import run_passes

CONSERVING = [
    name for name in pyrel.methods.names() if pyrel.methods.get(name).conserves
]  # fmt: skip


def explained(model: nn.Module, x: Any, **options: Any) -> Any:
    options = {"method": "lrp_epsilon", "epsilon": EPSILON, "attention": "attnlrp", **options}
    return unchecked_at(model, x[:2], **options)(x)


def assert_same_map(one: Any, other: Any) -> None:
    size = np.maximum(1.0, np.asarray(one.amplification)) * np.abs(target_score(one))
    error = np.abs(rows(one.relevance) - rows(other.relevance))
    assert_within(error, RELATIVE * size[:, None], "relevance")


# The option


@pytest.mark.parametrize("method", CONSERVING)
def test_conserving_methods_take_it(method: str) -> None:
    assert "attention" not in pyrel.methods.get(method).options
    made = pyrel.methods.get(method, attention="attnlrp")
    assert made.options["attention"] == "attnlrp"
    assert repr(made).endswith("attention='attnlrp')")
    assert repr(pyrel.methods.get(method, attention="values")) == repr(pyrel.methods.get(method))
    with pytest.raises(
        ValueError, match='attention: wanted "values" or "attnlrp", got \'rollout\''
    ):
        pyrel.methods.get(method, attention="rollout")


def test_all_that_take_gates_take_it() -> None:
    for name in pyrel.methods.names():
        options = inspect.signature(type(pyrel.methods.get(name))).parameters
        assert ("gates" in options) == ("attention" in options) == (name in CONSERVING)


def test_others_refuse_it() -> None:
    with pytest.raises(TypeError, match="attention: not among the options of gradient"):
        pyrel.methods.get("gradient", attention="attnlrp")


def test_it_is_saved_and_its_rules_are_shown(tmp_path: Path) -> None:
    x = batch()
    explainer = unchecked(captured(("encoder",)), method="lrp_epsilon", attention="attnlrp")
    explainer.save(tmp_path / "encoder.program")
    loaded = pyrel.Explainer.load(tmp_path / "encoder.program")
    assert "attention='attnlrp'" in str(loaded)
    np.testing.assert_array_equal(loaded(x).relevance, explainer(x).relevance)
    shown = [line.split() for line in str(explainer).splitlines()]
    assert ["softmax", "each.0.layer.self_attn", "TaylorOfSoftmax()"] in shown
    assert ["product", "×", "2", "each.0.layer.self_attn", "Half()"] in shown
    assert "Taylor" not in str(unchecked(captured(("encoder",)), method="lrp_epsilon"))


OPTIONS: dict[str, dict[str, Any]] = {
    "half": {"gates": "half"},
    "share": {"bias": "share"},
    "stop": {"detach": "stop"},
    "gamma": {"method": "lrp_gamma"},
    "alpha beta": {"method": "lrp_alpha_beta"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "name", ["LSTM with dot products", "additive", "encoder", "by hand, causal"]
)
def test_relevance_is_conserved_with_other_options(name: str, options: dict[str, Any]) -> None:
    options = {"method": "lrp_epsilon", "epsilon": EPSILON, "attention": "attnlrp", **options}
    assert_conserved(unchecked(captured((name,)), **options)(batch()))


def assert_conserved(e: Any) -> None:
    total = rows(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    start = target_score(e)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(start)
    assert_within(np.abs(total - start)[:, None], RELATIVE * size[:, None], "conservation")


def test_deep_taylor_takes_it_where_values_are_of_one_sign() -> None:
    class Positive(Pooled):
        def states(self, x: Tensor) -> Tensor:
            return torch.relu(self.state(x))

    e = explained(seeded(Positive), batch(), method="deep_taylor", low=-5.0, high=5.0)
    assert_conserved(e)
    values = explained(
        seeded(Positive), batch(), method="deep_taylor", low=-5.0, high=5.0, attention="values"
    )
    assert (np.abs(rows(e.relevance) - rows(values.relevance)) > 1e-3).any()


def test_relevance_of_logits_counts_in_the_amplification() -> None:
    """Logits of 1,000 get 1,000 (R_i − s_i Σ R), and cancel again: no other rule measures that."""

    class Shifted(Pooled):
        def states(self, x: Tensor) -> Tensor:
            return torch.relu(self.state(x))

    model = seeded(Shifted)
    assert isinstance(model, Shifted)
    found = []
    for bias in (0.0, 1000.0):
        model.score.bias.data.fill_(bias)
        e = explained(model, batch(), method="deep_taylor", low=-5.0, high=5.0)
        found.append(np.asarray(e.amplification))
    assert (found[1] > 100 * np.maximum(found[0], 1.0)).mean() > 0.5


def test_passes_leave_valid_graphs() -> None:
    graph = captured(("encoder",))
    bound = np.full(graph.input_size, np.inf)
    method = pyrel.methods.LrpEpsilon(attention="attnlrp")
    run_passes(graph, method, -bound, bound, check=verify)


class EachStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x))


def test_each_step_is_the_target_of_that_step() -> None:
    """What the way back needs of the logits is there for all targets."""
    x = batch(3)
    explainer = unchecked_at(seeded(EachStep), x, method="lrp_epsilon", attention="attnlrp")
    e = explainer(x, target="each step")
    for t in range(STEPS):
        one = explainer(x, target=np.asarray(e.target)[:, t])
        np.testing.assert_array_equal(one.relevance, np.asarray(e.relevance)[:, t])


# Softmaxes as models write them


class Pooled(nn.Module):
    """A mean of states, weighted by attention that is written in one of several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.score = nn.Linear(WIDTH, 6), nn.Linear(6, 1)
        self.out = nn.Linear(6, CLASSES)

    def states(self, x: Tensor) -> Tensor:
        return torch.tanh(self.state(x))

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.states(x)
        return self.out((self.weights(4 * self.score(h)) * h).sum(1))


def seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    return kind().eval()


class LessMaximum(Pooled):
    def weights(self, scores: Tensor) -> Tensor:
        e = torch.exp(scores - scores.amax(1, keepdim=True))
        return e / e.sum(1, keepdim=True)


class LessDetachedMaximum(Pooled):
    def weights(self, scores: Tensor) -> Tensor:
        e = torch.exp(scores - scores.max(1, keepdim=True)[0].detach())
        return e * e.sum(1, keepdim=True).reciprocal()


class StepByStep(Pooled):
    def weights(self, scores: Tensor) -> Tensor:
        e = [torch.exp(scores[:, t]) for t in range(STEPS)]
        total = functools.reduce(operator.add, e)
        return torch.stack([each / total for each in e], 1)


class Twice(Pooled):
    def weights(self, scores: Tensor) -> Tensor:
        e = torch.exp(scores)
        total = e.sum(1, keepdim=True)
        return torch.cat([(e / total)[:, :2], (e / total)[:, 2:]], 1)


@pytest.mark.parametrize("kind", [LessMaximum, LessDetachedMaximum, StepByStep, Twice])
def test_softmaxes_by_hand_are_softmaxes(kind: type[nn.Module]) -> None:
    """The largest logit, which some take off first, changes no weight and no relevance."""
    x = batch()
    assert_same_map(explained(seeded(Pooled), x), explained(seeded(kind), x))


class Some(Pooled):
    """Weights of which not all are read: the other logits have a part in the sum."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand

    def forward(self, x: Tensor) -> Tensor:
        h = self.states(x)
        scores = 4 * self.score(h)
        if self.by_hand:
            e = torch.exp(scores)
            weights = e[:, :3] / e.sum(1, keepdim=True)
        else:
            weights = scores.softmax(1)[:, :3]
        return self.out((weights * h[:, :3]).sum(1))


def test_logits_whose_weights_are_not_read_get_relevance() -> None:
    x = batch()
    one, other = (explained(seeded(lambda by=by: Some(by)), x) for by in (False, True))
    assert_same_map(one, other)
    assert (np.asarray(one.relevance)[:, 3:] != 0).all()


class Read(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(WIDTH, 6), nn.Linear(6 * STEPS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x).softmax(-1).flatten(1))


def test_a_softmax_that_is_read_has_the_rule_alone() -> None:
    model, x = seeded(Read), batch()
    assert_conserved(explained(model, x))
    with pytest.raises(pyrel.UnsupportedModelError, match='attention="attnlrp" has a rule for a'):
        explained(model, x, attention="values")


class SwishedUnits(Pooled):
    """Values that two signals are multiplied to: no attention, and no gate."""

    def states(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.state(x))
        return h * torch.cos(h)

    def forward(self, x: Tensor) -> Tensor:
        h = self.states(x)
        return self.out((x.sum(2, keepdim=True).softmax(1) * h).sum(1))


def test_two_signals_elsewhere_are_refused() -> None:
    model, x = seeded(SwishedUnits), batch()
    with pytest.raises(pyrel.UnsupportedModelError, match='neither is a gate.*gates="half" gives'):
        explained(model, x)
    assert_conserved(explained(model, x, gates="half"))


class GatedScores(Pooled):
    """Scores of tanh ⊙ sigmoid, as in attention over instances (Ilse et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.states(x)
        scores = self.score(h * torch.sigmoid(self.gate(h)))
        return self.out((scores.softmax(1) * h).sum(1))


class SigmoidValues(Pooled):
    def states(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.state(x))


@pytest.mark.parametrize("kind", [GatedScores, SigmoidValues])
def test_gates_beside_attention(kind: type[nn.Module]) -> None:
    assert_conserved(explained(seeded(kind), batch()))


# Masks of token ids


class Tokens(nn.Module):
    """Attention over embedded tokens, of which those of id 0 are left out in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embed, self.score = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, 1)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        scores = self.score(h)[..., 0]
        left_out = ids == 0
        match self.way:
            case "infinite":
                weights = scores.masked_fill(left_out, -torch.inf).softmax(1)
            case "large":
                weights = (scores + left_out * -1e9).softmax(1)
            case "weighed":
                weights = scores.softmax(1) * (ids != 0)
                weights = weights / weights.sum(1, keepdim=True)
            case _:
                weights = scores.softmax(1)
        return self.out((weights[..., None] * h).sum(1))


@pytest.mark.parametrize("way", ["infinite", "large"])
def test_what_a_mask_leaves_out_gets_nothing(way: str) -> None:
    """The map is that of the tokens which are left, without any mask."""
    ids = np.array([[1, 2, 3, 0, 0], [4, 8, 6, 0, 0], [5, 1, 1, 0, 0]])
    masked = explained(seeded(lambda: Tokens(way)), ids)
    plain = explained(seeded(lambda: Tokens("")), ids[:, :3])
    relevance = np.asarray(masked.relevance)
    assert (relevance[:, 3:] == 0).all()
    np.testing.assert_allclose(relevance[:, :3], plain.relevance, rtol=1e-5, atol=1e-6)
    assert_conserved(masked)


def test_weights_that_are_normalised_again() -> None:
    """The sum that is left of them counts as a constant, as that of exponentials does."""
    ids = np.array([[1, 2, 3, 0, 0], [4, 8, 6, 0, 7], [5, 1, 1, 2, 0]])
    e = explained(seeded(lambda: Tokens("weighed")), ids)
    assert_conserved(e)
    assert (np.asarray(e.relevance)[ids != 0] != 0).all()


# Values that many rows read


@pytest.mark.parametrize("size", [1, 3])
def test_rows_that_overlap_are_taken_in_turn(size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        starts = size * rng.integers(0, 6, 12)
        groups = list(apart(starts, size))
        assert sorted(np.concatenate(groups).tolist()) == list(range(12))
        assert len(groups) == np.bincount(starts).max()
        for group in groups:
            assert (np.diff(starts[group]) >= size).all()
