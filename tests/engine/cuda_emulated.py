# SPDX-License-Identifier: Apache-2.0
"""Runs programs by the CUDA library on this machine, whose threads an emulator takes in turns.

The library's own host side runs too: over the functions of a device, which tests/native/cuda has
for the host's memory (see csrc/cuda/runtime.h).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from engine.building import ROOT, run, tool

import pyrel
from pyrel import _core
from pyrel.compiler.program.program import Program
from pyrel.engine import loaded
from pyrel.engine.cuda.library import ERROR_BYTES, Batch, Library

FOLDERS = ("csrc/cuda", "csrc/program", "csrc/shared", "tests/native/cuda")
SOURCES = (
    "csrc/cuda/from_host.cpp",
    "csrc/cuda/library.cpp",
    "csrc/cuda/step_by_step.cpp",
    "tests/native/cuda/runtime_emulated.cpp",
    "tests/native/cuda/emulator.cpp",
)
# Nothing is contracted but by name, as in the engine; `#pragma unroll` is nvcc's.
FLAGS = (
    *("-std=c++20", "-O2", "-g1", "-mfma", "-mavx2", "-ffp-contract=off", "-fno-math-errno"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *("-fPIC", "-shared", "-fvisibility=hidden"),
    *("-DPYREL_CUDA_EMULATED", "-Icsrc", "-Icsrc/cuda", "-Itests/native/cuda"),
)
ISA = "avx2"
# Set to 1 where tests of device= shall run on a GPU, by the library that pyrel finds itself. Tests
# that need the emulator then skip.
ON_GPU = os.environ.get("PYREL_TEST_CUDA") == "1"


class Arrays(NamedTuple):
    """What a run writes; no relevance where it computes outputs alone."""

    relevance: Any
    output: Any
    explained: Any
    absorbed: Any
    conservation: Any
    amplification: Any

    @classmethod
    def places(cls, x: Any, classes: int, relevance: bool) -> Arrays:
        """Return arrays in which NaN, and -1, stand where nothing is written."""
        n = len(x)
        floats = [np.full(n, np.nan, np.float32) for _ in range(3)]
        return cls(
            np.full(x.shape, np.nan, np.float32) if relevance else None,
            np.full((n, classes), np.nan, np.float32),
            np.full(n, -1, np.int64),
            *floats,
        )

    def bits(self) -> tuple[bytes | None, ...]:
        """Return each array as bytes."""
        return tuple(None if array is None else array.tobytes() for array in self)


class EmulationError(Exception):
    """What the library, or the emulator, says went wrong: a race, an access out of region."""


class RefusedError(Exception):
    """A sample that an engine refuses.

    Attributes
    ----------
    outcome : Outcome
    sample, element : int
    """

    def __init__(self, outcome: _core.Outcome, sample: int, element: int) -> None:
        super().__init__(f"{outcome.name}: sample {sample}, element {element}")
        self.outcome, self.sample, self.element = outcome, sample, element


class OnDevice:
    """A program that the library has loaded.

    Parameters
    ----------
    program : Program
        A finished one, see `pyrel.engine.loaded.checked` and `program_of`.
    """

    def __init__(self, program: _core.Program) -> None:
        image = _image(program)
        self._classes, self._handle = _sizes_in(image).classes, ctypes.c_void_p()
        call("pyrel_cuda_load", image, len(image), 0, ctypes.byref(self._handle))

    def __enter__(self) -> OnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        library().pyrel_cuda_free(self._handle)

    def explain(
        self,
        x: Any,
        target: Any = None,
        low: Any = None,
        high: Any = None,
        relevance: bool = True,
        groups: int = 1,
        team: int = 1,
        teams: int = 1,
        by_steps: bool = False,
        in_parts: int = 0,
        precision: int = 0,
        seed: int = 0,
        dropped_barrier: int = -1,
        check_finite: bool = True,
    ) -> Arrays:
        """Explain ``x``.

        Parameters
        ----------
        x : array, shape (n, ...)
        target : array of int, shape (n,), optional
        low, high : array, shape (input size,), or any that broadcasts to a sample, optional
        relevance : bool
            False to compute outputs alone.
        groups, team, teams : int
            Of eight samples in a slab, blocks that share one, and such teams at once; 0 lets the
            library choose.
        by_steps : bool
            Whether the steps between two barriers are launches of their own.
        in_parts : int
            1 to walk each instruction with all of its rows, 2 to walk stretches part by part where
            there are any; 0 lets the library choose.
        precision : int
            0 for float32, 1 for three products of TF32, 2 for one.
        seed : int
            Of the order in which threads run.
        dropped_barrier : int
            The number of a barrier that does nothing; see `barriers`.
        check_finite : bool

        Raises
        ------
        EmulationError, RefusedError
        """
        values, results = _floats(x), Arrays.places(x, self._classes, relevance)
        held = [_targets(target), *(_bound(each, values) for each in (low, high))]
        batch = Batch(len(values), _address(values), *map(_address, (*held, *results)))
        batch.check_finite, batch.precision = check_finite, precision
        batch.groups, batch.team, batch.teams = groups, team, teams
        batch.by_steps, batch.in_parts, batch.ways = by_steps, in_parts, 1
        with _LOCK:
            library().pyrel_cuda_emulate(seed, dropped_barrier)
            try:
                call("pyrel_cuda_run", self._handle, ctypes.byref(batch))
            finally:
                library().pyrel_cuda_emulate(0, -1)
        if batch.outcome:
            raise RefusedError(_core.Outcome(batch.outcome), batch.sample, batch.element)
        return results


def explain(program: _core.Program, x: Any, *given: Any, **named: Any) -> Arrays:
    """Explain ``x`` by the CUDA library, emulated; options and errors are those of `OnDevice`."""
    with OnDevice(program) as made:
        return made.explain(x, *given, **named)


def barriers() -> int:
    """Return how many barriers a block of the last launch came to; any of them can be dropped."""
    return int(library().pyrel_cuda_barriers())


class Division(NamedTuple):
    """How a run divided its samples: groups of a slab, blocks of a team, teams at once."""

    groups: int
    team: int
    teams: int


def division() -> Division:
    """Return how the last run divided its samples."""
    made = library()
    return Division(made.pyrel_cuda_groups(), made.pyrel_cuda_team(), made.pyrel_cuda_teams())


def launches() -> int:
    """Return how many launches the last run took."""
    return int(library().pyrel_cuda_launches())


def used_memory() -> int:
    """Return how many bytes of the device are allocated."""
    return int(library().pyrel_cuda_used())


@contextmanager
def devices(count: int) -> Iterator[None]:
    """Let there be so many devices, which share their memory; less than 0 for no driver."""
    library().pyrel_cuda_set_devices(count)
    try:
        yield
    finally:
        library().pyrel_cuda_set_devices(1)


@contextmanager
def memory(said: int, given: int) -> Iterator[None]:
    """Let the device say that so many bytes are unused, and give so many at most."""
    library().pyrel_cuda_memory(said, given)
    try:
        yield
    finally:
        library().pyrel_cuda_memory(-1, -1)


def explain_on_cpu(
    program: _core.Program,
    x: Any,
    target: Any = None,
    low: Any = None,
    high: Any = None,
    relevance: bool = True,
    check_finite: bool = True,
) -> Arrays:
    """Do what `explain` does by the engine for CPUs, in the instruction set AVX2."""
    if ISA not in _core.instruction_sets():
        pytest.skip(f"this machine does not run {ISA}")
    engine, values = _core.Engine(program, ISA), _floats(x)
    results = Arrays.places(x, _sizes(program).classes, relevance)
    bounds = (_bound(each, values) for each in (low, high))
    status = engine.run(values, _targets(target), *bounds, check_finite, 1, *results)
    if status.outcome != _core.Outcome.done:
        raise RefusedError(status.outcome, status.sample, status.element)
    return results


def program_of(
    model: Any, x: Any, method: Any = "deep_taylor", low: Any = None, high: Any = None
) -> _core.Program:
    """Compile a model, for samples of the shape of those in ``x``, to the engine's program."""
    explainer = pyrel.Explainer(model, x[:2], method=method, low=low, high=high, check=None)
    return loaded.checked(compiled_program(explainer))


def compiled_program(explainer: Any) -> Program:
    """Return the program that explains, for the number of steps of the explainer's example."""
    programs = explainer._programs
    source = programs.source
    compiled = source if hasattr(source, "program") else source.at(programs._inputs.steps)
    program: Program = compiled.program
    return program


@cache
def library() -> ctypes.CDLL:
    """Load the library, which is built where its sources changed."""
    if ON_GPU:
        pytest.skip("needs the emulator, and PYREL_TEST_CUDA asks for a GPU")
    if platform.machine() != "x86_64":
        pytest.skip("the emulator is for x86-64")
    made: ctypes.CDLL = Library(built()).functions
    made.pyrel_cuda_emulate.argtypes = [ctypes.c_uint64, ctypes.c_int32]
    made.pyrel_cuda_emulate.restype = None
    made.pyrel_cuda_memory.argtypes = [ctypes.c_int64, ctypes.c_int64]
    made.pyrel_cuda_memory.restype = None
    made.pyrel_cuda_used.restype = made.pyrel_cuda_runs.restype = ctypes.c_int64
    made.pyrel_cuda_stream.restype = ctypes.c_void_p
    for name in ("set_devices", "drop_wait", "fail_launch"):
        getattr(made, f"pyrel_cuda_{name}").restype = None
    return made


@cache
def built() -> Path:
    """Build the library once for these sources; of several processes one does, others wait."""
    compiler = tool("g++")
    state = hashlib.sha256(repr((compiler, FLAGS, SOURCES)).encode())
    for path in sorted(each for folder in FOLDERS for each in (ROOT / folder).glob("*.*")):
        state.update(path.name.encode() + path.read_bytes())
    folder = ROOT / "build" / "cuda-emulated"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"libpyrel_cuda_emulated-{state.hexdigest()[:16]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for old in folder.glob("*.so"):
                old.unlink()
            # A process that is stopped leaves nothing that looks finished.
            unfinished = path.with_suffix(f".{os.getpid()}")
            run(compiler, *FLAGS, "-o", unfinished, *SOURCES, timeout=600)
            unfinished.rename(path)
    return path


class _Sizes(NamedTuple):
    input_size: int
    arena_size: int
    classes: int


_LOCK = threading.Lock()  # the emulator runs one launch at a time


def call(name: str, *arguments: Any) -> None:
    """Call a function of the library that can fail; its last argument, for errors, is added."""
    error = ctypes.create_string_buffer(ERROR_BYTES)
    if getattr(library(), name)(*arguments, error):
        raise EmulationError(error.value.decode())


def _sizes(program: _core.Program) -> _Sizes:
    return _sizes_in(_image(program))


@lru_cache(maxsize=4)
def _image(program: _core.Program) -> bytes:
    return _core.cuda_image(program)


def _sizes_in(image: bytes) -> _Sizes:
    """Read them in the Header of csrc/cuda/image.h, behind six places and two orders."""
    return _Sizes(*(int(each) for each in np.frombuffer(image, np.int32, 3, offset=6 * 8 + 2 * 16)))


def steps(program: _core.Program) -> Any:
    """Return how many steps a walk has, whole and in parts (0 where there are no stretches)."""
    return np.frombuffer(_image(program), np.int32, 8, offset=6 * 8)[[2, 6]]


def _floats(x: Any) -> Any:
    return np.ascontiguousarray(x, np.float32)


def _targets(target: Any) -> Any:
    return None if target is None else np.ascontiguousarray(target, np.int64)


def _bound(bound: Any, x: Any) -> Any:
    return None if bound is None else _floats(np.broadcast_to(bound, x.shape[1:])).reshape(-1)


def _address(array: Any) -> int | None:
    return None if array is None else array.ctypes.data
