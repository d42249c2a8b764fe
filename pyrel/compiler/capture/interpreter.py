# SPDX-License-Identifier: Apache-2.0
"""Walks an exported program, operator by operator, with a batch and a number of steps."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from pyrel.compiler.capture import operators
from pyrel.compiler.capture.blocks import path_of
from pyrel.compiler.capture.explicit_writes import explicit, mutates
from pyrel.compiler.capture.export import quiet
from pyrel.compiler.capture.gradient_marks import function_of, under_no_grad
from pyrel.compiler.capture.operators.nested import leaves, mapped
from pyrel.compiler.capture.operators.operands import NoValue
from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.capture.places import Place, place_of_node
from pyrel.compiler.capture.refusals import mixed
from pyrel.compiler.capture.tracer import (
    InexactCountError,
    Kind,
    MixedSamplesError,
    Traced,
    Tracer,
    UnwrittenError,
)
from pyrel.compiler.graph.lookups import UnboundedIdsError
from pyrel.compiler.graph.nodes import Graph
from pyrel.errors import UnsupportedModelError

_WIDE = {torch.int32, torch.int64}  # of token ids, and of numbers of them
_WHOLE = {*_WIDE, torch.bool}
_WRITTEN = {getattr(OutputKind, "PARAMETER_MUTATION", None)} - {None}


class OneSampleError(UnsupportedModelError):
    """A model treats a batch of one in a way of its own, as a squeeze does."""


def functional(exported: ExportedProgram) -> ExportedProgram:
    """Make in-place operators functional, and refuse a model that changes its buffers."""
    with quiet():
        exported = _without_writes(exported)
    if exported.graph_signature.buffers_to_mutate:
        names = ", ".join(sorted(exported.graph_signature.buffers_to_mutate.values()))
        raise UnsupportedModelError(
            f"the model changes its buffers while it runs ({names}). Batch norm does in training"
            " mode: export a program in eval mode, and call no train() in forward",
            operator="buffer mutation",
        )
    specs = exported.graph_signature.output_specs
    weights = [str(spec.target) for spec in specs if spec.kind in _WRITTEN]
    if weights:
        raise UnsupportedModelError(
            f"the model changes its parameters while it runs ({', '.join(sorted(weights))}): each "
            "call has other ones. Change them before, or compute with a changed copy",
            operator="parameter mutation",
        )
    return exported


def _without_writes(exported: ExportedProgram) -> ExportedProgram:
    try:
        made = explicit(exported)
        if any(map(mutates, made.graph.nodes)):
            made = made.run_decompositions({})
    except UnsupportedModelError:
        raise
    except Exception as error:  # of many types, none of them documented
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnsupportedModelError(
            "forward changes tensors in place in a way that torch.export cannot undo. Make new "
            f"ones; no tensor of the model itself may change: {reason}",
            operator="torch.export",
        ) from error
    return made


def input_shape(exported: ExportedProgram, lengths: bool) -> tuple[int | torch.SymInt, ...]:
    """Shape of the one input of a program, batch first; of the first, if the second is lengths."""
    return tuple(_inputs(exported, lengths)[0].meta["val"].shape)


def _inputs(exported: ExportedProgram, lengths: bool) -> list[torch.fx.Node]:
    names = exported.graph_signature.user_inputs
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder"]
    nodes = [n for n in placeholders if n.name in names]
    most = 2 if lengths else 1
    if not nodes or len(nodes) != len(names) or len(nodes) > most:
        beside = ", and the lengths of its sequences" if lengths else " (or two, with lengths=True)"
        raise UnsupportedModelError(
            f"the model takes {len(names)} inputs; pyrel explains models of one{beside}",
            operator="input",
        )
    value = nodes[0].meta["val"]
    if not isinstance(value, torch.Tensor) or not value.dim():
        raise UnsupportedModelError(
            "the model takes a number; wanted a tensor of shape (n, ...), batch first",
            operator="input",
        )
    return nodes


def walk(
    exported: ExportedProgram, weights: Weights, batch: int, steps: int | None, lengths: bool
) -> Graph:
    """Make the graph of a functional program.

    Parameters
    ----------
    exported : ExportedProgram
    weights : Weights
        Shared by all walks of one model.
    batch : int
        Size of the batch; the program's own, if that is fixed.
    steps : int or None
        Size of the second dimension of the input; None for the program's own.
    lengths : bool
        Whether the program may have a second input, the lengths of the sequences: all are as long
        as the input.
    """
    try:
        return _Walker(exported, weights, batch, steps, lengths).run()
    except UnsupportedModelError as error:
        if batch == 1:
            raise OneSampleError(str(error), operator=error.operator) from None
        raise


class _Walker:
    def __init__(
        self,
        exported: ExportedProgram,
        weights: Weights,
        batch: int,
        steps: int | None,
        lengths: bool,
    ) -> None:
        self._exported = exported
        self._weights = weights
        self._values: dict[torch.fx.Node, Any] = {}
        self._inputs = _inputs(exported, lengths)
        value = self._inputs[0].meta["val"]
        shape = list(value.shape[1:])
        if steps is not None:
            shape[0] = steps
        self._steps = int(shape[0]) if shape else 0
        self._tracer = Tracer(tuple(int(s) for s in shape), batch, value.dtype, weights)

    def run(self) -> Graph:
        self._bind_placeholders()
        for node in self._exported.graph.nodes:
            if node.op == "call_function":
                self._values[node] = self._called(node)
            elif node.op not in {"placeholder", "output"}:
                raise UnsupportedModelError(
                    "cannot be walked", operator=node.op, module=path_of(node)
                )
        return self._graph()

    def _bind_placeholders(self) -> None:
        self._values[self._inputs[0]] = self._tracer.input()
        for node in self._inputs[1:]:
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
        batch = self._tracer.batch
        batch_first = shape[:1] == (batch,) and self._is_batch_first(node)
        if len(shape) not in {1, 2} or not batch_first or 0 in shape:
            wrong = f"shape (n, ...) = {shape} for n = {batch}"
            if not batch_first:
                wrong += (
                    ": its first dimension is not the batch, which is probably a bug of the model,"
                    " such as a view or a sum over samples"
                )
            raise UnsupportedModelError(
                f"wanted raw scores of shape (n, classes) or (n,), got {wrong}", operator="output"
            )
        try:
            graph = self._tracer.graph(output)
        except MixedSamplesError:
            assert isinstance(node, torch.fx.Node)
            raise mixed("output", Place(), self._moved(node)) from None
        except UnwrittenError as error:
            raise self._unwritten(error) from None
        except InexactCountError:
            raise UnsupportedModelError(
                f"numbers made of token ids are compared that may be above {1 << 24}, up to which "
                "float32 holds whole numbers. Count the ids, or compare each of them",
                operator="token ids",
            ) from None
        except UnboundedIdsError as error:
            raise UnsupportedModelError(
                "numbers are made of token ids that no embedding reads, so it is not known how "
                "many ids there are. Give them as floats, or as an input that is embedded",
                operator="token ids",
                module=error.module,
            ) from None
        if (graph.outputs < 0).any():
            raise UnsupportedModelError("some outputs are constants", operator="output")
        return graph

    def _called(self, node: torch.fx.Node) -> Any:
        try:
            return self._call(node)
        except UnsupportedModelError:
            raise
        except Exception as error:  # of whatever type torch or NumPy raise
            text = str(error).strip().partition("\n")[0]
            at = place_of_node(node).at
            raise self._unsupported(
                node,
                _name_of(node),
                f"it fails for samples of shape {self._tracer.builder.input_shape}: "
                f"{type(error).__name__}: {text}{f' ({at})' if at else ''}",
            ) from error

    def _call(self, node: torch.fx.Node) -> Any:
        args, kwargs = mapped(self._value, (node.args, node.kwargs))
        traced = any(isinstance(v, Traced | NoValue) for v in leaves((args, kwargs)))
        if not isinstance(node.target, torch._ops.OpOverload):
            assert callable(node.target)  # it is a call_function node
            if str(node.target.__module__).startswith("torch._functorch"):
                raise self._unsupported(node, "torch.vmap", "call it on whole batches instead")
            if traced and node.target is not operator.getitem:
                raise self._unsupported(node, node.target.__name__)
            return node.target(*args, **kwargs)
        name = node.target._schema.name.split("::")[1]
        if not traced and not _undefined(node.target, name):
            return self._constant(node, name, args, kwargs)
        self._tracer.builder.module = path_of(node)
        return self._apply(node, name, *_positional(node.target, args, kwargs))

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self._values[argument]
        # The model may live on a GPU; its graph is walked on the CPU.
        return torch.device("cpu") if isinstance(argument, torch.device) else argument

    def _constant(self, node: torch.fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        assert isinstance(node.target, torch._ops.OpOverload)
        try:
            return self._weights.call(node.target, args, kwargs)
        except Exception as error:  # of whatever type torch raises
            reason = f"it fails for an input of {self._steps} steps: {error}"
            raise self._unsupported(node, f"aten.{name}", reason) from error

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
            raise mixed(f"aten.{name}", place_of_node(node), self._moved(node)) from None
        except UnwrittenError as error:
            raise self._unwritten(error) from None
        except operators.UnsupportedOperandsError as error:
            raise self._unsupported(node, f"aten.{name}", str(error)) from None
        if result is NotImplemented:
            raise self._unsupported(node, f"aten.{name}", operators.hint(name))
        self._check_dtypes(node, name, result)
        if isinstance(result, Traced) and any(map(self._is_partly_unwritten, leaves(args))):
            result = self._as_constant(result)
        # A traced operand has no dtype of its own: constants made like it take the exported one.
        return result.to(node.meta["val"].dtype) if isinstance(result, torch.Tensor) else result

    def _is_partly_unwritten(self, value: Any) -> bool:
        return isinstance(value, Traced) and self._tracer.is_partly_unwritten(value)

    def _is_partly_constant(self, value: Traced) -> bool:
        """Whether constants are all that was written into an empty tensor so far."""
        return self._is_partly_unwritten(value) and not bool((value.ids >= 0).any())

    def _as_constant(self, value: Traced) -> Traced | torch.Tensor:
        """Return a tensor that was empty as the constant that was written into it, if it was."""
        unwritten = self._tracer.is_partly_unwritten(value)
        return value if unwritten else self._tracer.constant(value)

    def _stopped(self, values: Any) -> Any:
        """Let no gradient go through the tensors among nested values."""
        return mapped(lambda v: self._tracer.stop(v) if isinstance(v, Traced) else v, values)

    def _check_dtypes(self, node: torch.fx.Node, name: str, result: Any) -> None:
        """Refuse a value that is rounded on the way: relevance would be of another function."""
        exact = {torch.float32, torch.float64}
        if self._tracer.dtype.is_floating_point:
            exact.add(self._tracer.dtype)
        if result is None:  # a check
            return
        for value, meta in zip(leaves(result), leaves(node.meta["val"]), strict=True):
            if not isinstance(value, Traced) or self._is_partly_constant(value):
                continue
            if not self._tracer.dtype.is_floating_point and self._tracer.holds_inputs(value):
                wide = meta.dtype in _WIDE
                reason = None if wide else f"token ids become numbers of type {meta.dtype}"
            elif self._counts(node, value, meta.dtype):
                reason = None
            else:
                reason = None if meta.dtype in exact else f"the value is rounded to {meta.dtype}"
            if reason is not None:
                raise self._unsupported(node, f"aten.{name}", reason)

    def _counts(self, node: torch.fx.Node, value: Traced, dtype: torch.dtype) -> bool:
        """Whether a value is made of token ids alone, by torch itself or of whole numbers."""
        if not self._tracer.builder.lookups:
            return False
        if self._tracer.is_of_ids(value):
            return True
        kind = self._tracer.kind(value)
        if dtype == torch.bool:
            return kind == Kind.mask
        read = (n.meta["val"] for n in node.all_input_nodes)
        whole = all(isinstance(v, torch.Tensor) and v.dtype in _WHOLE for v in read)
        whole |= kind != Kind.other
        return dtype in _WIDE and whole and self._tracer.is_of_ids_alone(value)

    @staticmethod
    def _unsupported(
        node: torch.fx.Node, name: str, reason: str = operators.NO_RULE
    ) -> UnsupportedModelError:
        supported = operators.supported()
        if function := function_of(node):
            reason += (
                f". It is in the torch.autograd.Function {function}, whose forward is explained as "
                "it computes, whatever its backward does"
            )
        return UnsupportedModelError(
            reason, operator=name, module=path_of(node), supported=supported
        )

    @staticmethod
    def _unwritten(error: UnwrittenError) -> UnsupportedModelError:
        reason = (
            "an entry is read that was never written: what an empty tensor holds is undefined. "
            "Start from zeros, or write every entry first"
        )
        return UnsupportedModelError(reason, operator=error.operator, module=error.module)

    def _is_batch_first(self, node: Any) -> bool:
        # The size of the lengths has a symbol of its own, which what they sort may have.
        sizes = [each.meta["val"].shape[0] for each in self._inputs]
        return any(_grows_with(node.meta["val"].shape[0], size) for size in sizes)

    def _moved(self, last: torch.fx.Node) -> tuple[str, Place] | None:
        """Find the first operator that made a batch dimension of elements of several samples."""
        size = self._inputs[0].meta["val"].shape[0]
        before = _sources(last)
        for node in self._exported.graph.nodes:
            value = self._values.get(node)
            if node not in before or not isinstance(value, Traced):
                continue
            sizes = node.meta["val"].shape
            same = [d for d, n in enumerate(value.ids.shape) if n == self._tracer.batch]
            of_batch = [d for d in same if _grows_with(sizes[d], size)]
            if of_batch and not any(self._tracer.is_batch(value, d) for d in of_batch):
                return _name_of(node), place_of_node(node)
        return None


def _sources(node: torch.fx.Node) -> set[torch.fx.Node]:
    """Return a node and all that it was computed from."""
    found, left = {node}, [node]
    while left:
        more = [n for n in left.pop().all_input_nodes if n not in found]
        found.update(more)
        left += more
    return found


def _grows_with(one: Any, other: Any) -> bool:
    """Whether a size is computed from another one, or is the other one if that is fixed."""
    if not isinstance(other, torch.SymInt):
        return True
    return isinstance(one, torch.SymInt) and other.node.expr.free_symbols <= (
        one.node.expr.free_symbols
    )


def _name_of(node: torch.fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return f"aten.{schema.name.split('::')[1]}"


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
