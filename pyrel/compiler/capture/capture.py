# SPDX-License-Identifier: Apache-2.0
"""Captures a torch model as a `Graph`, for one number of steps or for any."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

import torch
from torch.export import ExportedProgram

from pyrel.compiler.capture.array_kinds import refuse_unreadable_weight
from pyrel.compiler.capture.calls import Call, read_call
from pyrel.compiler.capture.examples import Given, refuse_empty, unwrapped, wrong_example
from pyrel.compiler.capture.export import export, export_one_step, export_shortened
from pyrel.compiler.capture.forks import one_thread_if_forked
from pyrel.compiler.capture.functional import functional
from pyrel.compiler.capture.interpreter import (
    OneSampleError,
    input_shape,
    interpret,
    open_output_shape,
    steps_of,
)
from pyrel.compiler.capture.leftovers import nothing_kept
from pyrel.compiler.capture.longest import refuse_longest, unpacks
from pyrel.compiler.capture.outputs import Output, checked_output, choosing
from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.capture.refusals import depends_on_batch, is_unknown, refuse_parts
from pyrel.compiler.capture.sizes import (
    first_input,
    fixed,
    hint_of,
    holds_for,
    inputs_of,
    opened,
)
from pyrel.compiler.capture.step_causes import Causes
from pyrel.compiler.capture.step_growth import irregular_growth, span
from pyrel.compiler.graph.layout import Layout
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.graph.rewrites import agree, compact, places
from pyrel.compiler.passes.gradient_stops import simplified
from pyrel.compiler.passes.merge_sums import Merged
from pyrel.errors import UnsupportedModelError
from pyrel.methods.options import flag

# Graphs that are kept for the next method, and the addresses that they may read.
_MOST_KEPT, _LARGEST_KEPT = 8, 1 << 20


def capture(
    model: torch.nn.Module | ExportedProgram,
    example: Given | None = None,
    *,
    lengths: bool = False,
    output: Output = None,
) -> Graph:
    """Capture what a model computes, for any batch size.

    Weights are copied: later changes to the model do not show. The model is exported in eval mode
    and left as it was.

    Parameters
    ----------
    model : torch.nn.Module or torch.export.ExportedProgram
        Takes tensors, batch first, and returns raw scores (n, classes) or (n,); with ``output`` it
        may return a structure that holds them.
    example : ndarray or Tensor, shape (n, ...), or tuple or dict of such
        Any input of the right shape, of any batch size, zero included; its values do not matter.
        Whole numbers are token ids. Several inputs as `pyrel.Explainer` takes them. Not needed for
        an exported program.
    lengths : bool
        The model's second argument, if it takes one, is the lengths of the sequences, integers
        (n,). The graph is that of sequences which are as long as the input.
    output : str, int or callable, optional
        Which tensor of what forward returns is explained; see `pyrel.Explainer`.

    Returns
    -------
    Graph

    Raises
    ------
    UnsupportedModelError
        If the model branches on data, mixes the samples of a batch, changes its buffers, or uses
        an operator that pyrel does not know.
    TypeError, ValueError
        If the example is no array or tensor, has no batch dimension, or is of floats where the
        model takes integers, or the other way round; if forward returns no such ``output``.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = pyrel.capture(model, torch.rand(5, 3))
    >>> explainers = [pyrel.Explainer(graph, method=name) for name in ("gradient", "lrp_epsilon")]
    """
    with one_thread_if_forked(), nothing_kept():
        output = checked_output(output)
        return _exported(model, example, flag("lengths", lengths), False, output).graph()


def capture_at(
    model: torch.nn.Module | ExportedProgram,
    example: Given | None = None,
    *,
    lengths: bool = False,
    at_once: bool = False,
    output: Output = None,
) -> Capture:
    """Export a model, so that its graph can be made for other numbers of steps than the example's.

    See `capture` for what it takes and raises. ``at_once`` says that the graph is used before the
    model changes, where there is one number of steps only; then its weights are not copied.

    Returns
    -------
    Capture
    """
    with one_thread_if_forked(), nothing_kept():
        capture = _exported(model, example, lengths, at_once, output)
        if capture.dynamic and isinstance(model, torch.nn.Module) and example is not None:
            # An open size is two or more for torch.export. A model may well not take one step.
            try:
                with choosing(unwrapped(model), output):
                    given = model, example, lengths, capture.call, capture._programs[0]
                    single = export_one_step(*given)
                capture.add_one_step([functional(program) for program in single])
            except UnsupportedModelError as error:
                capture.refuse_one_step(str(error).partition("\n")[0])
        return capture


def _exported(
    model: torch.nn.Module | ExportedProgram,
    example: Given | None,
    lengths: bool,
    at_once: bool,
    output: Output = None,
) -> Capture:
    if isinstance(model, ExportedProgram):
        return Capture([functional(model)], lengths, at_once=at_once, output=output)
    if not isinstance(model, torch.nn.Module):
        wanted = "a torch.nn.Module, a torch.export.ExportedProgram or a pyrel Graph"
        raise TypeError(f"model: wanted {wanted}, got {type(model).__name__}")
    if example is None:
        raise TypeError("example: wanted an input of the model, to capture it with; got None")
    refuse_parts(unwrapped(model))
    refuse_empty(model)
    causes = Causes()
    try:
        with choosing(unwrapped(model), output):
            programs = [functional(program) for program in export(model, example, lengths, causes)]
    except UnsupportedModelError as error:
        wrong = wrong_example(model, example, lengths)
        if wrong is None or (isinstance(wrong, UnsupportedModelError) and not is_unknown(error)):
            raise
        raise wrong from wrong.__cause__
    call, steps = opened(read_call(unwrapped(model), example, lengths), example, programs[0])
    made = Capture(programs, lengths, steps, causes, at_once=at_once, call=call)
    ids = not all(value.is_floating_point() for value in inputs_of(programs[0]))
    if ids and made.steps > 1 and any(map(unpacks, programs)):
        with choosing(unwrapped(model), output):
            shorter = export_shortened(model, example)
        made.compare_longest(None if shorter is None else functional(shorter))
    return made


class Capture:
    """An exported model, of which graphs can be made.

    Attributes
    ----------
    steps : int
        Size of the second dimension of the example: the number of steps of a sequence. 0 if the
        example has no second dimension.
    dynamic : bool
        Whether graphs can be made for other numbers of steps: not where the model holds for the
        example's only, as with a Python loop over the steps.
    call : Call or None
        How the model is called with several inputs.
    """

    def __init__(
        self,
        programs: Sequence[ExportedProgram],
        lengths: bool,
        steps: int | None = None,
        causes: Causes | None = None,
        *,
        at_once: bool = False,
        output: Output = None,
        call: Call | None = None,
    ) -> None:
        self._programs, self.call = programs, call
        self._lengths, self._output = lengths, output
        self._causes = causes
        self._one_step: Sequence[ExportedProgram] = ()
        self._no_single_step: str | None = None
        self._shortened: ExportedProgram | None = None
        self._kept: dict[int, Graph] = {}  # by number of steps; they are the same for all methods
        self._merged: Merged = {}  # weights that these graphs share
        self._batch_checked = False
        size = steps_of(programs[0], lengths, self.layout)
        self.dynamic = fixed(size) is None
        self._weights = Weights(copied=self.dynamic or not at_once)
        self._copy_weights(programs)
        self.steps = steps if steps is not None else hint_of(size)

    def _copy_weights(self, programs: Sequence[ExportedProgram]) -> None:
        """Keep weights as they are now, for graphs that are made later."""
        for program in programs:
            for name, stored in (*program.state_dict.items(), *program.constants.items()):
                if isinstance(stored, torch.Tensor):
                    refuse_unreadable_weight(name, stored)
                    self._weights.copy(stored)

    @property
    def called_with_lengths(self) -> bool:
        """Whether the model's second argument is the lengths of the sequences."""
        return len(self._programs[0].graph_signature.user_inputs) > self._count

    @property
    def layout(self) -> Layout | None:
        """The layout of several inputs."""
        return None if self.call is None else self.call.layout

    @property
    def _count(self) -> int:
        return 1 if self.layout is None else len(self.layout.leaves)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample's output; None for sizes that follow the number of steps."""
        return open_output_shape(self._programs[0], self._output)

    def add_one_step(self, programs: Sequence[ExportedProgram]) -> None:
        """Let graphs be made for one step, by programs that hold for that only."""
        self._one_step = programs
        self._copy_weights(programs)

    def compare_longest(self, program: ExportedProgram | None) -> None:
        """Compare the first graph that is made with that of a batch without a sequence as long.

        None where the model does not take such batches.
        """
        self._shortened = program
        if program is not None:
            self._copy_weights([program])

    def _check_longest(self, graph: Graph, steps: int) -> None:
        if self._shortened is None or steps < 2 or not self._can_compare(self._shortened, steps):
            return
        pairs = list(self._with_shorter(self._shortened, graph, steps))
        if pairs:
            refuse_longest(pairs)
        self._shortened = None

    def _with_shorter(
        self, shortened: ExportedProgram, graph: Graph, steps: int
    ) -> Iterator[tuple[Graph, Graph]]:
        """Graphs, for few steps too, beside those of batches without a sequence as long."""
        few = [n for n in (2, 3, 4) if n < steps and self.dynamic and self.holds(n)]
        for number in (steps, *(n for n in few if self._can_compare(shortened, n))):
            # Its lengths may be constant, or it takes no such batches.
            with contextlib.suppress(UnsupportedModelError):
                shorter = self._interpreted(shortened, number, 3)
                whole = graph if number == steps else self._graph_of(self._programs[0], number)
                yield compact(whole), compact(shorter)

    def refuse_one_step(self, because: str) -> None:
        """Let no graph be made for one step."""
        self._no_single_step = because

    def holds(self, steps: int) -> bool:
        """Whether a graph can be made for a number of steps.

        Besides being dynamic, a model may need a certain number: three for a convolution without
        padding, an even one where it takes them in pairs, or another if it has a branch on it.
        """
        if steps == self.steps:
            return True
        if steps == 1 and self.dynamic:
            return bool(self._one_step)
        return self.dynamic and holds_for(self._programs[0], steps)

    @functools.cached_property
    def fixed_because(self) -> str | None:
        """The operation that fixes the number of steps to that of the example, with its place.

        None if the model takes any, or has none.
        """
        if self.dynamic or not self.steps:
            return None
        if self._causes is None:
            return f"the program was exported for {self.steps} steps"
        return self._causes.fixing(self.steps) or "torch.export does not say what fixes the number"

    def refused_because(self, steps: int) -> str | None:
        """Say what in the model does not take a number of steps, where that is known."""
        if not self.dynamic:
            return self.fixed_because
        if steps == 1 and self._no_single_step is not None:
            return self._no_single_step
        if self._causes is None:
            return None
        return self._causes.refusing(first_input(self._programs[0]).shape[1], steps)

    @functools.cached_property
    def irregular_growth(self) -> str | None:
        """Why behaviour at a few sequence lengths does not extend to all; None if it does."""
        if not self.dynamic:
            return "it takes one number of steps only"
        return irregular_growth(self._programs[0], self._count)

    @property
    def grows_regularly(self) -> bool:
        """True if behaviour checked at a few sequence lengths provably extends to all lengths."""
        return self.irregular_growth is None

    def span(self) -> tuple[int, int | None] | None:
        """Find the fewest and the most steps that graphs can be made for; None if there are gaps.

        The most is None if there is no most.
        """
        found = span(self._programs[0]) if self.dynamic else (self.steps, self.steps)
        if found is not None and found[0] == 2 and self.holds(1):
            return 1, found[1]
        return found

    def graph(self, steps: int | None = None) -> Graph:
        """Make the graph for a number of steps, by default the example's.

        Raises
        ------
        ValueError
            If the model does not hold for that number of steps.
        UnsupportedModelError
            See `capture`.
        """
        steps = self.steps if steps is None else steps
        if not self.holds(steps):
            because = self.refused_because(steps)
            why = f" ({because})" if because else ""
            raise ValueError(
                f"steps: the model was captured with {self.steps} steps, and may compute something"
                f" else with {steps}{why}; capture it with an example of {steps} steps"
            )
        if steps in self._kept:
            return self._kept[steps]
        graph = simplified(self._checked(steps), self._merged)
        if len(self._kept) < _MOST_KEPT and places(graph) <= _LARGEST_KEPT:
            self._kept[steps] = graph
        return graph

    def _checked(self, steps: int) -> Graph:
        """Make the graph for a number of steps, and check that it is that of any batch size.

        A model that grows regularly with the steps is checked at the first number of them only.
        """
        single = steps == 1 and self.dynamic
        if self._batch_checked and not single:
            with one_thread_if_forked():
                return self._graph_of(self._programs[0], steps)
        first, *others = self._one_step if single else self._programs
        others = [each for each in others if self._can_compare(each, steps)]
        graphs: list[Graph] = []
        for program in (first, *others):
            with contextlib.suppress(OneSampleError), one_thread_if_forked():
                graphs += [self._graph_of(program, steps, size) for size in self._sizes(program)]
        if not all(agree(graphs[0], graph) for graph in graphs[1:]):
            raise depends_on_batch(self._causes.batch if self._causes is not None else None)
        self._check_longest(graphs[0], steps)
        if not single and self._shortened is None and self.grows_regularly:
            self._batch_checked = len(others) + 1 == len(self._programs)
        return graphs[0]

    def _can_compare(self, program: ExportedProgram, steps: int) -> bool:
        return steps == self.steps or holds_for(program, steps)

    def _sizes(self, program: ExportedProgram) -> Sequence[int]:
        """Sizes of the batch to compare a program with: two if its own is not fixed."""
        size = fixed(input_shape(program, self._lengths, self.layout)[0])
        return (2, 3) if size is None else (size,)

    def _graph_of(self, program: ExportedProgram, steps: int, batch: int | None = None) -> Graph:
        """Graph of a program, for a size of the batch or the first of `_sizes`."""
        batch = self._sizes(program)[0] if batch is None else batch
        if batch == 1 and program is self._programs[0]:
            raise UnsupportedModelError(
                "the program was exported for a batch of one; export it with a dynamic batch",
                operator="torch.export",
            )
        given = steps if self.steps else None
        return self._interpreted(program, given, batch)

    def _interpreted(self, program: ExportedProgram, steps: int | None, batch: int) -> Graph:
        given = self._lengths, self._output, self.layout
        return interpret(program, self._weights, batch, steps, *given)
