# SPDX-License-Identifier: Apache-2.0
"""Which tensor of what a model returns is explained."""

from __future__ import annotations

import dataclasses
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from engine.logs import heard
from torch import Tensor, nn

import pyrel
from pyrel.engine import captures as kept_captures

X = torch.linspace(-1, 1, 45).sin().reshape(3, 5, 3)


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclasses.dataclass
class Result:
    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


class Reader(nn.Module):
    """Returns scores and hidden states in a structure that ``made`` makes."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)
        self.made = made

    def forward(self, x: Tensor) -> Any:
        hidden, _ = self.lstm(x)
        return self.made(self.out(hidden[:, -1]), hidden)


def the_scores(scores: Tensor, _hidden: Tensor) -> Tensor:
    return scores


def a_dictionary(scores: Tensor, hidden: Tensor) -> dict[str, Any]:
    return {"logits": scores, "hidden": hidden, "heads": (scores, scores[:, :1])}


def first_of_heads(out: Any) -> Tensor:
    head: Tensor = out["heads"][0]
    return head


CHOSEN: list[tuple[Callable[..., Any], Any]] = [
    (a_dictionary, "logits"),
    (a_dictionary, first_of_heads),
    (lambda scores, hidden: (hidden, scores), 1),
    (lambda scores, hidden: [hidden, scores], -1),
    (lambda scores, hidden: (scores, hidden), np.int64(0)),
    (Named, "logits"),
    (Named, 0),
    (Result, "logits"),
    (Result, lambda out: out.logits),
]


@functools.cache
def reader(made: Callable[[Tensor, Tensor], Any]) -> Reader:
    """Return a model that no test changes, so that it is captured once for each output."""
    return Reader(made)


@functools.cache
def of_the_scores(method: str) -> pyrel.Explainer:
    return pyrel.Explainer(reader(the_scores), X, method)


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
@pytest.mark.parametrize("number", range(len(CHOSEN)))
def test_a_chosen_output_is_explained_as_if_it_were_the_only_one(number: int, method: str) -> None:
    made, output = CHOSEN[number]
    explainer = pyrel.Explainer(reader(made), X, method, output=output)
    alone = of_the_scores(method)
    assert explainer.checked == alone.checked
    assert explainer.any_steps
    for x in (X, X[:, :2], X[:, :1]):
        e, wanted = explainer(x), alone(x)
        assert torch.equal(e.relevance, wanted.relevance)
        assert torch.equal(e.output, wanted.output)


def test_a_function_may_compute() -> None:
    model = Reader(a_dictionary).eval()
    explainer = pyrel.Explainer(
        model, X, "gradient", output=lambda out: out["logits"][:, 0] - out["logits"][:, 1]
    )
    assert "gradients on 2 inputs" in explainer.checked
    scores = model(X)["logits"].detach()
    torch.testing.assert_close(
        explainer.forward(X), (scores[:, 0] - scores[:, 1])[:, None], rtol=1e-5, atol=1e-6
    )


def test_hooks_of_the_model_see_all_that_it_returns() -> None:
    model, seen = Reader(a_dictionary), list[type]()
    model.register_forward_hook(lambda _module, _given, returned: seen.append(type(returned)))
    hooks = dict(model._forward_hooks)
    pyrel.Explainer(model, X, "gradient", output="logits", autograd="ignore")
    assert dict(model._forward_hooks) == hooks
    assert model.training


def test_other_threads_get_all_that_the_model_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, export = Reader(a_dictionary).eval(), torch.export.export
    found: list[Any] = []

    def meanwhile(*args: Any, **options: Any) -> Any:
        other = threading.Thread(target=lambda: found.append(model(X)))
        other.start()
        other.join()
        return export(*args, **options)

    monkeypatch.setattr(torch.export, "export", meanwhile)
    pyrel.Explainer(model, X, "gradient", output="logits")
    assert found
    assert all(isinstance(returned, dict) for returned in found)


LISTED = (
    r"returns a dict of 'logits' \(tensor with 2 dimensions\), "
    r"'hidden' \(tensor with 3 dimensions\), 'heads' \(a tuple of 2\)"
)


@pytest.mark.parametrize(
    ("made", "output", "words"),
    [
        (a_dictionary, "nope", rf"^output: got 'nope', but forward {LISTED}"),
        (a_dictionary, 0, rf"^output: got 0, but forward {LISTED}"),
        (a_dictionary, "heads", rf"^output: wanted one tensor, but 'heads' is a tuple .* {LISTED}"),
        (a_dictionary, lambda out: out.logits, rf"raises AttributeError: .* {LISTED}"),
        (a_dictionary, lambda out: out, rf"the function returned a dict .* {LISTED}"),
        (lambda s, h: (s, h), 2, r"got 2, but forward returns a tuple of 0 \(.*\), 1 \(.*\)$"),
        (lambda s, h: (s, h), -3, r"^output: got -3, but forward returns a tuple of 0"),
        (lambda s, h: (s, None), 1, r"^output: wanted one tensor, but 1 is None"),
        (Result, "loss", "^output: wanted one tensor, but 'loss' is None"),
        (Result, "logit", r"got 'logit', but forward returns a Result of 'logits' .*'loss' \(None"),
        (the_scores, 0, "forward returns one tensor with 2 dimensions, .*; leave output out"),
    ],
)
@pytest.mark.parametrize("call", [pyrel.Explainer, pyrel.explain])
def test_what_is_not_there_is_refused_with_what_is(
    call: Any, made: Any, output: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        call(Reader(made), X, "gradient", output=output)


@pytest.mark.parametrize("made", [a_dictionary, Named, Result, lambda s, h: (s, h)])
def test_several_values_are_refused_with_what_chooses_one(made: Any) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="output= chooses one of these") as found:
        pyrel.Explainer(Reader(made), X, "gradient")
    assert "(tensor with 2 dimensions)" in str(found.value)
    assert found.value.operator == "output"


@pytest.mark.parametrize("output", [True, 1.5, ("logits",), torch.zeros(2)])
def test_what_chooses_nothing_is_refused(output: Any) -> None:
    for call in (pyrel.Explainer, pyrel.explain):
        with pytest.raises(TypeError, match="^output: wanted a key, an index, or a function"):
            call(Reader(a_dictionary), X, "gradient", output=output)
    with pytest.raises(TypeError, match="^output: wanted a key"):
        pyrel.capture(Reader(a_dictionary), X, output=output)


def test_a_graph_is_that_of_the_chosen_output() -> None:
    graph = pyrel.capture(Reader(a_dictionary), X, output="logits")
    e = pyrel.Explainer(graph, X, method="gradient")(X)
    assert torch.equal(e.output, of_the_scores("gradient")(X).output)
    with pytest.raises(TypeError, match=r"^output: .* give it to pyrel\.capture"):
        pyrel.Explainer(graph, X, "gradient", output="logits")


@pytest.mark.filterwarnings("ignore:.*were assigned during export")
def test_an_exported_program_has_outputs_to_choose_from() -> None:
    open_batch = ({0: torch.export.Dim.DYNAMIC},)
    model = Reader(a_dictionary).eval()
    program = torch.export.export(model, (X,), dynamic_shapes=open_batch, strict=False)
    wanted = of_the_scores("gradient")(X)
    for output in ("logits", first_of_heads):
        explainer = pyrel.Explainer(program, method="gradient", output=output)
        assert "outputs and gradients on" in explainer.checked
        torch.testing.assert_close(explainer(X).relevance, wanted.relevance)
    with pytest.raises(ValueError, match=rf"^output: got 'no', but forward {LISTED}"):
        pyrel.Explainer(program, method="gradient", output="no")
    with pytest.raises(ValueError, match=r"^output: of an exported program a function can only"):
        pyrel.Explainer(program, method="gradient", output=lambda out: 2 * out["logits"])
    with pytest.raises(pyrel.UnsupportedModelError, match=LISTED):
        pyrel.Explainer(program, method="gradient")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which outputs are captured, one entry each time."""
    found: list[Any] = []
    capture = kept_captures.capture_in_short

    def counted(*args: Any, **options: Any) -> Any:
        found.append(options["output"])
        return capture(*args, **options)

    monkeypatch.setattr(kept_captures, "capture_in_short", counted)
    return found


def part(number: int) -> Callable[[Any], Tensor]:
    def of_logits(out: Any) -> Tensor:
        scores: Tensor = out["logits"][:, number : number + 1]
        return scores

    return of_logits


def test_captures_are_kept_for_each_output(captures: list[Any]) -> None:
    model = Reader(a_dictionary).eval()
    scores = model(X)["logits"].detach()
    for _ in range(2):
        whole = pyrel.explain(model, X, "gradient", output="logits")
        torch.testing.assert_close(whole.output, scores, rtol=1e-5, atol=1e-6)
        for number in (0, 1):
            e = pyrel.explain(model, X, "gradient", output=part(number))
            torch.testing.assert_close(
                e.output, scores[:, number : number + 1], rtol=1e-5, atol=1e-6
            )
    assert len(captures) == 3
    with torch.no_grad():
        model.out.bias += 1
    e = pyrel.explain(model, X, "gradient", output="logits")
    torch.testing.assert_close(e.output, scores + 1, rtol=1e-5, atol=1e-6)
    assert len(kept_captures._every(model)) == 1  # those of the model before are gone


def test_a_function_that_changes_is_captured_anew(captures: list[Any]) -> None:
    model, settings = Reader(a_dictionary).eval(), {"factor": 1.0}

    def scaled(out: Any) -> Tensor:
        scores: Tensor = settings["factor"] * out["logits"]
        return scores

    scores = model(X)["logits"].detach()
    for factor in (1.0, 3.0):
        settings["factor"] = factor
        e = pyrel.explain(model, X, "gradient", output=scaled)
        torch.testing.assert_close(e.output, factor * scores, rtol=1e-5, atol=1e-6)
    assert len(captures) == 2


def test_a_function_that_may_change_unseen_compiles_anew(
    captures: list[Any],
) -> None:
    model, generator = Reader(a_dictionary).eval(), (number for number in (0, 1))

    def drawn(out: Any) -> Tensor:
        scores: Tensor = out["logits"] if generator is not None else out["hidden"]
        return scores

    with heard() as said:
        for _ in range(2):
            e = pyrel.explain(model, X, "gradient", output=drawn)
            assert e.output.shape == (3, 2)
    assert "".join(said).count("generator is of type generator") == 1
    assert kept_captures.of(model) is None


def test_a_function_that_holds_the_model_does_not_keep_it_alive() -> None:
    model = Reader(a_dictionary)
    pyrel.explain(
        model, X, "gradient", output=lambda out, model=model: model.out(out["hidden"][:, 0])
    )
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
