# SPDX-License-Identifier: Apache-2.0
"""Interprets an exported program, operator by operator, with a batch and a number of steps."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from pyrel.compiler.capture import operators
from pyrel.compiler.capture.batch_dimension import is_batch_first, moved
from pyrel.compiler.capture.gradient_marks import under_no_grad
from pyrel.compiler.capture.id_numbers import InexactCountError
from pyrel.compiler.capture.node_checks import check_dtypes, name_of, unsupported, unwritten
from pyrel.compiler.capture.operators.nested import leaves, mapped
from pyrel.compiler.capture.operators.operands import NoValue
from pyrel.compiler.capture.outputs import Output, chosen_of_program
from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.capture.places import Place, path_of, place_of_node
from pyrel.compiler.capture.refusals import mixed
from pyrel.compiler.capture.samples import MixedSamplesError
from pyrel.compiler.capture.sizes import fixed
from pyrel.compiler.capture.traced import Traced, TruthValues, UnwrittenError
from pyrel.compiler.capture.tracer import Tracer, truth_values
from pyrel.compiler.graph.layout import Kind, Layout
from pyrel.compiler.graph.lookups import UnboundedIdsError
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.limits import LARGEST_EXACT
from pyrel.errors import UnsupportedModelError


class OneSampleError(UnsupportedModelError):
    """A model treats a batch of one in a way of its own, as a squeeze does."""


def input_shape(
    exported: ExportedProgram, lengths: bool, layout: Layout | None = None
) -> tuple[int | torch.SymInt, ...]:
    """Shape of the first input of a program, batch first."""
    return tuple(_inputs(exported, lengths, layout)[0].meta["val"].shape)


def steps_of(exported: ExportedProgram, lengths: bool, layout: Layout | None) -> int | torch.SymInt:
    """Return the number of steps of the inputs of a program; 0 where there is no sequence."""
    shape = input_shape(exported, lengths, layout)
    is_sequence = len(shape) > 1 if layout is None else bool(layout.steps)
    return shape[1] if is_sequence else 0


def _inputs(
    exported: ExportedProgram, lengths: bool, layout: Layout | None = None
) -> list[torch.fx.Node]:
    """Return the inputs in the order of a layout, one where there is none, then the lengths."""
    names = exported.graph_signature.user_inputs
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    nodes = [n for n in placeholders if n.name in names]
    count = 1 if layout is None else len(layout.leaves)
    most = count + lengths
    if len(nodes) < count or len(nodes) != len(names) or len(nodes) > most:
        beside = ", and the lengths of its sequences" if lengths else " (or two, with lengths=True)"
        raise UnsupportedModelError(
            f"the program takes {len(names)} inputs; wanted one{beside}. Of several inputs give "
            "the module that it was exported from",
            operator="input",
        )
    for node in nodes:
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor) or not value.dim():
            raise UnsupportedModelError(
                "the model takes a number; wanted a tensor of shape (n, ...), batch first",
                operator="input",
            )
    return nodes


def _returned(exported: ExportedProgram, output: Output) -> Any:
    """Return the node of the value that is explained."""
    every = next(n for n in exported.graph.nodes if n.op == "output").args[0]
    specs = exported.graph_signature.output_specs
    # In-place operators on the input add what they leave there to the outputs.
    returned = [
        value
        for value, spec in zip(every, specs, strict=True)
        if spec.kind == OutputKind.USER_OUTPUT
    ]
    return chosen_of_program(exported.call_spec.out_spec, returned, output)


def open_output_shape(exported: ExportedProgram, output: Output) -> tuple[int | None, ...]:
    """Shape of one sample's output; None for sizes that are not fixed."""
    return tuple(fixed(size) for size in _returned(exported, output).meta["val"].shape[1:])


def interpret(
    exported: ExportedProgram,
    weights: Weights,
    batch: int,
    steps: int | None,
    lengths: bool,
    output: Output = None,
    layout: Layout | None = None,
) -> Graph:
    """Make the graph of a functional program.

    Parameters
    ----------
    exported : ExportedProgram
    weights : Weights
        Shared by all graphs of one model.
    batch : int
        Size of the batch; the program's own, if that is fixed.
    steps : int or None
        Size of the second dimension of the input; None for the program's own.
    lengths : bool
        Whether the program may have a second input, the lengths of the sequences: all are as long
        as the input.
    output : str, int, callable or None
        Which of the tensors that the program returns is the model's output.
    layout : Layout, optional
        Of several inputs.
    """
    try:
        return _Interpreter(exported, weights, batch, steps, lengths, output, layout).run()
    except UnsupportedModelError as error:
        if batch == 1:
            raise OneSampleError(str(error), operator=error.operator) from None
        raise


class _Interpreter:
    def __init__(
        self,
        exported: ExportedProgram,
        weights: Weights,
        batch: int,
        steps: int | None,
        lengths: bool,
        output: Output,
        layout: Layout | None,
    ) -> None:
        self._exported, self._output = exported, output
        self._weights = weights
        self._values: dict[torch.fx.Node, Any] = {}
        self._inputs = _inputs(exported, lengths, layout)
        self._layout = layout
        value = self._inputs[0].meta["val"]
        if layout is None:
            shape = list(value.shape[1:])
            if steps is not None:
                shape[0] = steps
            self._steps = int(shape[0]) if shape else 0
            self._tracer = Tracer(tuple(int(s) for s in shape), batch, value.dtype, weights)
            return
        self._layout = layout = layout if steps is None else layout.at(steps)
        self._steps = layout.steps
        types = [node.meta["val"].dtype for node in self._inputs]
        dtype = next((each for each in types if each.is_floating_point), value.dtype)
        self._tracer = Tracer((layout.size,), batch, dtype, weights, ~layout.is_float)

    def run(self) -> Graph:
        self._bind_placeholders()
        for node in self._exported.graph.nodes:
            if node.op == "call_function":
                self._values[node] = self._called(node)
            elif node.op not in {"placeholder", "output"}:
                raise UnsupportedModelError(
                    "cannot be interpreted", operator=node.op, module=path_of(node)
                )
        return self._graph()

    def _bind_placeholders(self) -> None:
        given = self._given()
        self._values |= dict(zip(self._inputs, given, strict=False))
        for node in self._inputs[len(given) :]:
            dtype = node.meta["val"].dtype
            self._values[node] = torch.full((self._tracer.batch,), self._steps, dtype=dtype)
        specs = self._exported.graph_signature.input_specs
        placeholders = [n for n in self._exported.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                continue
            stored = self._exported.state_dict.get(str(spec.target))
            if stored is None:
                stored = self._exported.constants.get(str(spec.target))
            if not isinstance(stored, torch.Tensor):
                raise UnsupportedModelError(f"{spec.target} is no tensor", operator=str(spec.kind))
            self._values[node] = self._weights.copy(stored)

    def _given(self) -> list[Traced]:
        """Trace the inputs, without lengths."""
        whole = self._tracer.input()
        if self._layout is None:
            return [whole]
        parts = [Traced(ids) for ids in self._layout.split(whole.ids)]
        leaves = self._layout.leaves
        return [
            truth_values(self._tracer, part) if leaf.elements == Kind.masks else part
            for leaf, part in zip(leaves, parts, strict=True)
        ]

    def _graph(self) -> Graph:
        """Make the graph of what was computed, with the output that the program returns."""
        node = _returned(self._exported, self._output)
        output = self._values[node] if isinstance(node, torch.fx.Node) else node
        if not isinstance(output, Traced):
            is_value = isinstance(output, NoValue)
            reason = f"is {output.what}" if is_value else "does not depend on the input"
            raise UnsupportedModelError(f"the output {reason}", operator="output")
        if isinstance(node, torch.fx.Node) and node.meta["val"].dtype == torch.bool:
            raise UnsupportedModelError(
                "the outputs are truth values; return the scores that they compare",
                operator="output",
            )
        self._check_shape(node, output)
        graph = replace(self._finished(node, output), layout=self._layout)
        shape = tuple(output.ids.shape[1:])
        return replace(graph, output_shape=shape) if len(shape) > 1 else graph

    def _check_shape(self, node: Any, output: Traced) -> None:
        """Refuse an output that does not hold scores for each sample."""
        batch, shape = self._tracer.batch, tuple(output.ids.shape)
        batch_first = shape[:1] == (batch,) and is_batch_first(node, self._inputs)
        if not batch_first or 0 in shape:
            wrong = f"shape (n, ...) = {shape} for n = {batch}"
            if not batch_first:
                wrong = f"shape {shape} for n = {batch}: {self._instead_of_batch(output)}"
            raise UnsupportedModelError(
                f"wanted raw scores of shape (n, classes), (n,) or (n, T, classes), got {wrong}",
                operator="output",
            )

    def _instead_of_batch(self, output: Traced) -> str:
        """Say of an output whose first dimension is not the batch where that is."""
        first = "its first dimension is not the batch"
        places = [d for d, n in enumerate(output.ids.shape) if n == self._tracer.batch]
        found = [d for d in places if self._tracer.is_batch(output, d)]
        if len(found) != 1:
            return (
                f"{first}, which is probably a bug of the model, such as a view or a sum over "
                "samples"
            )
        call = "transpose(0, 1)" if found[0] == 1 else f"movedim({found[0]}, 0)"
        return (
            f"{first}, but dimension {found[0]} is. output=lambda o: o.{call} puts it first, "
            "where forward returns this tensor alone"
        )

    def _finished(self, node: Any, output: Traced) -> Graph:
        try:
            graph = self._tracer.graph(output)
        except MixedSamplesError:
            assert isinstance(node, torch.fx.Node)
            raise mixed("output", Place(), self._mixed_at(node)) from None
        except UnwrittenError as error:
            raise unwritten(error) from None
        except InexactCountError:
            raise UnsupportedModelError(
                "numbers made of token ids are compared that may be above "
                f"{LARGEST_EXACT}, up to which float32 holds whole numbers. Count the ids, or "
                "compare each of them",
                operator="token ids",
            ) from None
        except UnboundedIdsError as error:
            raise UnsupportedModelError(
                "numbers are made of token ids that no embedding reads, so it is not known how "
                "many ids there are. Give them as floats, or as an input that is embedded; lengths "
                "of sequences by lengths= of an Explainer made with lengths=True",
                operator="token ids",
                module=error.module,
            ) from None
        if (graph.outputs < 0).any():
            raise UnsupportedModelError("some outputs are constants", operator="output")
        return graph

    def _mixed_at(self, node: torch.fx.Node) -> tuple[str, Place] | None:
        """Return the first operator that mixed the samples that a node combines."""
        return moved(self._tracer, node, self._inputs[0], self._values)

    def _called(self, node: torch.fx.Node) -> Any:
        try:
            return self._call(node)
        except UnsupportedModelError:
            raise
        except Exception as error:  # of whatever type torch or NumPy raise
            text = str(error).strip().partition("\n")[0]
            at = place_of_node(node).at
            raise unsupported(
                node,
                name_of(node),
                f"it fails for samples of shape {self._tracer.builder.input_shape}: "
                f"{type(error).__name__}: {text}{f' ({at})' if at else ''}",
            ) from error

    def _call(self, node: torch.fx.Node) -> Any:
        args, kwargs = mapped(self._value, (node.args, node.kwargs))
        traced = any(isinstance(v, Traced | NoValue) for v in leaves((args, kwargs)))
        if not isinstance(node.target, torch._ops.OpOverload):
            assert callable(node.target)  # it is a call_function node
            if str(node.target.__module__).startswith("torch._functorch"):
                raise unsupported(node, "torch.vmap", "call it on whole batches instead")
            if traced and node.target is not operator.getitem:
                raise unsupported(node, node.target.__name__)
            return node.target(*args, **kwargs)
        name = node.target._schema.name.split("::")[1]
        if not traced and not _undefined(node.target, name):
            return self._constant(node, name, args, kwargs)
        self._tracer.builder.module = path_of(node)
        return self._apply(node, name, *_positional(node.target, args, kwargs))

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            value = self._values[argument]
            dtype = getattr(argument.meta.get("val"), "dtype", None)
            is_truth = isinstance(value, Traced) and dtype == torch.bool
            return TruthValues(value.ids) if is_truth else value
        # The model may live on a GPU; its program is interpreted on the CPU.
        return torch.device("cpu") if isinstance(argument, torch.device) else argument

    def _constant(self, node: torch.fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        assert isinstance(node.target, torch._ops.OpOverload)
        try:
            return self._weights.call(node.target, args, kwargs)
        except Exception as error:  # of whatever type torch raises
            reason = f"it fails for an input of {self._steps} steps: {error}"
            raise unsupported(node, f"aten.{name}", reason) from error

    def _apply(self, node: torch.fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        off = under_no_grad(node)
        try:
            if off:
                args, kwargs = self._stopped((args, kwargs))
            dtype = getattr(node.meta.get("val"), "dtype", None)
            result = operators.apply(self._tracer, node.target, name, args, kwargs, dtype)
            if off:
                result = self._stopped(result)
        except MixedSamplesError:
            raise mixed(f"aten.{name}", place_of_node(node), self._mixed_at(node)) from None
        except UnwrittenError as error:
            raise unwritten(error) from None
        except operators.UnsupportedOperandsError as error:
            raise unsupported(node, f"aten.{name}", str(error)) from None
        if result is NotImplemented:
            raise unsupported(node, f"aten.{name}", operators.hint(name))
        check_dtypes(self._tracer, node, name, result)
        if isinstance(result, Traced) and any(map(self._is_partly_unwritten, leaves(args))):
            result = self._as_constant(result)
        # A traced operand has no dtype of its own: constants made like it take the exported one.
        return result.to(node.meta["val"].dtype) if isinstance(result, torch.Tensor) else result

    def _is_partly_unwritten(self, value: Any) -> bool:
        return isinstance(value, Traced) and self._tracer.empty.are_in(value)

    def _as_constant(self, value: Traced) -> Traced | torch.Tensor:
        """Return a tensor that was empty as the constant that was written into it, if it was."""
        unwritten = self._tracer.empty.are_in(value)
        return value if unwritten else self._tracer.constant(value)

    def _stopped(self, values: Any) -> Any:
        """Let no gradient go through the tensors among nested values."""
        return mapped(lambda v: operators.stopped(self._tracer, v), values)


def _positional(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments as far as they can be given by position, so, whichever way they were given."""
    if not kwargs:
        return args, kwargs
    given, named = list(args), dict(kwargs)
    rest = [a for a in target._schema.arguments if not a.kwarg_only][len(given) :]
    while rest and any(argument.name in named for argument in rest):
        argument = rest.pop(0)
        given.append(named.pop(argument.name, argument.default_value))
    return given, named


def _undefined(target: torch._ops.OpOverload, name: str) -> bool:
    """Whether an operator's result is random, or whatever was in memory."""
    return torch.Tag.nondeterministic_seeded in target.tags or name in operators.UNINITIALISED
