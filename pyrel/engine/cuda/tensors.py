# SPDX-License-Identifier: Apache-2.0
"""Explains tensors where they lie, on a CUDA device: nothing goes through the host.

That is for one program that runs once, and one input without lengths. Other calls read and write
the host's memory, as for a batch that lies there.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrel._core import Outcome
from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.engine import devices
from pyrel.engine.arrays import Batch, Float32s
from pyrel.engine.cuda.engine import CudaEngine
from pyrel.engine.cuda.library import Batch as Call
from pyrel.engine.each_step import is_each_step
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Outputs
from pyrel.engine.plans.base import EXPLAIN, OneProgram
from pyrel.engine.programs import Loaded, Programs
from pyrel.engine.progress import Progress, Told
from pyrel.engine.results import Results
from pyrel.engine.run import Run, lost


def stream_of(device: str) -> int:
    """Return the address of torch's current stream of a device, of this thread."""
    return int(torch.cuda.current_stream(device).cuda_stream)


def stay(
    programs: Programs, x: Batch, steps: int, target: Any, lengths: Any, out: Any = None
) -> bool:
    """Whether a call is one that `explain` is for."""
    if not isinstance(x, Tensor) or programs.device == devices.CPU or lengths is not None:
        return False
    if devices.lies_on(x) != programs.device or is_each_step(target):
        return False
    if out is not None and devices.lies_on(out) != programs.device:
        return False  # such an ``out`` lies on the CPU, or is refused
    return type(programs.at(steps).plan) is OneProgram


def explain(
    programs: Programs,
    inputs: Inputs,
    x: Tensor,
    steps: int,
    target: Any,
    out: Any,
    told: Told | None,
    *,
    relevance: bool = True,
) -> Results:
    """Explain a batch where it lies, or without relevance run it forward.

    Parameters
    ----------
    programs : Programs
        Of the device that the tensors lie on.
    inputs, x, steps, target, told
        As `pyrel.engine.batch.explain_all` takes them.
    out : Tensor or None
        Where the relevance goes.

    Returns
    -------
    Results
        Of tensors there; outputs and targets have the model's shape.

    Raises
    ------
    ValueError, TypeError, MemoryError, CudaError
        As of a call of an explainer.
    """
    loaded, outputs = programs.at(steps), programs.source.outputs
    engine = cast(CudaEngine, loaded.core)
    place = _place(out, x) if relevance else None
    bounds = _bounds(loaded, engine, x.device)
    values = _clipped(inputs, _converted(x), *bounds)
    targets = _targets(target, outputs, loaded, x)
    results = _results(place, loaded.classes, x)
    batch = Call(len(x), _address(values), _address(targets), *map(_address, (*bounds, *results)))
    batch.check_finite, batch.stream = inputs.check_finite, stream_of(programs.device)
    status = engine.run_there(batch)
    run = Run(x, loaded, inputs, None if told is None else Progress(told, len(x)))
    if status.outcome == Outcome.relevance_lost:
        at = status.sample
        raise lost(at, *(on_host(column[at]) for column in (results[4], results[3])))
    if status.outcome != Outcome.done:
        raise run.failure(EXPLAIN, status, status.sample, on_host(values[status.sample]))
    run.advance(len(x))
    return _shaped(outputs, results)


def _bounds(
    loaded: Loaded, engine: CudaEngine, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Return the bounds of the input on the device; they are copied there once."""
    if engine.bounds is None:
        low, high = (
            None if each is None else torch.tensor(each, device=device)
            for each in (loaded.low, loaded.high)
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # later calls may be on other streams
        engine.bounds = low, high
    return engine.bounds


def _converted(x: Tensor) -> Tensor:
    """Return samples as the device reads them; the tensor itself where they lie so."""
    return x.detach().to(torch.float32).resolve_neg().contiguous()


def _clipped(inputs: Inputs, values: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """Return samples with finite values inside their bounds, as `Inputs.inside` does."""
    if not inputs.clips or low is None or high is None:
        return values
    flat = values.reshape(len(values), -1)
    inside = torch.where(flat.isfinite(), flat.clamp(low, high), flat)
    return inside.reshape(values.shape)


def _targets(target: Any, outputs: Outputs, loaded: Loaded, x: Tensor) -> Tensor | None:
    """Return targets as the device reads them; those that lie there are checked there."""
    n, classes = len(x), loaded.classes
    if isinstance(target, Tensor) and devices.lies_on(target) == devices.lies_on(x):
        plain = target.shape == (n,) and target.dtype in _INTEGERS and outputs.dimensions == 1
        if plain and not bool(((target < 0) | (target >= classes)).any()):
            return target.detach().to(torch.int64).resolve_neg().contiguous()
    # Whatever is wrong with others is said there.
    numbers = outputs.numbers(target, n, classes)
    return None if numbers is None else torch.tensor(numbers, device=x.device)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _place(out: Tensor | None, x: Tensor) -> Tensor:
    """Return the tensor to write relevance into: ``out`` after checking it, or a new one."""
    if out is None:
        return torch.empty(x.shape, dtype=torch.float32, device=x.device)
    refuse_unreadable("out", out)
    if out.requires_grad:
        raise ValueError("out: wanted a tensor that does not require a gradient")
    if out.dtype != torch.float32 or out.shape != x.shape:
        wanted, dtype = f"float32 of shape {tuple(x.shape)}", str(out.dtype).removeprefix("torch.")
        raise ValueError(f"out: wanted {wanted}, got {dtype} {tuple(out.shape)}")
    if not out.is_contiguous() or out.is_neg():
        raise ValueError("out: wanted a writable, contiguous, aligned array")
    first, end = _extent(out)
    x_first, x_end = _extent(x)
    if first < x_end and x_first < end:
        raise ValueError("out: wanted memory apart from x, which is read while out is written")
    return out


def _extent(x: Tensor) -> tuple[int, int]:
    """Return between which addresses the elements of a tensor lie."""
    pairs = zip(x.shape, x.stride(), strict=True)
    elements = sum((size - 1) * stride for size, stride in pairs) + 1 if x.numel() else 0
    return x.data_ptr(), x.data_ptr() + elements * x.element_size()


def _results(relevance: Tensor | None, classes: int, x: Tensor) -> Results:
    n, there = len(x), x.device
    columns = [torch.empty(n, dtype=torch.float32, device=there) for _ in range(3)]
    output = torch.empty((n, classes), dtype=torch.float32, device=there)
    target = torch.empty(n, dtype=torch.int64, device=there)
    return Results(*cast(Any, (relevance, output, target, *columns)))


def _shaped(outputs: Outputs, results: Results) -> Results:
    """Give outputs the model's shape, and targets an index for each dimension."""
    if outputs.dimensions == 1:
        return results
    n, count = results.output.shape
    shape = outputs.of(count)
    index = torch.stack(torch.unravel_index(cast(Any, results.target), shape), dim=-1)
    return results._replace(output=results.output.reshape(n, *shape), target=cast(Any, index))


def _address(tensor: Any) -> int | None:
    return None if tensor is None else int(tensor.data_ptr())


def on_host(tensor: Any) -> Any:
    """Return a tensor as an array, or a number as NumPy has it."""
    values: Float32s = np.asarray(tensor.cpu())
    return values[()] if values.ndim == 0 else values
