# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model, leaves it as it was, and says in plain words why it could not."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.export import Dim, ExportedProgram

from pyrel.errors import UnsupportedModelError

Example: TypeAlias = npt.NDArray[Any] | torch.Tensor


def export(model: torch.nn.Module, example: Example) -> list[ExportedProgram]:
    """Export ``model`` in eval mode for any batch size, and again for single sizes to compare with.

    torch.export lets a program depend on the size of the batch: a branch on it is decided by the
    example. So the model is exported for a batch of one too, if it takes one, or else of three.
    Where it makes a number of the batch size, as ``len(x)`` does, there are fixed sizes only.
    """
    model = _unwrapped(model)
    sample = _example_tensor(model, example)
    try:
        programs = [_export_once(model, sample, dynamic=True)]
    except Exception as error:  # torch.export raises many types, none of them documented
        if not _fixes_the_batch(error):
            raise _refusal(model, sample, error) from error
        try:
            programs = [_export_once(model, _batch(sample, n)) for n in (2, 3)]
        except Exception as error:
            raise _refusal(model, sample, error) from error
    if _bounds_the_batch(programs[0]):
        raise UnsupportedModelError(
            "what it computes for a sample depends on the size of the batch",
            operator="torch.export",
        )
    try:
        return [*programs, _export_once(model, _batch(sample, 1))]
    except Exception:  # a model may well not take one sample alone: that is no obstacle
        pass
    try:
        return [*programs, _export_once(model, _batch(sample, 3))]
    except Exception as error:
        raise _refusal(model, sample, error) from error


def _batch(sample: torch.Tensor, n: int) -> torch.Tensor:
    return sample[:1].expand(n, *sample.shape[1:]).clone()


def _export_once(
    model: torch.nn.Module, batch: torch.Tensor, *, dynamic: bool = False
) -> ExportedProgram:
    shapes = ({0: Dim.DYNAMIC},) if dynamic else None
    with _as_it_was(model), torch.no_grad(), quiet():
        return torch.export.export(model, (batch,), dynamic_shapes=shapes, strict=False)


def _bounds_the_batch(program: ExportedProgram) -> bool:
    """Whether a branch confined the batch size that the program holds for."""
    ranges = program.range_constraints.values()
    return any(bool(r.lower > 2) or bool(r.upper < 1 << 31) for r in ranges)


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the user's module inside torch.compile's or DataParallel's."""
    if isinstance(model, torch.nn.DataParallel):
        return _unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, torch.nn.Module) else model


def _example_tensor(model: torch.nn.Module, example: Example) -> torch.Tensor:
    if not isinstance(example, np.ndarray | torch.Tensor):
        raise TypeError(f"example: wanted an array or a tensor, got {type(example).__name__}")
    if not example.shape:
        raise ValueError(f"example: wanted shape (n, ...), batch first, got {tuple(example.shape)}")
    if 0 in example.shape[1:]:
        raise ValueError(f"example: a sample has no elements, the shape is {tuple(example.shape)}")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    # Values do not matter; a batch of two, because export fixes the batch size at zero or one.
    return torch.zeros(2, *example.shape[1:], dtype=like.dtype, device=like.device)


@contextlib.contextmanager
def _as_it_was(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and back; take back what forward assigned to its modules."""
    parts = ("_parameters", "_buffers", "_modules")
    saved = [
        (m, dict(m.__dict__), {p: dict(getattr(m, p)) for p in parts}) for m in model.modules()
    ]
    model.eval()
    try:
        yield
    finally:
        for module, attributes, contents in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for part, values in contents.items():
                getattr(module, part).clear()
                getattr(module, part).update(values)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.export from warning, and from printing graphs when it fails: we raise instead."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
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
        logging.disable(previous)


def _fixes_the_batch(error: Exception) -> bool:
    return "Constraints violated" in str(error) or "specialized" in str(error)


def _refusal(
    model: torch.nn.Module, sample: torch.Tensor, error: Exception
) -> UnsupportedModelError:
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    kind, shape = type(model).__name__, f"(n, {', '.join(map(str, sample.shape[1:]))})"
    if "GuardOnDataDependent" in type(error).__name__ or "data-dependent" in text:
        why = f"{kind} branches on the values of its input, so it has no one graph: {reason}"
    elif "missing a required argument" in text:
        why = f"{kind} takes more than one input; pyrel explains models of one: {reason}"
    else:
        why = (
            f"{kind} could not be exported for an input of shape {shape}: "
            f"{type(error).__name__}: {reason}"
        )
    return UnsupportedModelError(why, operator="torch.export")
