# SPDX-License-Identifier: Apache-2.0
"""Whether a model does for one sample, and for one step, what it does for two and for three.

For torch.export an open size is at least two, so a program says nothing of a size of one: a branch
may ask for it, and a squeeze drops it. A model that runs the same operators for sizes of one, two
and three, with whole numbers that grow evenly with the size, does not treat one in a way of its
own. The program may do so all the same: of ``n // 2 if n > 1 else 1`` it keeps the first part. So
its operators have to grow evenly over one, two and three, too: for two and three they are those of
the model, so they are for one. All that takes a few milliseconds; where it does not show, the model
is exported for a size of one.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from pyrel.compiler.capture.eager_trace import RETURNED, Step, eager_trace, program_trace
from pyrel.compiler.capture.examples import Sample
from pyrel.compiler.capture.isolation import quiet
from pyrel.compiler.capture.model_state import ModelState
from pyrel.compiler.capture.opaque_layers import opaque_layers
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.sizes import first_input, fixed, guards_hold, hint_of, holds_for

_LOGGER = logging.getLogger("pyrel")

_SIZES = 1, 2, 3
# Multiplications of a run, and elements of what a model holds, up to which runs take less time
# than an export.
_MOST_WORK, _MOST_HELD = 1 << 24, 1 << 22

Sizes: TypeAlias = tuple[int, int | None]  # of the batch, and of the steps if not those there are


class SmallSizes:
    """The operators that a model runs for a few small sizes of the batch and numbers of steps.

    Parameters
    ----------
    model : nn.Module
    sample : Sample
        Of the inputs of the model.
    program : ExportedProgram
        Of the model, with the batch size that ``sample`` is exported with.
    """

    def __init__(self, model: torch.nn.Module, sample: Sample, program: ExportedProgram) -> None:
        self._model, self._sample, self._program = model, sample, program
        self._traces: dict[Sizes, list[Step]] = {}

    def one_sample_is_alike(self) -> bool:
        """Whether a batch of one is treated as larger ones are, for the steps of the sample."""
        return self._are_alike([[(n, None) for n in _SIZES]])

    def one_step_is_alike(self) -> bool:
        """Whether the program, which leaves their number open, holds for one step too."""
        if not guards_hold(self._program, 1):
            return False
        if not all(holds_for(self._program, steps) for steps in _SIZES[1:]):
            return False
        rows = [[(batch, steps) for steps in _SIZES] for batch in _SIZES[1:]]
        return self._are_alike([*rows, [(batch, 1) for batch in _SIZES]])

    def _are_alike(self, rows: Sequence[Sequence[Sizes]]) -> bool:
        """Whether traces of the model and of the program grow evenly over each row of sizes."""
        if not _is_little(self._model, self._program):
            return False
        try:
            state = ModelState(self._model, values=True)
            with quiet():
                return all(
                    _grow_evenly([self._trace(*sizes, state) for sizes in row])
                    and (not self._takes(row) or _grow_evenly([self._run(*sizes) for sizes in row]))
                    for row in rows
                )
        except Exception as error:  # of whatever type the model raises for so small a size
            _LOGGER.debug("%s: exported for a size of one: %s", type(self._model).__name__, error)
            return False

    def _trace(self, batch: int, steps: int | None, state: ModelState) -> list[Step]:
        if (batch, steps) not in self._traces:
            sample = self._sample if steps is None else _with_steps(self._sample, steps)
            with opaque_layers(), torch.random.fork_rng():
                self._traces[batch, steps] = eager_trace(
                    self._model, sample, batch, state=state, of_sizes=True
                )
        return self._traces[batch, steps]

    def _takes(self, row: Sequence[Sizes]) -> bool:
        """Whether the program can be run for all sizes, as that of a fixed batch cannot."""
        given = fixed(first_input(self._program).shape[0])
        return given is None or all(batch == given for batch, _ in row)

    def _run(self, batch: int, steps: int | None) -> list[Step]:
        """Record the operators of the program, whatever sizes it was exported for."""
        sample = self._sample if steps is None else _with_steps(self._sample, steps)
        given = sample.of(batch)
        positional, named = sample.arguments(given)
        inputs = iter(_tensors((positional, named)))
        signature = self._program.graph_signature
        operands = [
            next(inputs) if spec.kind == InputKind.USER_INPUT else self._held[str(spec.target)]
            for spec in signature.input_specs
        ]
        kinds = [spec.kind for spec in signature.output_specs]
        output = kinds.index(OutputKind.USER_OUTPUT)
        with torch.random.fork_rng():
            return program_trace(self._program.graph_module, operands, given, output)

    @cached_property
    def _held(self) -> dict[str, torch.Tensor]:
        """Copies of what the program holds, by name: the program may write into them."""
        held = {**self._program.constants, **self._program.state_dict}
        return {name: each.detach().clone() for name, each in held.items()}


def _tensors(values: Any) -> list[torch.Tensor]:
    found, _ = torch.utils._pytree.tree_flatten(values)
    return [each for each in found if isinstance(each, torch.Tensor)]


def _with_steps(sample: Sample, steps: int) -> Sample:
    """Return zeros of another number of steps."""
    tensors = (
        each.new_zeros(each.shape[0], steps, *each.shape[2:]) if sample.follows(number) else each
        for number, each in enumerate(sample.tensors)
    )
    return replace(sample, tensors=tuple(tensors))


def _grow_evenly(traces: Sequence[Sequence[Step]]) -> bool:
    """Whether traces of sizes that follow each other are the same, but for evenly growing numbers.

    The last step of each has to be the tensor that the model returns.
    """
    if len({len(trace) for trace in traces}) > 1 or not _returns(traces[0]):
        return False
    return all(map(_are_even, *traces))


def _returns(trace: Sequence[Step]) -> bool:
    code = trace[-1].code
    return isinstance(code, tuple) and code[0] == RETURNED


def _are_even(one: Step, two: Step, three: Step) -> bool:
    for step in (two, three):
        if (step.code, step.operands, step.kind) != (one.code, one.operands, one.kind):
            return False
        if (len(step.numbers), step.sizes) != (len(one.numbers), one.sizes):
            return False
    numbers = zip(one.numbers, two.numbers, three.numbers, strict=True)
    return all(b - a == c - b for a, b, c in numbers)


def _is_little(model: torch.nn.Module, program: ExportedProgram) -> bool:
    """Whether running a model takes little time and memory beside exporting it."""
    held = sum(each.numel() for each in itertools.chain(model.parameters(), model.buffers()))
    if held > _MOST_HELD:
        return False
    given = set(program.graph_signature.user_inputs)
    weights = {n for n in program.graph.nodes if n.op == "placeholder" and n.name not in given}
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    if any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in nodes):
        return False  # what is in it would be compiled
    try:
        return sum(_work(node, weights) for node in nodes) <= _MOST_WORK
    except Exception:  # a size that the values decide
        return False


def _work(node: torch.fx.Node, weights: set[torch.fx.Node]) -> int:
    """Count the multiplications of an operator, one for each element if it reads no weight."""
    read = [operand.meta["val"] for operand in node.all_input_nodes if operand in weights]
    times = sum(each.numel() // max(1, each.shape[0]) for each in read if each.dim())
    results = [each for each in leaves(node.meta.get("val")) if isinstance(each, torch.Tensor)]
    return sum(max(1, times) * math.prod(map(hint_of, each.shape)) for each in results)
