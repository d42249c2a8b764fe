# SPDX-License-Identifier: Apache-2.0
"""From a torch model to a `Graph`: walk the exported program, refuse what is unknown."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from pyrel import operators
from pyrel.errors import UnsupportedModelError
from pyrel.exporting import Example, export, quiet
from pyrel.graph import Graph, same_graph
from pyrel.simplify import simplify
from pyrel.tracing import MixedSamplesError, Traced, Tracer


def capture(model: torch.nn.Module | ExportedProgram, example: Example | None = None) -> Graph:
    """Capture what a model computes, for any batch size.

    Weights are copied: later changes to the model do not show. The model is exported in eval mode
    and left as it was.

    Parameters
    ----------
    model : torch.nn.Module or torch.export.ExportedProgram
        Takes one tensor, batch first, and returns raw scores (n, classes) or (n,).
    example : ndarray or Tensor, shape (n, ...)
        Any input of the right shape, of any batch size, zero included; its values do not matter.
        Not needed for an exported program.

    Returns
    -------
    Graph

    Raises
    ------
    UnsupportedModelError
        If the model branches on data, mixes the samples of a batch, changes its buffers, or uses
        an operator that pyrel does not know.
    TypeError, ValueError
        If the example is no array or tensor of floats with a batch dimension.
    """
    if isinstance(model, ExportedProgram):
        return _agreeing(list(_walk_twice(model)))
    if not isinstance(model, torch.nn.Module):
        wanted = "a torch.nn.Module, a torch.export.ExportedProgram or a pyrel Graph"
        raise TypeError(f"model: wanted {wanted}, got {type(model).__name__}")
    if example is None:
        raise TypeError("example: wanted an input of the model, to capture it with; got None")
    first, *others = export(model, example)
    graphs = _walk_twice(first)
    for program in others:
        with contextlib.suppress(_OneSampleError):
            graphs.append(_walk(program))
    return _agreeing(graphs)


class _OneSampleError(UnsupportedModelError):
    """A model treats a batch of one in a way of its own, as a squeeze does."""


def _walk_twice(exported: ExportedProgram) -> list[Graph]:
    """Walk a program with batches of two sizes, if its own is not fixed."""
    exported = _functional(exported)
    shape = _input_node(exported).meta["val"].shape
    if isinstance(shape[0], int):
        if shape[0] < 2:
            raise UnsupportedModelError(
                "the program was exported for a batch of one; export it with a dynamic batch",
                operator="torch.export",
            )
        return [_Walker(exported, shape[0]).run()]
    return [_Walker(exported, batch).run() for batch in (2, 3)]


def _walk(exported: ExportedProgram) -> Graph:
    """Walk a program of fixed batch size."""
    exported = _functional(exported)
    batch = int(_input_node(exported).meta["val"].shape[0])
    try:
        return _Walker(exported, batch).run()
    except UnsupportedModelError as error:
        if batch == 1:
            raise _OneSampleError(str(error), operator=error.operator) from None
        raise


def _agreeing(graphs: list[Graph]) -> Graph:
    if not all(same_graph(graphs[0], graph) for graph in graphs[1:]):
        raise UnsupportedModelError(
            "what it computes for a sample depends on the size of the batch",
            operator="torch.export",
        )
    return graphs[0]


def _functional(exported: ExportedProgram) -> ExportedProgram:
    if any(_mutates(node) for node in exported.graph.nodes):
        with quiet():
            exported = exported.run_decompositions({})  # in-place operators become functional ones
    if exported.graph_signature.buffers_to_mutate:
        names = ", ".join(sorted(exported.graph_signature.buffers_to_mutate.values()))
        raise UnsupportedModelError(
            f"the model changes its buffers while it runs ({names})", operator="buffer mutation"
        )
    return exported


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _input_node(exported: ExportedProgram) -> torch.fx.Node:
    names = exported.graph_signature.user_inputs
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    nodes: list[torch.fx.Node] = [n for n in placeholders if n.name in names]
    if len(nodes) != 1 or len(names) != 1:
        raise UnsupportedModelError(
            f"the model takes {len(names)} inputs; pyrel explains models of one", operator="input"
        )
    return nodes[0]


class _Walker:
    def __init__(self, exported: ExportedProgram, batch: int) -> None:
        self._exported = exported
        self._values: dict[torch.fx.Node, Any] = {}
        value = _input_node(exported).meta["val"]
        self._tracer = Tracer(tuple(int(s) for s in value.shape[1:]), batch, value.dtype)

    def run(self) -> Graph:
        self._bind_placeholders()
        for node in self._exported.graph.nodes:
            if node.op == "call_function":
                self._values[node] = self._call(node)
            elif node.op not in {"placeholder", "output"}:
                raise UnsupportedModelError(
                    "cannot be walked", operator=node.op, module=_path(node)
                )
        return simplify(self._graph())

    def _bind_placeholders(self) -> None:
        specs = self._exported.graph_signature.input_specs
        placeholders = [n for n in self._exported.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self._values[node] = self._tracer.input()
                continue
            stored = self._exported.state_dict.get(str(spec.target))
            if stored is None:
                stored = self._exported.constants.get(str(spec.target))
            if not isinstance(stored, torch.Tensor):
                raise UnsupportedModelError(f"{spec.target} is no tensor", operator=str(spec.kind))
            self._values[node] = stored.detach().cpu()

    def _graph(self) -> Graph:
        every = next(n for n in self._exported.graph.nodes if n.op == "output").args[0]
        specs = self._exported.graph_signature.output_specs
        # In-place operators on the input add what they leave there to the outputs.
        returned = [
            value
            for value, spec in zip(every, specs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        spec = self._exported.call_spec.out_spec
        if len(returned) != 1 or (spec is not None and not spec.is_leaf()):
            raise UnsupportedModelError(
                "the model returns several values, or a tuple or dictionary; one tensor is wanted",
                operator="output",
            )
        node = returned[0]
        output = self._values[node] if isinstance(node, torch.fx.Node) else node
        if not isinstance(output, Traced):
            raise UnsupportedModelError(
                "the output does not depend on the input", operator="output"
            )
        shape = tuple(output.ids.shape)
        if len(shape) not in {1, 2} or shape[0] != self._tracer.batch:
            wanted = "raw scores of shape (n, classes) or (n,)"
            raise UnsupportedModelError(
                f"wanted {wanted}, got shape (n, ...) = {shape} for n = {self._tracer.batch}",
                operator="output",
            )
        try:
            graph = self._tracer.graph(output)
        except MixedSamplesError:
            raise self._mixed("output", "") from None
        if (graph.outputs < 0).any():
            raise UnsupportedModelError("some outputs are constants", operator="output")
        return graph

    def _call(self, node: torch.fx.Node) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        # The model may live on a GPU; its graph is walked on the CPU.
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.device, lambda _: torch.device("cpu"), (args, kwargs)
        )
        traced = any(isinstance(v, Traced) for v in torch.utils._pytree.tree_leaves((args, kwargs)))
        if not isinstance(node.target, torch._ops.OpOverload):
            assert callable(node.target)  # it is a call_function node
            if traced and node.target is not operator.getitem:
                raise self._unsupported(node, node.target.__name__)
            return node.target(*args, **kwargs)
        name = node.target._schema.name.split("::")[1]
        if not traced and not _undefined(node.target, name):
            return node.target(*args, **kwargs)
        self._tracer.module = _path(node)
        return self._apply(node, name, args, kwargs)

    def _apply(self, node: torch.fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        try:
            result = operators.apply(self._tracer, node.target, name, args, kwargs)
        except MixedSamplesError:
            raise self._mixed(f"aten.{name}", _path(node)) from None
        except operators.UnsupportedOperandsError as error:
            raise self._unsupported(node, f"aten.{name}", str(error)) from None
        if result is NotImplemented:
            raise self._unsupported(node, f"aten.{name}", operators.hint(name))
        self._check_dtypes(node, name, result)
        # A traced operand has no dtype of its own: constants made like it take the exported one.
        return result.to(node.meta["val"].dtype) if isinstance(result, torch.Tensor) else result

    def _check_dtypes(self, node: torch.fx.Node, name: str, result: Any) -> None:
        """Refuse a value that is rounded on the way: relevance would be of another function."""
        results = torch.utils._pytree.tree_leaves(result)
        exact = {self._tracer.dtype, torch.float32, torch.float64}
        for value, meta in zip(
            results, torch.utils._pytree.tree_leaves(node.meta["val"]), strict=True
        ):
            if isinstance(value, Traced) and meta.dtype not in exact:
                reason = f"the value is rounded to {meta.dtype}"
                raise self._unsupported(node, f"aten.{name}", reason)

    @staticmethod
    def _unsupported(
        node: torch.fx.Node, name: str, reason: str = operators.NO_RULE
    ) -> UnsupportedModelError:
        supported = operators.supported()
        return UnsupportedModelError(reason, operator=name, module=_path(node), supported=supported)

    @staticmethod
    def _mixed(name: str, module: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            "it mixes the samples of a batch, or does not treat them alike; is the batch the first"
            " dimension?",
            operator=name,
            module=module,
        )


def _undefined(target: torch._ops.OpOverload, name: str) -> bool:
    """Whether an operator's result is random, or whatever was in memory."""
    return torch.Tag.nondeterministic_seeded in target.tags or name in operators.UNINITIALISED


def _path(node: torch.fx.Node) -> str:
    """Path of the innermost module that a node of the exported graph belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
