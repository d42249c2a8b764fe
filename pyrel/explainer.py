# SPDX-License-Identifier: Apache-2.0
"""`Explainer`, `explain` and what they return."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from pyrel import _core, arrays, methods, runtime
from pyrel._core import Outcome, Status
from pyrel.arrays import Array, Float32s, Int64s
from pyrel.capturing import capture
from pyrel.graph import Floats, Graph
from pyrel.lower import lower, lower_forward
from pyrel.precision import check_precision, classes_of_float32
from pyrel.program_files import Compiled, read_program, write_program

_AGAIN_AT_ONCE = 1024  # samples that are copied to be explained again

Model: TypeAlias = torch.nn.Module | ExportedProgram | Graph
Bound: TypeAlias = float | npt.ArrayLike | torch.Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a method says of a batch. Arrays are of the input's type: NumPy or torch.

    Attributes
    ----------
    relevance : float32, shape of the input
        How much each input element contributed.
    output : float32, shape (n, classes)
        Raw outputs of the model, before any softmax.
    target : int64, shape (n,)
        The explained class.
    absorbed : float32, shape (n,)
        Relevance kept by biases and constants. Relevance and absorbed add up to what was put in.
    conservation : float32, shape (n,)
        Σ relevance − relevance put in, which biases and rounding make differ from zero; NaN for
        methods that do not propagate relevance.
    """

    relevance: Any
    output: Any
    target: Any
    absorbed: Any
    conservation: Any


class Explainer:
    """A model compiled for one explanation method.

    Compiling copies the weights: later changes to the model do not show. An explainer may be used
    from several threads at once, and after a fork. `save` and `load` keep it as a file.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram or Graph
        Takes one tensor (n, ...) and returns raw scores (n, classes) or (n,).
    example : ndarray or Tensor, shape (n, ...), optional
        Any input of the right shape; needed for a module only.
    method : str or Method
        A name of `pyrel.methods.names()`, or an object such as ``pyrel.methods.DeepTaylor()``.
    low, high : float or array that broadcasts to one sample, optional
        Smallest and largest value that inputs take, ``low <= 0 <= high``. Without them inputs may
        be any real numbers. deep_taylor chooses its rule at the input by them.
    check_finite : bool
        Refuse NaN and infinity in inputs and outputs.
    precision : {"float32", "bf16", "bf16_all"}
        "bf16" forms the products of relevance from numbers rounded to bfloat16 (8 significant
        bits), summed in float32; outputs and class stay those of float32. "bf16_all" forms all
        products so, which suits deep_taylor only: gradients change where a ReLU flips. Where no
        target is given, forward passes in float32 decide the class of some samples, and of all
        whose two largest outputs are close by the errors that those show; with 64 samples or fewer
        all are decided so, which costs more than "bf16" does. ``output`` stays what was shared out.
        Both need a processor with products of bfloat16.
    **options
        Arguments of the method, where it is given by name; such as ``squared=False``.

    Attributes
    ----------
    method : Method
    input_shape : tuple of int
        Shape of one sample.
    classes : int
        Number of raw outputs.

    Raises
    ------
    UnsupportedModelError
        If the model holds something that pyrel, or the method, has no rule for.
    ValueError, TypeError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> explainer = pyrel.Explainer(model, x[:1], low=0.0, high=1.0)
    >>> e = explainer(x)
    >>> e.relevance.shape == x.shape
    True
    """

    def __init__(
        self,
        model: Model,
        example: Array | None = None,
        method: str | methods.Method = "deep_taylor",
        *,
        low: Bound | None = None,
        high: Bound | None = None,
        check_finite: bool = True,
        precision: str = "float32",
        **options: Any,
    ) -> None:
        isa = runtime.isa()
        check_precision(precision, isa)
        chosen = methods.get(method, **options)
        graph = model if isinstance(model, Graph) else _locked_capture(model, example)
        bounds = arrays.bounds(low, high, graph.input_shape)
        domain = _domain(bounds, graph.input_size)
        program = lower(graph, chosen, *domain, precision)
        decider = None
        if precision == "bf16_all":
            decider = lower_forward(graph, chosen, *domain)
        shape = graph.input_shape
        compiled = Compiled(chosen, shape, bounds, bool(check_finite), program, decider)
        self._take(compiled, *compiled.load(isa))

    def _take(self, compiled: Compiled, core: _core.Program, decider: _core.Program | None) -> None:
        self._compiled, self._core, self._decider = compiled, core, decider
        self.method = compiled.method
        self.input_shape = compiled.input_shape
        self.classes = compiled.program.classes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled program to a file, which `load` reads without the model.

        The file holds the weights as they are, not packed for this machine's instruction set.

        Parameters
        ----------
        path : path
            Replaced in one step if it exists; folders are made as needed. Any name will do;
            the content is a safetensors file.

        Raises
        ------
        TypeError
            If the method is a class of your own: a file can only name the methods of pyrel.
        OSError
            If the file cannot be written.
        """
        write_program(Path(path), self._compiled)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explainer:
        """Read an explainer that `save` wrote.

        Nothing in the file is executed as code, and the engine checks every instruction before it
        runs one: a file of a stranger can at worst explain wrongly, or need much memory.

        Parameters
        ----------
        path : path

        Returns
        -------
        Explainer
            With the same results as the saved one, bit for bit on the same instruction set.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is truncated, changed, foreign or of a newer pyrel; the message names the file.
        """
        explainer = cls.__new__(cls)
        explainer._take(*read_program(Path(path), runtime.isa()))
        return explainer

    def __repr__(self) -> str:
        """Show method, shapes and instruction set."""
        shape = ", ".join(map(str, self.input_shape))
        outputs = f"{self.classes} outputs"
        return f"Explainer({self.method}, input (n, {shape}), {outputs}, {self._core.isa})"

    @property
    def flops(self) -> float:
        """Floating-point operations of the products for one sample, forward and backward."""
        return self._core.flops

    def __call__(self, x: Array, target: Any = None, *, out: Array | None = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        x : ndarray or Tensor of floats, shape (n, ...)
            Any batch size, zero included.
        target : int or integers of shape (n,), optional
            The class to explain; by default the predicted one, ties to the lowest index.
        out : float32 ndarray or CPU Tensor of the shape of ``x``, optional
            Where to write the relevance; a memory map too.

        Notes
        -----
        Contiguous float32 in main memory, or in a memory map, is read where it lies. Anything else
        is converted piece by piece, so a call needs little memory beside its results; with a memory
        map as ``out`` those are 16 bytes and the raw outputs for each sample.

        Returns
        -------
        Explanation

        Raises
        ------
        ValueError
            If ``x`` has the wrong shape, holds NaN or infinity or a value outside [low, high], if
            a target is no class, or if the model's output overflows.
        TypeError
            If an argument has the wrong type.
        """
        arrays.check_batch(x, self.input_shape)
        n = x.shape[0]
        targets = arrays.targets(target, n, self.classes)
        relevance = arrays.result(out, x)
        results = (relevance, *self._results(n))
        threads = runtime.num_threads() if n > 1 else 1  # one sample is never divided
        for first, values in arrays.pieces(x):
            self._run(self._core, values, targets, results, threads, first)
            if self._decider is not None and targets is None:
                self._decide(values, results, threads, first)
        given = arrays.like(relevance, x) if out is None else out
        return Explanation(given, *[arrays.like(column, x) for column in results[1:]])

    def _results(self, n: int) -> tuple[Float32s, Int64s, Float32s, Float32s]:
        """Return places for output, explained class, absorbed and conservation."""
        return (
            np.empty((n, self.classes), dtype=np.float32),
            np.empty(n, dtype=np.int64),
            np.empty(n, dtype=np.float32),
            np.empty(n, dtype=np.float32),
        )

    def _run(
        self,
        core: _core.Program,
        values: Float32s,
        targets: Int64s | None,
        results: tuple[Float32s | None, Float32s, Int64s, Float32s, Float32s],
        threads: int,
        first: int = 0,
        numbers: Int64s | None = None,
    ) -> None:
        """Run ``values``, which are the samples from ``first`` on of targets and results.

        ``numbers`` are theirs in the whole batch, where they are not those from ``first`` on.
        """
        low, high = self._compiled.bounds or (None, None)
        check = self._compiled.check_finite
        status = core.run(values, targets, low, high, check, threads, *results, first)
        if status.outcome != Outcome.done:
            number = first + status.sample if numbers is None else int(numbers[status.sample])
            raise self._failure(status, number, values)

    def _decide(
        self,
        values: Float32s,
        results: tuple[Float32s, Float32s, Int64s, Float32s, Float32s],
        threads: int,
        first: int,
    ) -> None:
        """Explain those samples again whose class is another one in float32."""
        core = self._decider
        assert core is not None

        def forward(some: Int64s) -> tuple[Float32s, Int64s]:
            exact = self._results(some.size)
            self._run(core, values[some], None, (None, *exact), threads, numbers=first + some)
            return exact[:2]

        here: list[npt.NDArray[Any]] = [c[first : first + len(values)] for c in results]
        classes = classes_of_float32(here[1], here[2], forward)
        other = np.flatnonzero(classes != here[2])
        for start in range(0, other.size, _AGAIN_AT_ONCE):
            some = other[start : start + _AGAIN_AT_ONCE]
            places = np.empty((some.size, *self.input_shape), np.float32)
            again = (places, *self._results(some.size))
            self._run(self._core, values[some], classes[some], again, threads, numbers=first + some)
            for column, replacement in zip(here, again, strict=True):
                column[some] = replacement

    def attribute(self, inputs: Array, target: Any = None) -> Any:
        """Relevance alone, under the name that captum and Quantus call."""
        return self(inputs, target).relevance

    def _failure(self, status: Status, sample: int, values: Float32s) -> Exception:
        """Say in words why the engine refused ``values``: because of ``x[sample]``."""
        if status.outcome == Outcome.out_of_memory:
            return MemoryError(f"no memory for {self._core.arena_size * 4} bytes per sample")
        if status.outcome == Outcome.relevance_not_finite:
            return ValueError(
                f"the relevance of x[{sample}] is NaN or infinite: the computation overflows in "
                "float32"
            )
        if status.outcome == Outcome.output_not_finite:
            return ValueError(
                f"the model's output {status.element} for x[{sample}] is NaN or infinite: the "
                "computation overflows in float32"
            )
        within = [int(i) for i in np.unravel_index(status.element, self.input_shape)]
        where = f"x[{', '.join(map(str, [sample, *within]))}]"
        value = values[(status.sample, *within)]
        if status.outcome == Outcome.input_not_finite:
            return ValueError(
                f"x: wanted finite float32 values, got {where} = {value}; "
                "check_finite=False lets it pass"
            )
        assert self._compiled.bounds is not None
        low, high = (bound[status.element] for bound in self._compiled.bounds)
        return ValueError(
            f"x: wanted values in [low, high] = [{low}, {high}], got {where} = {value}"
        )


def _domain(bounds: tuple[Float32s, Float32s] | None, size: int) -> tuple[Floats, Floats]:
    """Range of every input element for lowering; infinite where nothing is known."""
    if bounds is None:
        return np.full(size, -np.inf), np.full(size, np.inf)
    low, high = bounds
    return low.astype(np.float64), high.astype(np.float64)


# torch.export is not safe to run in several threads, and capture switches modules to eval mode.
_capture_lock = threading.Lock()


def _locked_capture(model: Any, example: Array | None) -> Graph:
    with _capture_lock:
        return capture(model, example)


_KEPT_EXPLAINERS = 8  # of a module: enough for its methods, few where bounds differ by call


@dataclass(eq=False)
class _Kept:
    """What `explain` keeps of a module: its graph, and the explainers made of it, by options."""

    key: tuple[Any, ...]
    graph: Graph
    explainers: dict[tuple[Any, ...], Explainer] = field(default_factory=dict)


_kept: weakref.WeakKeyDictionary[torch.nn.Module, _Kept] = weakref.WeakKeyDictionary()


def explain(
    model: Model,
    x: Array,
    method: str | methods.Method = "deep_taylor",
    target: Any = None,
    **options: Any,
) -> Explanation:
    """Explain a batch in one call.

    What was captured and compiled is kept for the next call with the same module, as long as its
    weights and the shape of a sample stay the same. Weights are compared by their contents, so a
    change made in any way is noticed; a change of other attributes (a number of steps, say) is not:
    make an `Explainer` then.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram or Graph
    x : ndarray or Tensor of floats, shape (n, ...)
    method : str or Method
    target : int or integers of shape (n,), optional
    **options
        ``low``, ``high``, ``check_finite`` and the method's own, as `Explainer` takes them.

    Returns
    -------
    Explanation

    See Also
    --------
    Explainer : the same, compiled once for many calls.
    """
    if not isinstance(x, np.ndarray | torch.Tensor):
        raise TypeError(f"x: wanted an array or a tensor, got {type(x).__name__}")
    if not isinstance(model, torch.nn.Module):
        return Explainer(model, x, method, **options)(x, target)
    kept = _keep(model, x)
    plain = all(isinstance(v, int | float | str | None) for v in options.values())
    if not plain or not isinstance(method, str):
        return Explainer(kept.graph, x, method, **options)(x, target)
    key = (method, runtime.isa(), *sorted(options.items()))
    explainer = kept.explainers.pop(key, None)
    if explainer is None:
        explainer = Explainer(kept.graph, x, method, **options)
    kept.explainers[key] = explainer  # the latest used comes last
    if len(kept.explainers) > _KEPT_EXPLAINERS:
        del kept.explainers[next(iter(kept.explainers))]
    return explainer(x, target)


def _keep(model: torch.nn.Module, x: Array) -> _Kept:
    key = (tuple(getattr(x, "shape", ())[1:]), _fingerprint(model))
    kept = _kept.get(model)
    if kept is None or kept.key != key:
        kept = _kept[model] = _Kept(key, _locked_capture(model, x))
    return kept


def _fingerprint(model: torch.nn.Module) -> bytes:
    """Digest of names, shapes and contents of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
