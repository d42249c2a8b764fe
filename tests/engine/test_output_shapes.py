# SPDX-License-Identifier: Apache-2.0
"""Outputs of several dimensions, as scores of each step; and such of which none is predicted."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import captured_once
from engine.logs import heard
from torch import Tensor, nn

import pyrel
from pyrel.engine import each_step
from pyrel.engine.outputs import Outputs
from pyrel.engine.prepare import Captured
from pyrel.files.tensors import dump_tensors, load_tensors

CLASSES, FEATURES = 5, 3


class Tagger(nn.Module):
    """Scores (n, T, classes); ``order`` may exchange dimensions, ``cut`` leaves out steps."""

    def __init__(self, bidirectional: bool = True, last: str = "classes", cut: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(FEATURES, 4, batch_first=True, bidirectional=bidirectional)
        self.out = nn.Linear(8 if bidirectional else 4, CLASSES)
        self.last, self.cut = last, cut

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.lstm(x)[0])
        scores = scores[:, self.cut :]
        return scores.transpose(1, 2) if self.last == "steps" else scores


def samples(n: int, steps: int) -> Tensor:
    return torch.randn(n, steps, FEATURES, generator=torch.Generator().manual_seed(steps))


@functools.cache
def captured(**options: Any) -> Captured:
    return captured_once(Tagger(**options).eval(), samples(3, 6))


@functools.cache
def tagger(method: str = "gradient", lengths: bool = False, **options: Any) -> pyrel.Explainer:
    return pyrel.Explainer(captured(**options), samples(3, 6), method, lengths=lengths)


def autograd(model: nn.Module, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of one of them for each sample."""
    x = x.clone().requires_grad_()
    output = model.eval()(x)
    chosen = [output[(number, *index)] for number, index in enumerate(target)]
    torch.stack(chosen).sum().backward()
    assert x.grad is not None
    return output.detach(), x.grad


OPTIONS = [{}, {"bidirectional": False}, {"last": "steps"}, {"cut": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("steps", [6, 4, 21])
def test_gradients_of_scores_at_steps_are_those_of_autograd(
    options: dict[str, Any], steps: int
) -> None:
    explainer, x = tagger(**options), samples(3, steps)
    assert "gradients" in explainer.checked
    index = torch.tensor([[1, 4], [0, 0], [0, 1]])
    if options.get("last") == "steps":
        index = index.flip(1)
    e = explainer(x, index)
    output, gradient = autograd(Tagger(**options), x, index.tolist())
    torch.testing.assert_close(e.output, output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(e.relevance, gradient, rtol=1e-4, atol=1e-7)
    assert torch.equal(e.target, index)
    assert torch.equal(explainer.forward(x), e.output)


def test_targets_in_all_forms() -> None:
    explainer, x = tagger(), samples(3, 6)
    wanted = explainer(x, torch.tensor([[2, 1]] * 3))
    for target in (
        (2, 1),
        (np.int64(2), torch.tensor(1)),
        (torch.full((3,), 2), 1),
        ([2, 2, 2], np.ones(3, np.uint8)),
        [[2, 1]] * 3,
        [(2, 1)] * 3,
        np.array([[2, 1]] * 3, np.int16),
    ):
        e = explainer(x, target)
        assert torch.equal(e.relevance, wanted.relevance)
        assert e.target.tolist() == [[2, 1]] * 3
    e = explainer(x.numpy(), (2, 1))
    assert isinstance(e.output, np.ndarray)
    assert (e.output.shape, e.target.shape, e.target.dtype) == ((3, 6, CLASSES), (3, 2), np.int64)
    e = explainer(x[:0], (2, 1))
    assert (e.output.shape, e.target.shape) == ((0, 6, CLASSES), (0, 2))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, r"outputs of shape \(n, 6, 5\), and no single one is the predicted class"),
        (3, r"one index for each dimension, as target=\(0, 0\).*; got shape \(\)"),
        ((3,), "; got a tuple of 1"),
        ((6, 0), r"wanted 0 to 5 for dimension 0 of outputs \(n, 6, 5\), got 6 for x\[0\]$"),
        (([0, 1, 2], [0, 5, 0]), r"wanted 0 to 4 for dimension 1 .*, got 5 for x\[1\]$"),
        ((-1, 0), r"got -1 for x\[0\]; negative ones do not count from the end"),
        (torch.zeros(3, dtype=torch.int64), r"got shape \(3,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"got shape \(2, 2\)"),
        (([0, 1], 0), r"got a tuple of shapes \(2,\), \(\)"),
    ],
)
def test_what_is_no_score_of_a_step_is_refused(target: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^target: .*{words}"):
        tagger()(samples(3, 6), target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ((0.5, 1), "got float"),
        ("each_step", "; 'each step' for scores of each step; got 'each_step'$"),
        (["2", "1"], "got list of str"),
        (torch.zeros(3, 2), "got dtype torch.float32"),
    ],
)
def test_what_is_no_integer_is_refused(target: Any, words: str) -> None:
    with pytest.raises(TypeError, match=rf"^target: wanted one index for each dimension.*{words}"):
        tagger()(samples(3, 6), target)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_may_be_columns_or_rows_is_refused_for_any_number_of_samples(n: int) -> None:
    x, ones = samples(n, 6), torch.ones(n, dtype=torch.int64)
    for target in ([ones, ones], [ones.numpy(), [1] * n], [torch.tensor([2, 1])] * n):
        with pytest.raises(TypeError, match=r"^target: got a list of arrays.* tuple \(t, c\)"):
            tagger()(x, target)
    for target in ([2, 1], np.array([2, 1]), torch.tensor([2, 1])):
        with pytest.raises(ValueError, match=r"^target: .*shape \(2,\): target=\(2, 1\), a tuple"):
            tagger()(x, target)
    with pytest.raises(TypeError, match=r"^target: wanted .*got a tuple.*several dimensions"):
        pyrel.explain(third(), x, "gradient", (2, 1))


def test_a_text_for_outputs_of_one_dimension_is_told_of_each_step() -> None:
    with pytest.raises(TypeError, match=r"shape \(3,\); 'each step' for .*; got 'every step'$"):
        pyrel.explain(third(), samples(3, 6), "gradient", "every step")


class Third(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 2]


@functools.cache
def third() -> Third:
    return Third()


@pytest.mark.parametrize("method", ["lrp_epsilon", "integrated_gradients", "occlusion"])
def test_one_step_is_explained_as_if_it_were_the_only_output(method: str) -> None:
    x = samples(3, 6)
    e = tagger(method)(x, (2, [4, 0, 1]))
    alone = pyrel.explain(third(), x, method, target=[4, 0, 1])
    torch.testing.assert_close(e.relevance, alone.relevance, rtol=1e-4, atol=1e-6)
    if method == "lrp_epsilon":
        score = e.output[torch.arange(3), 2, [4, 0, 1]]
        torch.testing.assert_close(e.relevance.sum((1, 2)) + e.absorbed, score)


# Sequences of different lengths


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_steps_are_counted_within_each_sequence(options: dict[str, Any]) -> None:
    explainer, x, lengths = tagger("lrp_epsilon", True, **options), samples(4, 7), [7, 4, 5, 4]
    steps = torch.tensor(lengths) - 1 - options.get("cut", 0)
    index = (2, steps) if options.get("last") == "steps" else (steps, 2)
    e, output = explainer(x, index, lengths=lengths), explainer.forward(x, lengths=lengths)
    assert torch.equal(e.output, output)
    assert e.output.shape == Tagger(**options)(x).shape
    for number, length in enumerate(lengths):
        own = tuple(part[number].item() if isinstance(part, Tensor) else part for part in index)
        alone = explainer(x[number : number + 1, :length], own)
        assert torch.equal(e.relevance[number, :length], alone.relevance[0])
        assert not e.relevance[number, length:].any()
        inside = tuple(slice(size) for size in alone.output.shape[1:])
        assert torch.equal(output[number][inside], alone.output[0])
        beyond = output[number].clone()
        beyond[inside] = 0
        assert not beyond.any()
        assert torch.equal(e.target[number], alone.target[0])
        assert e.absorbed[number] == alone.absorbed[0]


def test_a_step_beyond_the_end_of_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^target: wanted 0 to 3 for x\[1\], whose length is 4"):
        tagger(lengths=True)(samples(3, 6), (4, 0), lengths=[6, 4, 6])


class ScoreOfEachStep(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, 0]


@functools.cache
def scores_of_each_step() -> ScoreOfEachStep:
    return ScoreOfEachStep()


def test_a_single_score_of_each_step_may_be_the_largest_of_its_sequence() -> None:
    explainer = pyrel.Explainer(scores_of_each_step(), samples(2, 6), "gradient", lengths=True)
    x, lengths = samples(4, 5), [5, 2, 3, 2]
    e = explainer(x, lengths=lengths)
    for number, length in enumerate(lengths):
        alone = explainer(x[number : number + 1, :length])
        assert torch.equal(e.relevance[number, :length], alone.relevance[0])
        assert e.target[number] == alone.target[0] < length
        assert not e.output[number, length:].any()
    with pytest.raises(ValueError, match=r"0 to 1 for x\[1\], whose length is 2, got 2"):
        explainer(x, 2, lengths=lengths)


# Other shapes


class Loop(nn.Module):
    """A cell in a Python loop, which fixes the number of steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell, self.out = nn.GRUCell(FEATURES, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state, scores = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            scores.append(self.out(state))
        return torch.stack(scores, dim=1)


@functools.cache
def loop() -> Loop:
    return Loop()


def test_a_fixed_number_of_steps(tmp_path: Path) -> None:
    x = samples(3, 4)
    graph = pyrel.capture(Loop(), x)
    assert graph.output_shape == (4, CLASSES)
    for source in (loop(), graph):
        explainer = pyrel.Explainer(source, x, "gradient")
        assert "outputs (n, 4, 5)" in repr(explainer)
        e = explainer(x, (1, 3))
        output, gradient = autograd(Loop(), x, [(1, 3)] * 3)
        torch.testing.assert_close(e.output, output, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(e.relevance, gradient, rtol=1e-4, atol=1e-7)
        explainer.save(tmp_path / "program")
        again = pyrel.Explainer.load(tmp_path / "program")(x, (1, 3))
        assert torch.equal(again.relevance, e.relevance)
        assert torch.equal(again.output, e.output)


def test_maps_of_scores() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3))
    x = torch.rand(2, 1, 6, 5)
    e = pyrel.explain(model, x, "gradient", target=(1, 3, [0, 2]))
    output, gradient = autograd(model, x, [(1, 3, 0), (1, 3, 2)])
    torch.testing.assert_close(e.output, output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(e.relevance, gradient, rtol=1e-4, atol=1e-7)
    assert e.target.tolist() == [[1, 3, 0], [1, 3, 2]]


def test_a_score_for_each_pair_of_steps_takes_one_number_of_steps() -> None:
    class Pairs(ScoreOfEachStep):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return scores[:, :, None] - scores[:, None]

    x = samples(2, 6)
    with pytest.raises(pyrel.UnsupportedModelError, match="2 dimensions of it follow the number"):
        pyrel.Explainer(Pairs(), x, "gradient")
    e = pyrel.Explainer(pyrel.capture(Pairs(), x), x, "gradient")(x, (0, 5))
    torch.testing.assert_close(
        e.relevance, autograd(Pairs(), x, [(0, 5)] * 2)[1], rtol=1e-4, atol=1e-7
    )


# Files


@pytest.mark.parametrize(
    ("method", "bidirectional"),
    [("gradient", False), ("lrp_epsilon", True), ("integrated_gradients", False)],
)
def test_saved_and_pickled_explainers_give_the_same(
    method: str, bidirectional: bool, tmp_path: Path
) -> None:
    explainer = tagger(method, True, bidirectional=bidirectional)
    explainer.save(tmp_path / "program")
    for again in (
        pyrel.Explainer.load(tmp_path / "program"),
        pickle.loads(pickle.dumps(explainer)),
    ):
        assert again.outputs == explainer.outputs == Outputs(shape=(-1, CLASSES))
        assert str(again.outputs.text(30)) == "outputs (n, T, 5)"
        for steps, lengths in ((3, None), (23, None), (18, [18, 17, 2])):
            x = samples(3, steps)
            e, wanted = (each(x, (1, 3), lengths=lengths) for each in (again, explainer))
            assert torch.equal(e.relevance, wanted.relevance)
            assert torch.equal(e.output, wanted.output)
            assert torch.equal(e.target, wanted.target)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file of an explainer of scores at steps."""
    path = tmp_path_factory.mktemp("saved") / "program"
    tagger("gradient", True, bidirectional=False).save(path)
    return path.read_bytes()


def test_files_of_plain_outputs_say_nothing_of_their_shape(tmp_path: Path) -> None:
    pyrel.Explainer(nn.Linear(3, 2), torch.zeros(1, 3), "gradient").save(tmp_path / "program")
    _, content = load_tensors((tmp_path / "program").read_bytes(), "program", "", pyrel.Limits())
    assert "outputs" not in content["explainer"]


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"shape": [-1, 4]}, "do not fit"),
        ({"shape": [-1, -1]}, "outputs of shape"),
        ({"shape": [0, 5]}, "outputs of shape"),
        ({"shape": [-2, 5]}, "outputs of shape"),
        ({"shape": [1 << 40, 5]}, "outputs"),
        ({"task": "ranking"}, "task ranking"),
        ({"shape": 5}, "Outputs.shape: 5"),
    ],
)
def test_a_forged_shape_is_refused(stored: Any, words: str, saved: bytes, tmp_path: Path) -> None:
    tensors, content = load_tensors(saved, "program", "", pyrel.Limits())
    content["explainer"]["outputs"] = {"kind": "Outputs", **stored}
    (tmp_path / "program").write_bytes(dump_tensors("program", tensors, content))
    with pytest.raises(ValueError, match=words):
        pyrel.Explainer.load(tmp_path / "program")


def test_a_file_of_samples_gets_outputs_of_the_models_shape(tmp_path: Path) -> None:
    from pyrel.explain_file import explain_file

    x = samples(4, 6).numpy()
    np.save(tmp_path / "x.npy", x)
    explainer = tagger("lrp_epsilon", True)
    lengths, target = np.array([6, 3, 6, 2]), np.array([[5, 1], [2, 0], [0, 4], [1, 1]])
    explain_file(explainer, tmp_path / "x.npy", tmp_path / "r.npz", target=target, lengths=lengths)
    e = explainer(x, target, lengths=lengths)
    with np.load(tmp_path / "r.npz") as found:
        for name in ("relevance", "output", "target", "absorbed"):
            np.testing.assert_array_equal(found[name], getattr(e, name))
    with pytest.raises(ValueError, match="no single one is the predicted class"):
        explain_file(explainer, tmp_path / "x.npy", tmp_path / "r.npz")
    each: Any = "each step"
    with pytest.raises(ValueError, match="target: 'each step' is for a call of an explainer"):
        explain_file(explainer, tmp_path / "x.npy", tmp_path / "r.npz", target=each)


def test_targets_as_in_captum() -> None:
    explainer, x = tagger(), samples(3, 6)
    for target in ((2, 1), [(2, 1), (0, 0), (5, 4)]):
        index = target if isinstance(target, tuple) else np.array(target)
        assert torch.equal(explainer.attribute(x, target=target), explainer(x, index).relevance)
    with pytest.raises(ValueError, match=r"^target: wanted an index of 2 dimensions, as \(0, 0\)"):
        explainer.attribute(x, target=[(1,)] * 3)


# Regression


def test_of_several_numbers_none_is_predicted(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), torch.rand(5, 3)
    explainer = pyrel.Explainer(model, x, "gradient", task="regression")
    explainer.save(tmp_path / "program")
    for each in (explainer, pyrel.Explainer.load(tmp_path / "program")):
        assert "3 outputs, regression" in repr(each)
        with pytest.raises(ValueError, match=r"^target: with task='regression' the model's 3 outp"):
            each(x)
        assert torch.equal(each(x, 2).relevance, pyrel.explain(model, x, "gradient", 2).relevance)
        assert each.forward(x).shape == (5, 3)
    with pytest.raises(ValueError, match=r"^target: with task='regression'"):
        pyrel.explain(model, x, "gradient", task="regression")
    assert pyrel.explain(model, x, "gradient").target.shape == (5,)


def test_a_single_number_is_explained_without_a_target() -> None:
    model, x = nn.Linear(3, 1), torch.rand(5, 3)
    for scores in (model, nn.Sequential(model, nn.Flatten(0))):
        e = pyrel.explain(scores, x, "gradient", task="regression")
        torch.testing.assert_close(e.relevance, model.weight.detach().expand(5, 3))


def test_a_task_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^task: wanted 'classification' or 'regression', got"):
        pyrel.Explainer(nn.Linear(3, 1), torch.rand(5, 3), "gradient", task="ranking")


# Each step


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("method", ["lrp_epsilon", "gradient"])
def test_each_step_is_that_step_alone(options: dict[str, Any], method: str) -> None:
    explainer, x = tagger(method, True, **options), samples(3, 5)
    e = explainer(x, "each step")
    by_step = e.output.transpose(1, 2) if options.get("last") == "steps" else e.output
    tags = by_step.argmax(2)
    assert e.relevance.shape == (3, tags.shape[1], 5, FEATURES)
    for t in range(tags.shape[1]):
        step = torch.full((3,), t)
        index = (tags[:, t], step) if options.get("last") == "steps" else (step, tags[:, t])
        alone = explainer(x, index)
        assert torch.equal(e.output, alone.output)
        for field in ("relevance", "target", "absorbed", "amplification"):
            assert torch.equal(getattr(e, field)[:, t], getattr(alone, field))
        np.testing.assert_array_equal(e.conservation[:, t], alone.conservation)  # or both are NaN


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_each_step_of_sequences_ends_where_they_do(options: dict[str, Any]) -> None:
    explainer, x, lengths = tagger("lrp_epsilon", True, **options), samples(4, 7), [7, 4, 5, 4]
    e = explainer(x, "each step", lengths=lengths)
    assert torch.equal(e.output, explainer.forward(x, lengths=lengths))
    for number, length in enumerate(lengths):
        alone = explainer(x[number : number + 1, :length], "each step")
        steps = alone.relevance.shape[1]
        assert steps == length - options.get("cut", 0)
        assert torch.equal(e.relevance[number, :steps, :length], alone.relevance[0])
        assert not e.relevance[number, steps:].any()
        assert not e.relevance[number, :, length:].any()
        assert torch.equal(e.target[number, :steps], alone.target[0])
        assert torch.equal(e.absorbed[number, :steps], alone.absorbed[0])
        assert not e.absorbed[number, steps:].any()


def test_each_step_in_parts_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, x = tagger("lrp_epsilon"), samples(3, 6)
    wanted = explainer(x, "each step")
    held, explained = [], each_step.Run.explain

    def counted(self: Any, values: Any, targets: Any, *rest: Any) -> None:
        held.append(len(values))
        explained(self, values, targets, *rest)

    monkeypatch.setattr(each_step.Run, "explain", counted)
    monkeypatch.setattr(each_step, "_BYTES", 4 * (2 * 6 * FEATURES + 6 * CLASSES) * 5)
    told: list[tuple[int, int]] = []
    out = torch.full((3, 6, 6, FEATURES), np.nan)
    e = explainer(x, "each step", out=out, progress=lambda *done: told.append(done))
    assert held == [3, 5, 5, 5, 3]  # all forward, then at most five at once
    assert e.relevance is out
    assert torch.equal(out, wanted.relevance)
    assert torch.equal(e.target, wanted.target)
    assert told == [(5, 18), (10, 18), (15, 18), (18, 18)]
    with pytest.raises(ValueError, match=r"^out: wanted float32 of shape \(3, 6, 6, 3\)"):
        explainer(x, "each step", out=torch.zeros(3, 6, FEATURES))


def test_each_step_of_other_models() -> None:
    x = samples(3, 4)
    e = pyrel.explain(loop(), x.numpy(), "gradient", "each step")
    assert isinstance(e.relevance, np.ndarray)
    assert (e.relevance.shape, e.target.shape) == ((3, 4, 4, FEATURES), (3, 4, 2))
    for t in range(4):
        alone = pyrel.explain(loop(), x.numpy(), "gradient", tuple(e.target[:, t].T))
        np.testing.assert_array_equal(e.relevance[:, t], alone.relevance)
        assert not e.relevance[:, t, t + 1 :].any()
    e = pyrel.explain(scores_of_each_step(), x, "gradient", "each step", task="regression")
    assert e.target.tolist() == [[0, 1, 2, 3]] * 3
    assert pyrel.explain(scores_of_each_step(), x[:0], "gradient", "each step").relevance.shape == (
        *(0, 4, 4),
        FEATURES,
    )


def test_each_step_of_tokens_and_of_changed_copies() -> None:
    class Words(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, FEATURES)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.words(x))

    x = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(0))
    told: list[tuple[int, int]] = []
    explainer = pyrel.Explainer(Words(), x, "integrated_gradients", n_steps=3)
    e = explainer(x, "each step", progress=lambda *done: told.append(done))
    assert told[-1] == (2 * 5 * 4, 2 * 5 * 4)
    for t in range(5):
        alone = explainer(x, (t, e.target[:, t, 1]))
        assert torch.equal(e.relevance[:, t], alone.relevance)
        assert torch.equal(e.conservation[:, t], alone.conservation)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ([nn.Linear(12, 4)], r"the model's are \(n, 4\)$"),
        ([nn.Linear(12, 16), nn.Unflatten(1, (4, 4))], r"the model's are \(n, 4, 4\)$"),
        ([nn.Linear(12, 10), nn.Unflatten(1, (2, 5))], r"the model's are \(n, 2, 5\)$"),
    ],
)
def test_outputs_without_known_steps_are_refused(head: list[nn.Module], words: str) -> None:
    explainer = pyrel.Explainer(nn.Sequential(nn.Flatten(), *head), samples(2, 4), "gradient")
    with pytest.raises(ValueError, match=rf"^target: 'each step' is for .*{words}"):
        explainer(samples(2, 4), "each step")


def test_outputs_that_do_not_follow_the_steps_are_none_of_them() -> None:
    class Horizons(Tagger):
        """Scores (n, 5, 1), whatever the number of steps."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, -1][..., None]

    explainer, x = pyrel.Explainer(Horizons(), samples(2, 5), "gradient"), samples(2, 5)
    assert explainer(x, (4, 0)).output.shape == (2, CLASSES, 1)
    with pytest.raises(ValueError, match=r"^target: 'each step' .* \(n, 5, 1\)$"):
        explainer(x, "each step")


def test_no_class_is_predicted_at_a_step_of_several_numbers() -> None:
    explainer = pyrel.Explainer(captured(), samples(2, 4), "gradient", task="regression")
    with pytest.raises(ValueError, match="the 5 outputs of a step are numbers of their own"):
        explainer(samples(2, 4), "each step")


def test_a_step_with_much_relevance_of_both_signs_is_warned_of() -> None:
    class Cancelling(nn.Module):
        """A score near zero of large parts, but at the first step."""

        weight = torch.tensor([1e7, 1e7, 1.0])

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1, :1], (x @ self.weight)[:, 1:, None]], dim=1)

    x = torch.tensor([[[1.0, -1.0, 1.0]] * 3])
    with heard() as said:
        e = pyrel.Explainer(Cancelling(), x, "lrp_epsilon", check=None)(x, "each step")
    assert e.amplification[0, 0] < 2
    assert e.amplification[0, 1] > 1e6
    assert "the relevance on the way to x[0] is" in said[0]
