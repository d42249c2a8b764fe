# SPDX-License-Identifier: Apache-2.0
"""From a model and what a user says of its inputs to programs that can be run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.export import ExportedProgram

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.forks import exporting
from pyrel.compiler.capture.long_loops import LoopCapture, capture_in_short
from pyrel.compiler.capture.outputs import Output
from pyrel.compiler.graph.layout import Layout
from pyrel.compiler.graph.lookups import told_apart
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.limits import LARGEST_EXACT
from pyrel.compiler.program.generalise import TRIED, NoPatternError
from pyrel.engine import arrays, captures
from pyrel.engine.arrays import Int64s
from pyrel.engine.compile import Compiler, compile_graph
from pyrel.engine.graph_reference import GraphReference
from pyrel.engine.inputs import Inputs
from pyrel.engine.loops import compile_loop, shape_of_outputs
from pyrel.engine.model_reference import ModelReference, Reference
from pyrel.engine.model_run import ModelRun
from pyrel.engine.outputs import CLASSIFICATION, FOLLOWS, REGRESSION, Outputs
from pyrel.engine.plans.choose import goes_back_again
from pyrel.engine.programs import Source
from pyrel.engine.several import SeveralInputs, check_names, part_of, several
from pyrel.errors import UnsupportedModelError
from pyrel.methods import Method

_LOGGER = logging.getLogger("pyrel")


class Captured(NamedTuple):
    """A module that has been captured, as it is now, and which of its outputs."""

    capture: Capture
    module: torch.nn.Module
    output: Output


Model: TypeAlias = torch.nn.Module | ExportedProgram | Graph | Capture | Captured


@dataclass(frozen=True, eq=False)
class Wanted:
    """The user's settings: range and lengths of inputs, the checks of values, and the task."""

    low: Any
    high: Any
    lengths: bool
    check_finite: bool
    out_of_range: str
    task: str
    constant: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """Programs, the inputs that they take, and a token id that the model tells from others."""

    inputs: Inputs
    compiled: Source
    padding: int | None


class _Sample(NamedTuple):
    """Shape of one sample, the bounds of its token ids, and the id of padding."""

    shape: tuple[int, ...]
    vocabulary: int
    bounds: Int64s | None
    padding: int | None
    layout: Layout | None = None


def captured(model: Any, example: Any, lengths: bool, output: Output) -> Graph | Capture:
    """Capture a model that is not captured yet, one at a time."""
    if isinstance(model, Captured):
        return model.capture
    if isinstance(model, Graph | Capture):
        if output is not None:
            raise TypeError(
                "output: what is captured has one output already; give it to pyrel.capture"
            )
        return model
    if isinstance(model, torch.nn.Module) and example is not None:
        return captures.captured(model, example, lengths, output)
    with exporting:  # torch.export is not safe to run in several threads
        given = model, example, TRIED
        return capture_in_short(*given, lengths=lengths, at_once=True, output=output)


def prepare(
    source: Graph | Capture, example: Any, method: Method, precision: str, wanted: Wanted
) -> Prepared:
    """Compile what was captured, for any number of steps where the model takes that.

    Raises
    ------
    UnsupportedModelError
        If the method has no rule for something in the model, or the model does not take lengths.
    ValueError, TypeError
        If a range makes no sense with the model.
    """
    capture = source if isinstance(source, Capture) else None
    dynamic = capture is not None and capture.dynamic
    if capture is not None and dynamic:
        sample = _sample_of_any_steps(capture, example)
        if sample is not None:
            inputs = _inputs(sample, wanted, True)
            outputs = Outputs(wanted.task, _shape_at_any_steps(capture))
            compiler = Compiler(capture, method, inputs, precision, outputs)
            return Prepared(inputs, compiler, sample.padding)
    if isinstance(capture, LoopCapture):
        rolled = _of_few_steps(capture, method, precision, wanted)
        if rolled is not None:
            return rolled
    graph = source if isinstance(source, Graph) else source.graph(_steps(source, example))
    because = capture.fixed_because if capture is not None else ""
    if dynamic:
        because = "token ids have other bounds at some steps than at others"
    own = graph.input_shape, graph.vocabulary, graph.bounds, _padding(graph), graph.layout
    sample = _Sample(*own)
    inputs = _inputs(sample, wanted, False, because or "")
    outputs = Outputs(wanted.task, graph.output_shape)
    keep = outputs.have_steps(graph.output_shape, inputs.steps) and goes_back_again(method)
    given = inputs.held(graph), method, inputs.domain(inputs.steps), precision
    compiled = compile_graph(*given, moves_ids=inputs.moves_ids, keep_forward=keep, may_cut=True)
    if inputs.only:
        _LOGGER.info("%s takes %s", method, inputs.only)
    return Prepared(inputs, replace(compiled, outputs=outputs), sample.padding)


def _of_few_steps(
    capture: LoopCapture, method: Method, precision: str, wanted: Wanted
) -> Prepared | None:
    """Compile a loop as its first steps are; None where these follow no pattern."""
    if not capture.few:
        return None
    graph = capture.few[max(capture.few)]
    if any(each.bounds is not None for each in capture.few.values()):
        return None
    shape = capture.steps, *graph.input_shape[1:]
    sample = _Sample(shape, graph.vocabulary, None, _padding(graph))
    inputs = _inputs(sample, wanted, False, capture.fixed_because or "")
    try:
        outputs = Outputs(wanted.task, shape_of_outputs(capture))
        compiled = compile_loop(capture, method, precision, inputs, outputs)
    except (NoPatternError, UnsupportedModelError) as reason:
        _LOGGER.warning(
            "%s: a loop is exported in full, some 0.1 s for each step: %s", method, reason
        )
        return None
    if inputs.only:
        _LOGGER.info("%s takes %s", method, inputs.only)
    return Prepared(inputs, compiled, sample.padding)


def reference_of(
    model: Model, source: Graph | Capture, ids: bool, output: Output = None
) -> Reference:
    """Return what a program is compared with: the model, or where there is none, its graph."""
    if isinstance(model, Captured):
        output = model.output
        model = model.module
    if isinstance(model, torch.nn.Module | ExportedProgram):
        assert isinstance(source, Capture)
        return ModelReference(ModelRun(model, source.called_with_lengths, output, source.call), ids)
    return GraphReference(source)


def check_task(task: Any) -> str:
    """Return a task; ValueError if it is none."""
    if task not in (CLASSIFICATION, REGRESSION):
        raise ValueError(f"task: wanted {CLASSIFICATION!r} or {REGRESSION!r}, got {task!r}")
    return str(task)


def _shape_at_any_steps(capture: Capture) -> tuple[int, ...]:
    """Return the shape of the outputs as `Outputs` has it, of a model for any number of steps."""
    shape = tuple(FOLLOWS if size is None else size for size in capture.output_shape)
    if shape.count(FOLLOWS) > 1:
        raise UnsupportedModelError(
            f"{shape.count(FOLLOWS)} dimensions of it follow the number of steps, and an explainer "
            "for any number of them takes one. For a single number, give "
            "Explainer(pyrel.capture(model, example), ...)",
            operator="output",
        )
    return shape if len(shape) > 1 or FOLLOWS in shape else ()


def _steps(source: Capture, example: Any) -> int:
    """Return the number of steps of the example, where the capture takes any number."""
    shape: tuple[int, ...] = tuple(getattr(example, "shape", ()))
    if source.layout is not None and example is not None:
        return source.layout.steps_of(example)
    return shape[1] if source.dynamic and len(shape) > 1 else source.steps


def _padding(graph: Graph) -> int | None:
    """Return a token id that the model tells from others, as that of padding."""
    return next(iter(told_apart(graph.nodes)), None)


def _sample_of_any_steps(source: Capture, example: Any) -> _Sample | None:
    """Return what a sample with the steps of the example is, and one with others likewise.

    A step that no table reads, as the last where the next token is predicted, counts as the others.
    None where others differ, as in (n, columns): no number of them says what another would take.
    """
    steps = _steps(source, example)
    few = next((n for n in TRIED if n < steps and source.holds(n)), steps)  # that takes less time
    graph = source.graph(few)
    shape = (steps, *graph.input_shape[1:])
    padding = _padding(graph)
    if graph.layout is not None:
        return _several_of_any_steps(graph, graph.layout.at(steps), padding)
    if graph.bounds is None:
        return _Sample(shape, graph.vocabulary, None, padding)
    bounds = _alike_at_all_steps(graph.bounds)
    if bounds is None:
        return None
    uniform = bool((bounds == graph.vocabulary).all())
    own = None if uniform else np.broadcast_to(bounds, shape).copy()
    return _Sample(shape, graph.vocabulary, own, padding)


def _several_of_any_steps(graph: Graph, layout: Layout, padding: int | None) -> _Sample | None:
    """Return what rows with other steps than those of a graph are; None as above."""
    assert graph.layout is not None
    bounds: list[Int64s] = []
    for leaf, other, own in zip(
        graph.layout.leaves, layout.leaves, graph.layout.split(_bounds_of(graph)), strict=True
    ):
        alike = _alike_at_all_steps(own) if leaf.steps else own
        if alike is None:
            return None
        bounds.append(np.broadcast_to(alike, other.shape).reshape(-1))
    return _Sample((layout.size,), graph.vocabulary, np.concatenate(bounds), padding, layout)


def _bounds_of(graph: Graph) -> Int64s:
    """Return of how many ids each element is one; 0 where nothing reads it, or of floats."""
    if graph.bounds is not None:
        return graph.bounds
    return np.full(graph.input_shape, graph.vocabulary)


def _alike_at_all_steps(bounds: Int64s) -> Int64s | None:
    """Return the bounds of one step, if all steps have these or none."""
    highest = bounds.max(axis=0, keepdims=True)
    return highest if ((bounds == highest) | (bounds == 0)).all() else None


def _inputs(sample: _Sample, wanted: Wanted, any_steps: bool, because: str = "") -> Inputs:
    """Describe what is taken, and refuse a range or lengths that make no sense with the model."""
    shape, vocabulary, own, _, layout = sample
    low, high, lengths = wanted.low, wanted.high, wanted.lengths
    if wanted.constant and layout is None:
        raise ValueError(
            f"constant: {wanted.constant[0]!r} is no input; the model has one, and no names of "
            "several"
        )
    if vocabulary and layout is None and (low is not None or high is not None):
        raise ValueError(
            "low, high: the model takes token ids, whose range is that of its table; leave them out"
        )
    if vocabulary > LARGEST_EXACT:
        raise UnsupportedModelError(
            f"its table has {vocabulary:,} rows; the engine takes token ids below "
            f"{LARGEST_EXACT:,}",
            operator="embedding",
        )
    inputs: Inputs
    if layout is not None:
        inputs = _several(layout, sample, wanted, any_steps, because)
    else:
        low, high = arrays.bounds(low, high, shape) or (None, None)
        inputs = Inputs(
            *(shape, low, high, vocabulary, any_steps, lengths, wanted.check_finite, because, own),
            out_of_range=wanted.out_of_range,
        )
    inputs.check_out_of_range()
    if lengths and not any_steps:
        why = f" (what fixes their number: {because})" if because else ""
        raise UnsupportedModelError(
            f"lengths=True is for models that take any number of steps; this one takes {inputs} "
            f"only{why}. A Python loop over the steps fixes their number, recurrent layers such as "
            "nn.LSTM leave it open; an exported program needs a dynamic second dimension",
            operator="lengths",
        )
    if lengths and not inputs.same_at_all_steps:
        raise ValueError("low, high: with lengths=True they have to be the same for all steps")
    return inputs


def _several(
    layout: Layout, sample: _Sample, wanted: Wanted, any_steps: bool, because: str
) -> SeveralInputs:
    """Describe several inputs."""
    check_names("constant", wanted.constant, layout)
    own = np.zeros(layout.size, np.int64)
    if sample.bounds is not None:
        own = sample.bounds.reshape(-1)
    elif sample.vocabulary:
        own[:] = sample.vocabulary
    parts = [
        part_of(leaf, bounds) for leaf, bounds in zip(layout.leaves, layout.split(own), strict=True)
    ]
    return several(
        layout,
        parts,
        wanted.low,
        wanted.high,
        wanted.constant,
        any_steps=any_steps,
        lengths=wanted.lengths,
        check_finite=wanted.check_finite,
        fixed_because=because,
        out_of_range=wanted.out_of_range,
    )
