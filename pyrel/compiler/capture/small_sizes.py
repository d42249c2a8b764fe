# SPDX-License-Identifier: Apache-2.0
"""Whether a model does for one sample, and for one step, what it does for two and for three.

For torch.export an open size is at least two, so a program says nothing of a size of one: a branch
may ask for it, and a squeeze drops it. A model that runs the same operators for sizes of one, two
and three, with whole numbers that grow evenly with the size, does not treat one in a way of its
own. The program may do so all the same: of ``n // 2 if n > 1 else 1`` it keeps the first part. So
it is run for sizes of one, too, and has to give what the model gives. All that takes a few
milliseconds; where it does not show, the model is exported for a size of one.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from pyrel.compiler.capture.as_eager import as_eager
from pyrel.compiler.capture.eager_trace import RETURNED, Step, eager_trace
from pyrel.compiler.capture.examples import Sample
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.model_state import ModelState
from pyrel.compiler.capture.opaque_layers import opaque_layers
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.refusals import no_draws
from pyrel.compiler.capture.sizes import first_input, guards_hold, hint_of, holds_for

_LOGGER = logging.getLogger("pyrel")

_SIZES = 1, 2, 3
# Multiplications of a run, and elements of what a model holds, up to which runs take less time
# than an export.
_MOST_WORK, _MOST_HELD = 1 << 24, 1 << 22
# By what part of the largest output the same operators may differ, run as a program.
_ROUNDING = 1e-4

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
        return self._are_alike([[(n, None) for n in _SIZES]], [(1, None)])

    def one_step_is_alike(self) -> bool:
        """Whether the program, which leaves their number open, holds for one step too."""
        if not guards_hold(self._program, 1):
            return False
        if not all(holds_for(self._program, steps) for steps in _SIZES[1:]):
            return False
        rows = [[(2, steps) for steps in _SIZES], [(n, 1) for n in _SIZES]]
        return self._are_alike(rows, [(2, 1), (1, 1)])

    def _are_alike(self, rows: Sequence[Sequence[Sizes]], ones: Sequence[Sizes]) -> bool:
        """Whether traces of each row of sizes grow evenly, and the program holds for ``ones``."""
        if not _is_little(self._model, self._program):
            return False
        try:
            state = ModelState(self._model, values=True)
            with quiet():
                traces = ([self._trace(*sizes, state) for sizes in row] for row in rows)
                if not all(map(_grow_evenly, traces)):
                    return False
                return all(self._gives(*sizes, state) for sizes in ones if self._takes(sizes[0]))
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

    def _takes(self, batch: int) -> bool:
        """Whether the program can be run for a batch; one of a fixed size has no other numbers."""
        given = first_input(self._program).shape[0]
        return not isinstance(given, int) or given == batch

    def _gives(self, batch: int, steps: int | None, state: ModelState) -> bool:
        """Whether the program gives what the model gives, for other numbers than zeros."""
        sample = self._sample if steps is None else _with_steps(self._sample, steps)
        given = _random(sample.of(batch))
        positional, named = sample.arguments(given)
        # What a forward pass leaves behind, as gradients that it turned off, is put back.
        with torch.random.fork_rng(), torch.set_grad_enabled(torch.is_grad_enabled()):
            with as_it_was(self._model, values=True, state=state), as_eager(), no_draws():
                wanted = self._model(*positional, **named)
            return _are_close(_run(self._program, positional, named), _tensors(wanted))


def _random(given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return numbers from −1 to 1 for floats; token ids, masks and lengths stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.empty(each.shape, dtype=each.dtype).uniform_(-1, 1, generator=generator).to(each)
        if each.is_floating_point()
        else each
        for each in given
    )


def _run(program: ExportedProgram, positional: Any, named: Any) -> list[torch.Tensor]:
    """Run the operators of a program, whatever sizes it was exported for."""
    held = {**program.constants, **program.state_dict}
    given = iter(_tensors((positional, named)))
    values = [
        next(given)
        if spec.kind == InputKind.USER_INPUT
        else held[str(spec.target)].detach().clone()
        for spec in program.graph_signature.input_specs
    ]
    results = torch.fx.Interpreter(program.graph_module).run(*values)
    specs = program.graph_signature.output_specs
    pairs = zip(specs, results, strict=True)
    return [each for spec, each in pairs if spec.kind == OutputKind.USER_OUTPUT]


def _tensors(values: Any) -> list[torch.Tensor]:
    found, _ = torch.utils._pytree.tree_flatten(values)
    return [each for each in found if isinstance(each, torch.Tensor)]


def _are_close(found: Sequence[Any], wanted: Sequence[torch.Tensor]) -> bool:
    if len(found) != len(wanted):
        return False
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape:
            return False
        sizes = other.detach().double().abs().nan_to_num(posinf=0.0)
        largest = float(sizes.max()) if sizes.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=_ROUNDING * largest, equal_nan=True):
            return False
    return True


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
