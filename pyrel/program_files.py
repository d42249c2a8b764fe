# SPDX-License-Identifier: Apache-2.0
"""Compiled programs as files: safe to load from strangers, and for every instruction set.

A file holds what an explainer was compiled to: logical matrices and vectors, the instructions with
their places in memory, and what a call checks its input against. Neither the model nor torch.export
is needed to use it. The layout is that of `pyrel.tensor_files`; its tensors are ``matrix.0`` …,
``vector.0`` …, ``index.0`` …, ``table.0`` …, the offsets of all instructions one after the other,
the same of the program that decides the class (``decider.matrix.0`` …), and the bounds ``low`` and
``high``, where there are any.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrel import _core, arrays, methods
from pyrel.compiled import Compiled, Loaded, load
from pyrel.inputs import LARGEST_VOCABULARY, Inputs
from pyrel.precision import check_precision
from pyrel.program import Float32s, Instruction, Offsets, Program, Repeat, Template
from pyrel.records import decode, encode
from pyrel.tensor_files import read_tensors, write_tensors

_DECIDER = "decider."
_APART = ("instructions", "matrices", "vectors", "indices", "tables", "_interned")
_ARRAYS = {
    "matrix": (torch.float32, 2),
    "vector": (torch.float32, 1),
    "index": (torch.int64, 1),
    "table": (torch.float32, 2),
}


@dataclass(frozen=True)
class _Header:
    """What is neither the program nor an array."""

    method: str
    input_shape: tuple[int, ...]
    check_finite: bool
    vocabulary: int = 0


@dataclass(frozen=True)
class _Step:
    """An instruction, its offsets apart."""

    template: Template
    steps: int


def write_program(path: Path, method: methods.Method, inputs: Inputs, compiled: Compiled) -> None:
    """Write a compiled program in one step; folders are made as needed.

    Raises
    ------
    TypeError
        The method is none of `pyrel.methods.names()`, so that a reader could not make it.
    OSError
        The file cannot be written.
    """
    if methods.named(method.name) is not type(method):
        raise TypeError(
            f"a file names its method, and {type(method).__name__} is none of pyrel's: "
            f"{', '.join(methods.names())}"
        )
    named: dict[str, npt.NDArray[Any]] = {
        name: bound.reshape(-1)
        for name, bound in (("low", inputs.low), ("high", inputs.high))
        if bound is not None
    }
    header = _Header(method.name, inputs.shape, inputs.check_finite, inputs.vocabulary)
    content = {
        "explainer": encode(header),
        "options": method.options,
        **_content("", compiled.program, named),
    }
    if compiled.decider is not None:
        content |= _content(_DECIDER, compiled.decider, named)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(array) for name, array in named.items()}
    write_tensors(path, "program", tensors, content)


def _content(prefix: str, program: Program, named: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Return what a file says of a program, and put its named among the others."""
    named[f"{prefix}offsets"] = np.concatenate(
        [i.offsets.reshape(-1) for i in program.every_instruction()]
    )
    stores: dict[str, Sequence[npt.NDArray[Any]]] = {
        "matrix": program.matrices,
        "vector": program.vectors,
        "index": program.indices,
        "table": program.tables,
    }
    for kind, store in stores.items():
        named |= {f"{prefix}{kind}.{i}": array for i, array in enumerate(store)}
    return {
        f"{prefix}program": encode(program, leave_out=_APART),
        f"{prefix}instructions": [_entry(item) for item in program.instructions],
    }


def _entry(item: Instruction | Repeat) -> dict[str, Any]:
    if isinstance(item, Repeat):
        return {"repeat": item.count, "body": [_entry(instruction) for instruction in item.body]}
    return encode(_Step(item.template, item.offsets.shape[1]))


def read_program(path: Path, isa: str) -> tuple[methods.Method, Inputs, Compiled, Loaded]:
    """Read a file of `write_program` and pack its programs for an instruction set.

    Nothing in the file is executed before the engine has checked all of it.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is truncated, changed, foreign, of a newer pyrel, or holds no program that can run; the
        message names the file.
    """
    tensors, content = read_tensors(path, "program")
    try:
        method, inputs, compiled = _parts(tensors, content)
        if any(getattr(i.template, "bf16", False) for i in compiled.program.every_instruction()):
            check_precision("bf16", isa)
        loaded = load(compiled, inputs, inputs.steps, isa)
        decider = loaded.decider
        if not loaded.core.explains or (decider is not None and decider.explains):
            raise ValueError("one of its programs does not do what it is there for")
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"{path} does not hold a program that this pyrel {_core.version()} can run, though it "
            f"is whole: {error}; write it anew, or install the pyrel "
            f"{content.get('pyrel_version')} that wrote it"
        ) from error
    return method, inputs, compiled, loaded


def _parts(
    tensors: dict[str, Tensor], content: dict[str, Any]
) -> tuple[methods.Method, Inputs, Compiled]:
    left = dict(tensors)
    bounds = [_take(left, n, torch.float32, 1) for n in ("low", "high") if n in left]
    header = decode(_Header, content.get("explainer"))
    program = _program("", left, content)
    decider = None
    if f"{_DECIDER}program" in content:
        decider = _program(_DECIDER, left, content)
        if (decider.input_size, decider.classes) != (program.input_size, program.classes):
            raise ValueError("its two programs are of different models")
    if left:
        raise ValueError(f"it has a tensor {min(left)!r}, unknown to this pyrel")
    if (
        min(header.input_shape, default=1) < 1
        or math.prod(header.input_shape) != program.input_size
    ):
        raise ValueError(f"samples of shape {header.input_shape} do not fit its program")
    if not 0 <= header.vocabulary <= LARGEST_VOCABULARY:
        raise ValueError(f"it has a vocabulary of {header.vocabulary}")
    inputs = Inputs(
        header.input_shape,
        *_bounds(bounds, header.input_shape),
        header.vocabulary,
        check_finite=header.check_finite,
    )
    method = _method(header.method, content.get("options"))
    return method, inputs, Compiled(program, decider)


def _program(prefix: str, left: dict[str, Tensor], content: dict[str, Any]) -> Program:
    """Make a program, and take its tensors from those that are left."""
    stores = {kind: _take_all(left, prefix, kind) for kind in _ARRAYS}
    offsets = _take(left, f"{prefix}offsets", torch.int64, 1)
    entries = content.get(f"{prefix}instructions")
    return decode(
        Program,
        content.get(f"{prefix}program"),
        _APART,
        instructions=_instructions(entries, offsets, stores["index"]),
        matrices=stores["matrix"],
        vectors=stores["vector"],
        indices=stores["index"],
        tables=stores["table"],
    )


def _instructions(
    entries: Any, offsets: Offsets, indices: list[npt.NDArray[Any]]
) -> tuple[Instruction | Repeat, ...]:
    if not isinstance(entries, list):
        raise ValueError("instructions: wanted a list")
    left = offsets
    instructions: list[Instruction | Repeat] = []
    for entry in entries:
        if isinstance(entry, dict) and "body" in entry:
            count, body = entry.get("repeat"), entry["body"]
            if type(count) is not int or not isinstance(body, list) or len(entry) != 2:
                raise ValueError("instructions: a repeat wants a number and a list")
            inner = []
            for part in body:
                instruction, left = _instruction(part, left, indices)
                inner.append(instruction)
            instructions.append(Repeat(tuple(inner), count))
        else:
            instruction, left = _instruction(entry, left, indices)
            instructions.append(instruction)
    if left.size:
        raise ValueError(f"there are {offsets.size} offsets, more than instructions ask for")
    return tuple(instructions)


def _instruction(
    entry: Any, left: Offsets, indices: list[npt.NDArray[Any]]
) -> tuple[Instruction, Offsets]:
    """Make an instruction, with the first offsets of those that are left; return the others too."""
    step = decode(_Step, entry)
    operands = len(step.template.operands())
    size = operands * step.steps
    if step.steps < 1 or size > left.size:
        raise ValueError("its offsets are fewer than instructions ask for")
    if getattr(step.template, "index", 0) not in range(max(1, len(indices))):
        raise ValueError("an instruction names an index that is not there")
    return Instruction(step.template, left[:size].reshape(operands, step.steps)), left[size:]


def _method(name: str, options: Any) -> methods.Method:
    if not isinstance(options, dict):
        raise ValueError("options: wanted a mapping")
    return methods.get(name, **options)


def _bounds(
    given: list[npt.NDArray[Any]], shape: tuple[int, ...]
) -> tuple[Float32s | None, Float32s | None]:
    if not given:
        return None, None
    if len(given) != 2 or any(bound.size != math.prod(shape) for bound in given):
        raise ValueError("low and high must both have one value for each input element")
    low, high = (bound.reshape(shape) for bound in given)
    return arrays.bounds(low, high, shape) or (None, None)


def _take_all(tensors: dict[str, Tensor], prefix: str, kind: str) -> list[npt.NDArray[Any]]:
    all_names = (f"{prefix}{kind}.{i}" for i in itertools.count())
    names = itertools.takewhile(tensors.__contains__, all_names)
    return [_take(tensors, name, *_ARRAYS[kind]) for name in list(names)]


def _take(
    tensors: dict[str, Tensor], name: str, dtype: torch.dtype, dimensions: int
) -> npt.NDArray[Any]:
    if name not in tensors:
        raise ValueError(f"the tensor {name!r} is missing")
    tensor = tensors.pop(name)
    if tensor.dtype != dtype or tensor.dim() != dimensions:
        raise ValueError(
            f"{name}: wanted {dtype} of {dimensions} dimensions, got {tensor.dtype} "
            f"{tuple(tensor.shape)}"
        )
    return tensor.numpy()
