# SPDX-License-Identifier: Apache-2.0
"""A program on a CUDA device."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, NamedTuple

import numpy as np

from pyrel import _core
from pyrel._core import Outcome
from pyrel.compiler.program.program import Program
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.cuda.library import Batch, library
from pyrel.engine.devices import number_of
from pyrel.engine.loaded import Weights, checked
from pyrel.engine.precision import on_device


class CudaStatus(NamedTuple):
    """How a run ended, and where it failed; as `pyrel._core.Status`."""

    outcome: Outcome
    sample: int
    element: int


class CudaEngine:
    """A program that a device holds, with what Python uses of `pyrel._core.Engine`.

    It is freed there with this object. Several threads may call at once.

    Parameters
    ----------
    program : Program
    device : str
        Such as "cuda:0".
    weights : Weights, optional
        Of a pattern that the program is written by, which are then not copied on the host.
    precision : str
        How products are formed that are not of bfloat16, see `pyrel.engine.precision`.

    Attributes
    ----------
    device : str
    classes, arena_size, image_bytes : int
    precision : int
        As the library numbers it.
    bounds : tuple of Tensor or None
        Those of the input on the device, kept by who copies them there.
    explains : bool
    flops : float
    keeps_forward : bool
        Whether a sample may go back for several targets after one forward pass.

    Raises
    ------
    ValueError
        If the device cannot run the program.
    CudaError
        If there is no such device, or it has no memory for the program.
    """

    bounds: tuple[Any, Any] | None = None
    chunk = 0  # samples of the host that go to the device at once; 0 lets the library choose

    def __init__(
        self,
        program: Program,
        device: str,
        weights: Weights | None = None,
        precision: str = "float32",
    ) -> None:
        core = checked(program, weights)
        self.device = device
        self.precision = on_device(precision, core.multiplies_bf16)
        self.classes, self.arena_size = program.classes, program.arena_size
        self._input_size = program.input_size
        self.explains, self.flops = core.explains, core.flops
        self.keeps_forward = core.keeps_forward
        self._library = library()
        image = _core.cuda_image(core)
        self.image_bytes = len(image)
        self._handle = self._library.load(image, number_of(device))
        freed = weakref.finalize(self, self._library.free, self._handle)
        freed.atexit = False  # a daemon thread may still run it then; the process's end frees all

    def run(
        self,
        x: Float32s,
        target: Int64s | None,
        low: Float32s | None,
        high: Float32s | None,
        check_finite: bool,
        threads: int,
        relevance: Float32s | None,
        output: Float32s,
        explained: Int64s,
        absorbed: Float32s,
        conservation: Float32s,
        amplification: Float32s,
        first: int = 0,
        ways_back: int = 1,
    ) -> CudaStatus:
        """Explain samples of the host, which are those from ``first`` on of the other arrays.

        As `pyrel._core.Engine.run`; ``threads`` changes nothing.

        Raises
        ------
        ValueError
            If an array has another size than the program asks for, or a target is no class.
        CudaError
            If the device fails.
        """
        if ways_back != 1 and not self.keeps_forward:
            raise ValueError("the way back writes over what the forward pass leaves it")
        results = relevance, output, explained, absorbed, conservation, amplification
        self._check(x, target, (low, high), results, first, ways_back)
        of_ways = [ways_back if each is not output else 1 for each in results]
        done = 0
        while True:  # between two calls Python looks at signals
            batch = Batch(len(x) - done, _address(x, done))
            batch.target = _address(target, (first + done) * ways_back)
            batch.low, batch.high = _address(low, 0), _address(high, 0)
            batch.check_finite, batch.chunk, batch.ways = check_finite, self.chunk, ways_back
            pairs = zip(results, of_ways, strict=True)
            _put_results(batch, [_address(each, (first + done) * ways) for each, ways in pairs])
            status = self._run("pyrel_cuda_run_from_host", batch)
            if status.outcome != Outcome.done:
                return status._replace(sample=status.sample + done if status.sample >= 0 else -1)
            done += int(batch.done)
            if done >= len(x):
                return status

    def run_there(self, batch: Batch) -> CudaStatus:
        """Explain a batch in the device's memory, on its stream, and wait for it."""
        batch.ways = 1
        return self._run("pyrel_cuda_run", batch)

    def _run(self, name: str, batch: Batch) -> CudaStatus:
        batch.precision = self.precision
        self._library.call(name, self._handle, ctypes.byref(batch))
        return CudaStatus(Outcome(batch.outcome), int(batch.sample), int(batch.element))

    def _check(
        self,
        x: Float32s,
        target: Int64s | None,
        bounds: tuple[Float32s | None, Float32s | None],
        results: tuple[Any, ...],
        first: int,
        ways: int,
    ) -> None:
        """Refuse what the library would read or write beyond its end, and targets of no class."""
        n, size = len(x), self._input_size
        end = (first + n) * ways
        relevance, output, explained, *columns = results
        if relevance is not None and not self.explains:
            raise ValueError("a program that only computes outputs writes no relevance")
        floats = [(x, n * size), *((each, size) for each in bounds)]
        floats += [(relevance, end * size), (output, (first + n) * self.classes)]
        floats += [(each, end) for each in columns]
        integers = [(each, end) for each in (target, explained)]
        if (
            first < 0
            or x.size != n * size
            or not all(_holds(each, np.float32, count) for each, count in floats)
            or not all(_holds(each, np.int64, count) for each, count in integers)
        ):
            raise ValueError("the arrays do not have the sizes that the program asks for")
        if target is not None:
            own = target.reshape(-1)[first * ways : end]
            if own.size and not (own.min() >= 0 and own.max() < self.classes):
                raise ValueError("a target is no class")


def _put_results(batch: Batch, addresses: list[int | None]) -> None:
    (
        batch.relevance,
        batch.output,
        batch.explained,
        batch.absorbed,
        batch.conservation,
        batch.amplification,
    ) = addresses


def _holds(array: Any, dtype: Any, count: int) -> bool:
    return array is None or (
        array.dtype == dtype and array.flags.c_contiguous and array.size >= count
    )


def _address(array: Any, sample: int) -> int | None:
    """Return where a sample of an array begins."""
    if array is None:
        return None
    stride = array.strides[0] if len(array) else 0
    return int(array.ctypes.data) + sample * stride
