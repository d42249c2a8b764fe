# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model, leaves it as it was, and says in plain words why it could not."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from inspect import Parameter
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import is_lazy

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.capture.autograd_watch import watched
from pyrel.compiler.capture.model_state import put_back
from pyrel.compiler.capture.opaque_layers import marked, shortened
from pyrel.compiler.capture.refusals import (
    branches,
    depends_on_batch,
    lacks_argument,
    no_draws,
    own_failure,
    refusal,
    shape_of_batch,
)
from pyrel.compiler.capture.step_causes import Causes
from pyrel.compiler.capture.told_eager import told_eager
from pyrel.errors import UnsupportedModelError

Example: TypeAlias = npt.NDArray[Any] | torch.Tensor

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_IDS = ("int", "uint")  # how the types of an example of token ids begin


def export(
    model: torch.nn.Module, example: Example, lengths: bool = False, causes: Causes | None = None
) -> list[ExportedProgram]:
    """Export ``model`` in eval mode for any batch size, and again for single sizes to compare with.

    torch.export lets a program depend on the size of the batch: a branch on it is decided by the
    example. So the model is exported for a batch of one too, if it takes one, or else of another.
    Where it makes a number of the batch size, as ``len(x)`` does, there are fixed sizes only. The
    second dimension, that of the steps, stays open where the model allows it. ``lengths`` gives a
    model that takes two inputs the lengths of the sequences. ``causes`` notes what the first of the
    programs asks about sizes.
    """
    causes = Causes() if causes is None else causes
    model = unwrapped(model)
    sample = _example_tensor(model, example)
    lengths = lengths and takes_lengths(model, sample)
    # Sizes that are equal to each other torch.export takes for one.
    sizes = (3, 2) if 2 in sample.shape[1:2] else (2, 3)
    try:
        programs = [_export_open(model, _batch(sample, sizes[0]), lengths, causes)]
    except Exception as error:  # torch.export raises many types, none of them documented
        if not _fixes_the_batch(error):
            raise refusal(model, sample, error, lengths) from error
        causes.keep_batch(sizes[0])
        try:
            first = _export_open(model, _batch(sample, sizes[0]), lengths, causes, Dim.STATIC)
            other = _batch(sample, sizes[1])
            programs = [first, _export_once(model, other, lengths, steps=_freedom(first))]
        except Exception as error:
            raise refusal(model, sample, error, lengths) from error
    if _bounds_the_batch(programs[0]):
        raise depends_on_batch(causes.asking(first_input(programs[0]).shape[0]))
    steps = _freedom(programs[0])
    return [*programs, _export_to_compare(model, sample, sizes[1], lengths, steps)]


def export_one_step(
    model: torch.nn.Module, example: Example, lengths: bool = False
) -> list[ExportedProgram]:
    """Export for one step, which torch.export tells from an open number of two or more.

    `export` has shown what the model makes of the size of a batch, so here two sizes are enough:
    that takes a third of the time.
    """
    model = unwrapped(model)
    sample = _example_tensor(model, example[:, :1])
    lengths = lengths and takes_lengths(model, sample)
    try:
        program = _export_once(model, _batch(sample, 2), lengths, steps=Dim.STATIC)
    except Exception as error:  # torch.export raises many types, none of them documented
        raise refusal(model, sample, error, lengths) from error
    return [program, _export_to_compare(model, sample, 3, lengths, Dim.STATIC)]


def _export_to_compare(
    model: torch.nn.Module, sample: torch.Tensor, other: int, lengths: bool, steps: Any
) -> ExportedProgram:
    """Export for a batch of one, or of another size if the model does not take one sample alone."""
    try:
        return _export_once(model, _batch(sample, 1), lengths, steps=steps)
    except Exception:  # a model may well not take one sample alone: that is no obstacle
        pass
    try:
        return _export_once(model, _batch(sample, other), lengths, steps=steps)
    except Exception as error:
        raise refusal(model, sample, error, lengths) from error


def export_shortened(model: torch.nn.Module, example: Example) -> ExportedProgram | None:
    """Export as for a batch of token ids of which no packed sequence is as long as the batch.

    None where the model does not take such batches.
    """
    model = unwrapped(model)
    sample = _example_tensor(model, example)
    try:
        with shortened():
            return _export_once(model, _batch(sample, 3), False, Dim.AUTO)
    except Exception:  # torch.export raises many types, none of them documented
        return None


def _batch(sample: torch.Tensor, n: int) -> torch.Tensor:
    return sample[:1].expand(n, *sample.shape[1:]).clone()


def _export_open(
    model: torch.nn.Module,
    batch: torch.Tensor,
    lengths: bool,
    causes: Causes,
    size: Any = Dim.DYNAMIC,
) -> ExportedProgram:
    """Export for any batch size, and any number of steps unless that fails."""
    try:
        with causes.noted(model):
            return _export_once(model, batch, lengths, size)
    except Exception as error:
        if _fixes_the_batch(error) or branches(error) or lacks_argument(error):
            raise
    return _export_once(model, batch, lengths, size, steps=Dim.STATIC)


def _freedom(program: ExportedProgram) -> Any:
    """Freedom of the number of steps with which a program could be exported."""
    shape = first_input(program).shape
    return Dim.AUTO if len(shape) < 2 or fixed(shape[1]) is None else Dim.STATIC


def _export_once(
    model: torch.nn.Module,
    batch: torch.Tensor,
    lengths: bool,
    size: Any = Dim.STATIC,
    steps: Any = Dim.AUTO,
) -> ExportedProgram:
    """Export with the given freedom of the batch size and of the number of steps."""
    shapes = [{0: size, 1: steps} if batch.dim() > 1 else {0: size}]
    if lengths:
        shapes.append({0: size})
    inputs = arguments(batch, lengths)
    with as_it_was(model), told_eager(), marked(), watched(model), quiet():
        _name_inputs(model, len(inputs))
        with no_draws():
            return torch.export.export(model, inputs, dynamic_shapes=tuple(shapes), strict=False)


def _name_inputs(model: torch.nn.Module, count: int) -> None:
    """Give a forward that takes ``*args`` the names that torch.export describes sizes by.

    The caller takes back what this assigns to the model.
    """
    forward = model.forward
    given = list(inspect.signature(forward).parameters.values())[:count]
    if len(given) == count and all(parameter.kind in _POSITIONAL for parameter in given):
        return

    def of_one(x: torch.Tensor) -> Any:
        return forward(x)

    def of_two(x: torch.Tensor, lengths: torch.Tensor) -> Any:
        return forward(x, lengths)

    model.__dict__["forward"] = of_one if count == 1 else of_two


def arguments(batch: torch.Tensor, lengths: bool) -> tuple[torch.Tensor, ...]:
    """Return what a model is called with: a batch and, if it takes them, lengths that are full."""
    if not lengths:
        return (batch,)
    return batch, torch.full(batch.shape[:1], batch.shape[1], device=batch.device)


def wrong_example(
    model: torch.nn.Module, example: Example, lengths: bool
) -> UnsupportedModelError | ValueError | TypeError | None:
    """Say what is wrong with an example, if the model does not take it.

    It may take one like it: with another dimension in front, or with integers instead of floats, or
    both.
    """
    model = unwrapped(model)
    shape, ids = tuple(example.shape), _are_ids(example)
    lengths = lengths and takes_lengths(model, _zeros(model, shape[1:], ids))
    batch = _zeros(model, shape[1:], ids)
    failure = _failure(model, batch, lengths)
    if failure is None:
        return None
    for of_batch, of_ids in ((shape[1:], not ids), (shape, ids), (shape, not ids)):
        if 0 in of_batch or _failure(model, _zeros(model, of_batch, of_ids), lengths) is not None:
            continue
        kind = "integers (token ids)" if of_ids else "floats"
        message = (
            f"example: wanted {kind} of shape {shape_of_batch(of_batch)}, got dtype "
            f"{example.dtype} and shape {shape}"
        )
        if of_batch == shape[1:]:
            return TypeError(message)
        return ValueError(f"{message}; that is one sample: give a batch of one, x[None]")
    own = own_failure(model, batch, failure)
    own.__cause__ = failure
    return own


def _failure(model: torch.nn.Module, batch: torch.Tensor, lengths: bool) -> Exception | None:
    """Run a model as it is; return what it raises, if it does with gradients and without."""
    found = None
    for gradients in (False, True):  # some compute gradients themselves, some write into weights
        found = _failure_of_mode(model, batch, lengths, gradients)
        if found is None:
            break
    return found


def _failure_of_mode(
    model: torch.nn.Module, batch: torch.Tensor, lengths: bool, gradients: bool
) -> Exception | None:
    mode = torch.enable_grad if gradients else torch.no_grad
    try:
        with as_it_was(model, values=True), mode(), quiet(), torch.random.fork_rng():
            model(*arguments(batch, lengths))
    except Exception as error:  # of whatever type the model raises
        return error
    return None


def _bounds_the_batch(program: ExportedProgram) -> bool:
    """Whether a branch confined the batch size that the program holds for."""
    size = first_input(program).shape[0]
    if fixed(size) is not None:
        return False
    allowed = _range(program, size)
    return allowed is not None and bool(allowed.lower > 2 or allowed.upper < 1 << 31)


def first_input(program: ExportedProgram) -> torch.Tensor:
    """Return the model's input as torch.export saw it: sizes that are open are symbols."""
    name = program.graph_signature.user_inputs[0]
    value: torch.Tensor = next(n for n in program.graph.nodes if n.name == name).meta["val"]
    return value


def fixed(size: int | torch.SymInt) -> int | None:
    """Return a size that the program holds for alone; None if the size is open."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def _range(program: ExportedProgram, size: int | torch.SymInt) -> Any:
    """Return the range that branches confined an open size to, if they did."""
    return None if isinstance(size, int) else program.range_constraints.get(size.node.expr)


def holds_for(program: ExportedProgram, steps: int) -> bool:
    """Whether a program with an open second dimension computes what the model does at a size of it.

    Where the model asked for the size, torch.export noted the answer as a guard.
    """
    value = first_input(program)
    size = value.shape[1]
    if fixed(size) is not None:
        return fixed(size) == steps
    allowed = _range(program, size)
    guards = guards_of(program)
    if guards is None or (allowed is not None and not allowed.lower <= steps <= allowed.upper):
        return False
    batch = fixed(value.shape[0])
    # Some guards are about accidents, as a batch as large as the number of steps.
    sizes = [2, 3, 5] if batch is None else [batch]
    rest = value.shape[2:]
    return any(all(_true(guard, (n, steps, *rest)) for guard in guards) for n in sizes)


def guards_of(program: ExportedProgram) -> list[str] | None:
    """Return the conditions on sizes for which the program holds; None if it did not keep them."""
    return getattr(program, "_guards_code", None)


def _true(guard: str, shape: tuple[int, ...]) -> bool:
    """Evaluate a guard, an expression of sizes, which all inputs have in common."""
    names = {"max": max, "min": min, "math": math, "torch": torch}
    given = SimpleNamespace(size=lambda: shape)
    try:
        return bool(eval(guard, {"__builtins__": {}, **names}, {"L": defaultdict(lambda: given)}))
    except Exception:  # it asks for something else: then nothing is known
        return False


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the user's module inside torch.compile's or DataParallel's.

    Raises
    ------
    UnsupportedModelError
        If the wrapper has hooks, which the module inside does not call.
    """
    parallel = isinstance(model, torch.nn.DataParallel)
    inner = model.module if parallel else getattr(model, "_orig_mod", None)
    if not isinstance(inner, torch.nn.Module):
        return model
    if any(getattr(model, hooks) for hooks in _HOOKS):
        raise UnsupportedModelError(
            "hooks of a wrapper, which pyrel takes off; register them on the "
            f"{type(inner).__name__} inside",
            operator=type(model).__name__,
        )
    return unwrapped(inner)


def refuse_empty(model: torch.nn.Module) -> None:
    """Refuse parameters and buffers without values, such as those of the meta device.

    Raises
    ------
    TypeError
        If there is one; the message names it.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise TypeError(
                f"model: {name} is not made yet, as the module is lazy; call the model once"
            )
        refuse_unreadable(f"model: {name}", tensor, "a tensor with values")


def takes_lengths(model: torch.nn.Module, batch: torch.Tensor) -> bool:
    """Whether a second argument of forward must be given, or is called lengths.

    A forward with ``*args`` that hands them on takes lengths if it runs with them.
    """
    given = inspect.signature(model.forward).parameters.values()
    arguments = [p for p in given if p.kind in _POSITIONAL]
    if len(arguments) < 2:
        takes_any = any(p.kind == Parameter.VAR_POSITIONAL for p in given)
        return takes_any and batch.dim() > 1 and _failure(model, batch, True) is None
    return arguments[1].default is Parameter.empty or "len" in arguments[1].name


def _example_tensor(model: torch.nn.Module, example: Example) -> torch.Tensor:
    refuse_unreadable("example", example)
    if not example.shape:
        raise ValueError(f"example: wanted shape (n, ...), batch first, got {tuple(example.shape)}")
    if 0 in example.shape[1:]:
        raise ValueError(f"example: a sample has no elements, the shape is {tuple(example.shape)}")
    return _zeros(model, example.shape[1:], _are_ids(example))


def _are_ids(example: Example) -> bool:
    return str(example.dtype).removeprefix("torch.").startswith(_IDS)


def _zeros(model: torch.nn.Module, shape: Sequence[int], ids: bool) -> torch.Tensor:
    """Return a batch of two, because export fixes a batch size of zero or one; any values do."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(2, *shape, dtype=torch.int64 if ids else like.dtype, device=device)


@contextlib.contextmanager
def as_it_was(model: torch.nn.Module, *, values: bool = False) -> Iterator[None]:
    """Put the model in eval mode, and back; take back all that forward changed of it.

    ``values`` says that the model runs on real tensors, which it may change.
    """
    with put_back(model, values=values), _no_autocast():
        for module in model.modules():
            if isinstance(module, torch.fx.GraphModule):
                _without_modes(module)
        model.eval()
        yield


def _without_modes(module: torch.fx.GraphModule) -> None:
    """Let an exported program, given as a module, take ``train`` and ``eval``, which it refuses.

    The caller takes back what this assigns to the module.
    """
    for name in ("train", "eval"):
        if name in vars(module):
            setattr(module, name, lambda *_: module)


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """Turn autocast around a call off: it is none of the model's."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.export from warning, and from printing graphs when it fails: we raise instead.

    Of loggers, only torch's are silenced: other threads and pyrel may go on logging. Those
    without a level of their own have that of ``torch``.
    """
    known = list(logging.root.manager.loggerDict.items())
    torchs = [each for name, each in known if name.startswith("torch.")]
    loggers = [each for each in torchs if isinstance(each, logging.Logger) and each.level]
    levels = {each: each.level for each in (logging.getLogger("torch"), *loggers)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    sink = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _fixes_the_batch(error: Exception) -> bool:
    return "Constraints violated" in str(error) or "specialized" in str(error)
