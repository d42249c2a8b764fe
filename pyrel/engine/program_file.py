# SPDX-License-Identifier: Apache-2.0
"""Compiled programs as files: safe to load from strangers, and for every instruction set.

A file holds what an explainer was compiled to: logical matrices and vectors, the instructions with
their places in memory, and what a call checks its input against. Neither the model nor torch.export
is needed to use it. The layout is that of `pyrel.files.tensors`, what it holds of a program that of
`pyrel.compiler.program.tensors`; the program that decides the class has the prefix ``decider.``.
For any number of steps there are patterns instead, and programs of few steps, with prefixes such as
``few.3.``. The bounds are ``low`` and ``high``, where there are any; ``vocabulary`` holds those of
token ids, where they differ from element to element.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyrel import _core, methods
from pyrel.compiler.program.file_limits import Limits
from pyrel.compiler.program.tensors import (
    Arrays,
    describe,
    describe_pattern,
    make,
    make_pattern,
)
from pyrel.engine.checked import NOTHING
from pyrel.engine.compiled import AnySteps, Compiled, Patterns
from pyrel.engine.devices import Binding
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Outputs, check_stored
from pyrel.engine.plans.base import BACK, DECIDE, EMBED, EXPLAIN, IMAGE
from pyrel.engine.plans.choose import plan_of
from pyrel.engine.precision import check_precision
from pyrel.engine.programs import pack
from pyrel.engine.stored_inputs import StoredInputs, read_inputs, stored_inputs
from pyrel.files.atomic import write_whole
from pyrel.files.foreign import parsing, read_whole, shown
from pyrel.files.records import decode, encode
from pyrel.files.tensors import dump_tensors, load_tensors, version_of

# Of programs, by name.
_PREFIXES = {EXPLAIN: "", DECIDE: "decider.", EMBED: "embedder.", IMAGE: "image.", BACK: "back."}
_MOST_FEW = 64  # steps for which there is a program beside a pattern
_LONGEST_TEXT = 10_000  # characters

# Method, inputs, what was checked when it was compiled, and the programs.
_Content: TypeAlias = tuple[methods.Method, Inputs, str, Compiled | AnySteps]


@dataclass(frozen=True, kw_only=True)
class _Header(StoredInputs):
    """What is neither a program nor an array; the steps of few programs, and the most steps.

    ``custom`` is None for a method of `pyrel.methods.names()`, else whether it conserves relevance.
    """

    method: str
    few: tuple[int, ...] = ()
    most: int | None = None
    checked: str = NOTHING
    custom: bool | None = None
    outputs: Outputs = Outputs()


def is_named(method: methods.Method) -> bool:
    """Whether a file can name a method: one of `pyrel.methods.names()`, not a class of a user."""
    return methods.named(method.name) is type(method)


def write_program(
    path: Path,
    method: methods.Method,
    inputs: Inputs,
    compiled: Compiled | AnySteps,
    checked: str = NOTHING,
) -> None:
    """Write what a model is compiled to in one step; folders are made as needed.

    ``checked`` says what of it was compared with the model.

    Raises
    ------
    TypeError
        The method is a class of a user, and has options that JSON cannot hold, or more to it than
        a program.
    OSError
        The file cannot be written.
    """
    if isinstance(method, methods.Perturbation) and not is_named(method):
        raise TypeError(
            f"a file holds the program of a method, and {type(method).__name__} does more than run "
            "one; of such methods it can name pyrel's own"
        )
    data = dump_program(method, inputs, compiled, checked)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def dump_program(
    method: methods.Method, inputs: Inputs, compiled: Compiled | AnySteps, checked: str = NOTHING
) -> bytes:
    """Return what `write_program` writes; of a user's method only name and options."""
    stored, named = stored_inputs(inputs)
    few: tuple[int, ...] = ()
    most = None
    if isinstance(compiled, Compiled):
        content = _described("", compiled, named)
    else:
        few, most = tuple(compiled.few), compiled.most
        content = {}
        for name, pattern in compiled.patterns.patterns.items():
            content |= describe_pattern(_PREFIXES[name], pattern, named)
        for steps in few:
            content |= _described(f"few.{steps}.", compiled.few[steps], named)
    named_method = is_named(method)
    header = _Header(
        **vars(stored),
        method=_name_of(method),
        few=few,
        most=most,
        checked=checked,
        custom=None if named_method else method.conserves,
        outputs=compiled.outputs,
    )
    options = method.options
    if not named_method:
        options = _plain_options(method)
    content |= {"explainer": encode(header), "options": options}
    tensors = {name: torch.from_numpy(array) for name, array in named.items()}
    return dump_tensors("program", tensors, content)


def _described(prefix: str, compiled: Compiled, named: Arrays) -> dict[str, Any]:
    patterns = compiled.patterns.patterns if compiled.patterns is not None else {}
    content: dict[str, Any] = {}
    for name, program in compiled.programs.items():
        content |= describe(f"{prefix}{_PREFIXES[name]}", program, named, patterns.get(name))
    return content


def read_program(path: Path, binding: Binding, limits: Limits | None = None) -> _Content:
    """Read a file of `write_program`, of which the programs are to be bound so.

    Nothing in the file is executed before the engine has checked all of it, within the limits.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is truncated, changed, foreign, of a newer pyrel, or holds no program that can run; the
        message names the file.
    """
    return load_program(read_whole(path), binding, path, limits or Limits())


def load_program(
    data: bytes,
    binding: Binding,
    source: Path | str,
    limits: Limits,
    method: methods.Method | None = None,
) -> _Content:
    """Do what `read_program` does with bytes, which a message calls ``source``.

    ``method`` is the one that went beside them, if the bytes do not name it.
    """
    tensors, content = load_tensors(data, "program", source, limits)
    refusal = (
        f"does not hold a program that this pyrel {_core.version()} can run, though it is whole: "
        f"{{error}}; write it anew, or install the pyrel {version_of(content)} that wrote it"
    )
    with parsing(source, refusal):
        parts = _parts(tensors, content, method, limits)
        chosen, inputs, _, compiled = parts
        _check(chosen, inputs, compiled, binding, limits)
    return parts


def _check(
    method: methods.Method,
    inputs: Inputs,
    compiled: Compiled | AnySteps,
    binding: Binding,
    limits: Limits,
) -> None:
    """Let the engine look at the programs; those of patterns at the first number of steps."""
    if isinstance(compiled, Compiled):
        programs = {inputs.steps: compiled}
    else:
        least = compiled.patterns.least
        programs = {**compiled.few, least: compiled.patterns.at(least)}
        if compiled.sizes(inputs.steps)[0] != math.prod(inputs.shape):
            raise ValueError(f"samples of shape {inputs.shape} do not fit its program")
    for steps, each in programs.items():
        if each.program.multiplies_bf16:
            check_precision("bf16", binding.isa, binding.device)
        shape = inputs.of_steps(steps)
        if math.prod(shape) != each.first.input_size:
            raise ValueError(f"samples of shape {shape} do not fit its program")
        _check_sizes(each)
        engines = pack(each, binding)
        limits.check("outputs", each.program.classes, "outputs")
        compiled.outputs.of(each.program.classes)
        back = {name: name == EXPLAIN and method.backward for name in engines}
        if any(core.explains != back[name] for name, core in engines.items()):
            raise ValueError("one of its programs does not do what it is there for")
    if isinstance(compiled, Compiled):
        outputs = {name: program.classes for name, program in compiled.programs.items()}
    else:
        named = compiled.patterns.patterns.items()
        outputs = {name: pattern.sizes(inputs.steps)[1] for name, pattern in named}
    plan_of(method, outputs, inputs, inputs.steps)  # whose options have to fit the input


def _check_sizes(compiled: Compiled) -> None:
    """Refuse programs of different models."""
    programs = dict(compiled.programs)
    embedder = programs.pop(EMBED, None)
    image, back = programs.pop(IMAGE, None), programs.pop(BACK, None)
    sizes = {(program.input_size, program.classes) for program in programs.values()}
    if embedder is not None:  # the other takes what is looked up, beside the ids
        sizes.add((embedder.input_size + embedder.classes, compiled.program.classes))
    if image is not None or back is not None:
        if image is None or back is None:
            raise ValueError("one of its programs is missing")
        sizes.add((image.classes, compiled.program.classes))
        if (back.input_size, back.classes) != (image.classes, image.input_size):
            raise ValueError("its programs are of different models")
    if len(sizes) > 1:
        raise ValueError("its two programs are of different models")


def _parts(
    tensors: dict[str, Tensor],
    content: dict[str, Any],
    method: methods.Method | None,
    limits: Limits,
) -> _Content:
    left = dict(tensors)
    header = decode(_Header, content.get("explainer"))
    inputs = read_inputs(header, left, limits)
    if len(header.checked) > _LONGEST_TEXT or not header.checked.isprintable():
        raise ValueError("it says of what was checked something that is no line of text")
    limits.check("instructions", _instructions(content), "instructions")
    made = (
        _any_steps(header, left, content, limits)
        if header.any_steps
        else _made("", left, content, limits)
    )
    check_stored(header.outputs, header.any_steps, limits)
    compiled = replace(made, outputs=header.outputs)
    if left:
        raise ValueError(f"it has a tensor {min(left)!r}, unknown to this pyrel")
    return (
        method or _method(header, content.get("options")),
        inputs,
        header.checked,
        compiled,
    )


def _instructions(content: dict[str, Any]) -> int:
    """Count those of all programs and patterns, in loops once."""
    lists = [
        value
        for name, value in content.items()
        if name.endswith(("instructions", "items")) and isinstance(value, list)
    ]
    bodies = (
        entry.get("body") if isinstance(entry, dict) else None for each in lists for entry in each
    )
    return sum(map(len, lists)) + sum(len(body) for body in bodies if isinstance(body, list))


def _any_steps(
    header: _Header, left: dict[str, Tensor], content: dict[str, Any], limits: Limits
) -> AnySteps:
    if not header.input_shape:
        raise ValueError("samples without a dimension have no steps")
    made = {
        name: make_pattern(prefix, left, content, limits)
        for name, prefix in _PREFIXES.items()
        if name == EXPLAIN or f"{prefix}pattern" in content
    }
    if len({pattern.least for pattern in made.values()}) > 1:
        raise ValueError("its two patterns are of different numbers of steps")
    patterns = Patterns(made)
    if not all(0 < n <= _MOST_FEW for n in header.few):
        raise ValueError(f"it has programs for {shown(header.few, 60)} steps beside its pattern")
    few = {n: _made(f"few.{n}.", left, content, limits, patterns) for n in header.few}
    return AnySteps(few, patterns, header.most)


def _made(
    prefix: str,
    left: dict[str, Tensor],
    content: dict[str, Any],
    limits: Limits,
    patterns: Patterns | None = None,
) -> Compiled:
    shared = patterns.patterns if patterns is not None else {}
    programs = {
        name: make(f"{prefix}{own}", left, content, shared.get(name), limits)
        for name, own in _PREFIXES.items()
        if name == EXPLAIN or f"{prefix}{own}program" in content
    }
    return Compiled(programs, patterns)


def _method(header: _Header, options: Any) -> methods.Method:
    if not isinstance(options, dict):
        raise ValueError("options: wanted a mapping")
    if header.custom is None:
        return methods.get(header.method, **options)
    if len(json.dumps([header.method, options])) > _LONGEST_TEXT:
        raise ValueError("the name and options of its method are no few lines of text")
    return methods.Custom(header.method, options, header.custom)


def _name_of(method: methods.Method) -> str:
    return method.custom_name if isinstance(method, methods.Custom) else method.name


def _plain_options(method: methods.Method) -> dict[str, Any]:
    """Return the options of a user's method as JSON has them."""
    try:
        plain = json.loads(json.dumps(method.options))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a file names the options of its method, and those of {type(method).__name__} are "
            f"nothing that JSON can hold: {error}"
        ) from None
    if not isinstance(plain, dict) or len(json.dumps([method.name, plain])) > _LONGEST_TEXT:
        raise TypeError(f"the options of {type(method).__name__} are no short mapping")
    return plain
