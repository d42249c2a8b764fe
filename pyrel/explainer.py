# SPDX-License-Identifier: Apache-2.0
"""`Explainer`: a model compiled for one explanation method."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy.typing as npt
import torch

from pyrel import methods
from pyrel.compiler.capture.examples import Given
from pyrel.compiler.capture.long_loops import forget_short
from pyrel.compiler.capture.outputs import Output, checked_output
from pyrel.compiler.program.file_limits import Limits
from pyrel.engine.arrays import Array
from pyrel.engine.asked import Asked
from pyrel.engine.attribute import Attributing
from pyrel.engine.checked import NOTHING
from pyrel.engine.compiled_model import limits_of
from pyrel.engine.devices import bound
from pyrel.engine.inputs import RAISE
from pyrel.engine.outputs import CLASSIFICATION
from pyrel.engine.precision import TENSOR_CORES
from pyrel.engine.prepare import Model, Wanted, captured, check_task
from pyrel.engine.program_file import dump_program, is_named, load_program
from pyrel.engine.progress import Told, check_progress
from pyrel.engine.self_check import check_option
from pyrel.engine.several import checked_constant
from pyrel.errors import SelfCheckError
from pyrel.explanation import Explanation
from pyrel.methods.options import flag, single

Bound: TypeAlias = float | npt.ArrayLike | torch.Tensor | tuple[Any, ...] | Mapping[str, Any]


class Explainer(Attributing):
    """A model compiled for one explanation method.

    Compiling copies the weights: later changes to the model do not show. What was captured of a
    module of up to 64 MiB is kept for the next method, as long as the module lives and does not
    change. An explainer may be used from several threads at once, and after a fork. `save` and
    `load` keep it as a file.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram, Graph or Capture
        Takes one tensor (n, ...), or a module several, and returns raw scores (n, classes) or (n,),
        or with ``output`` a structure that holds them; with ``lengths`` it may take the lengths of
        the sequences as an argument more. A module is captured in eval mode, whatever mode it is
        in; a program has to be exported so.
    example : ndarray or Tensor, shape (n, ...), or tuple or dict of such, optional
        Any input of the right shape and type; needed for a module only. Integers are token ids.
        Of several inputs a tuple by position, or a dictionary by the names of forward's arguments.
    method : str or Method
        A name of `pyrel.methods.names()`, or an object such as ``pyrel.methods.DeepTaylor()``.
    low, high : float or array that broadcasts to one sample, optional
        Smallest and largest value that inputs take, ``low <= 0 <= high``; without them any. Token
        ids have none. deep_taylor chooses its rule at the input by them. Of several inputs one
        number for all of floats, a dictionary by name, or their structure.
    lengths : bool
        Calls may say how long each sequence is. The model has to take any number of steps. Of
        several inputs that is the number of steps of all that are as long as the first sequence.
    constant : sequence of str
        Names of inputs, of several, which get no relevance: what they would get is absorbed.
    output : str, int or callable, optional
        Which tensor of what the model returns is explained: the key of a dictionary, the name of a
        field of a named tuple or a dataclass, the index in a tuple or a list, or a function of what
        is returned, as ``lambda out: out["heads"][0]``. That may compute, too, but not of an
        exported program. Needed where the model returns more than one tensor.
    task : {"classification", "regression"}
        With "regression" several outputs are numbers of their own, and a call has to say which one
        it explains: the largest is no predicted class.
    out_of_range : {"raise", "clip"}
        What to do with finite values below ``low`` or above ``high``, as measures of robustness
        make them: refuse the call, or explain the nearest values inside instead.
    check_finite : bool
        Refuse NaN and infinity in inputs and outputs, and relevance that overflows or is lost near
        the ends of float32's range.
    precision : {"float32", "tf32x3", "tf32", "bf16", "bf16_all"}
        "bf16" forms the products of relevance from numbers rounded to bfloat16 (8 significant
        bits), summed in float32; outputs and class stay those of float32. "bf16_all" forms all
        products so, which suits deep_taylor only: gradients change where a ReLU flips. Where no
        target is given, forward passes in float32 decide the class of up to 64 samples, and of all
        whose two largest outputs are close by the errors that those show; ``output`` stays what was
        shared out. Both need a processor with products of bfloat16, or a CUDA device. Tensor cores
        of such a device form products of float32 by three of TF32, as exact ("tf32x3"), or by one.
    check : {"outputs", "all", None}
        Compare what was compiled with the model, on two samples of the example and on two made of
        its elements in another order (and of another number of steps, where any may be taken): the
        outputs and, for gradient methods, torch autograd's gradient; with "all" also whether
        relevance is conserved, where the method claims that. None compares nothing; see `checked`.
    device : str, torch.device or None
        What explains: "cpu", "cuda" or "cuda:1"; what lies elsewhere is copied there by chunks, and
        results back. None for the CPU, but of tensors on a CUDA device that device, if pyrel was
        built with CUDA. It has not run on a GPU yet.
    **options
        Arguments of the method, where it is given by name; such as ``squared=False``.

    Attributes
    ----------
    method : Method
    input_shape : tuple of int, or structure of such
        Shape of one sample; with ``any_steps``, of one with as many steps as the example had.
    any_steps : bool
        Whether the first axis of a sample, its steps, may have any size: where the model takes
        sequences of any length without a Python loop over their steps. The program for another
        number of steps is made when it is first met.
    classes : int
        Number of raw outputs; see `classes_at` for models that have a score for each step.
    outputs : Outputs
        Their shape, where they have several dimensions, and the task.
    inputs : Inputs
        All that is known of the input: its range, whether it is token ids, whether calls may give
        lengths.
    checked : str
        What was compared with the model when compiling, such as "outputs and gradients on 2 inputs
        × 2 samples, T = 12 and 13", and what could not be.

    Raises
    ------
    UnsupportedModelError
        If the model holds something that pyrel, or the method, has no rule for.
    SelfCheckError
        If what was compiled computes something else than the model (an `UnsupportedModelError`).
    ValueError, TypeError
        If an argument is wrong; the message names it. Of an ``output`` that the model does not
        return, it lists what there is.
    RuntimeError
        If ``device`` is of CUDA, which this pyrel was built without, or there is no driver.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(5, 3)
    >>> explainer = pyrel.Explainer(model, x[:1], low=0.0, high=1.0)
    >>> explainer.checked
    'outputs on 2 inputs × 2 samples'
    >>> explainer(x).relevance.shape
    torch.Size([5, 3])
    >>> explainer.save("model.program")
    >>> pyrel.Explainer.load("model.program").method
    DeepTaylor(epsilon=1e-06, gates='signal')
    """

    def __init__(
        self,
        model: Model,
        example: Given | None = None,
        method: str | methods.Method = "deep_taylor",
        *,
        low: Bound | None = None,
        high: Bound | None = None,
        lengths: bool = False,
        constant: Sequence[str] = (),
        output: Output = None,
        task: str = CLASSIFICATION,
        out_of_range: str = RAISE,
        check_finite: bool = True,
        precision: str = "float32",
        check: str | None = "outputs",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        binding = bound(device, precision)
        lengths, check_finite = flag("lengths", lengths), flag("check_finite", check_finite)
        check_option(check)
        chosen = methods.get(method, _own_options(), **options)
        output = checked_output(output)
        source = captured(model, example, lengths, output)
        checks = check_finite, single(out_of_range), check_task(single(task))
        wanted = Wanted(low, high, lengths, *checks, checked_constant(constant))
        asked = Asked(model, source, example, output, chosen, binding, wanted, check)
        try:
            self._compile(asked)
        except SelfCheckError:
            if not forget_short(source):  # the first steps of a loop do not say what all do
                raise
            self._compile(asked)

    def _compile(self, asked: Asked) -> None:
        inputs, compiled, padding = asked.prepared()
        self._take(asked.method, inputs, NOTHING, compiled, asked.binding)
        self.checked = asked.compared(self._programs, inputs, padding)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the bytes that `save` writes, and, if pyrel has no name for it, the method.

        So an explainer travels to other processes, such as those of `multiprocessing` and of a
        ``DataLoader``. What `save` refuses for its steps is refused here, with the same words.
        """
        compiled = self._compiled()
        data = dump_program(self.method, self.inputs, compiled, self.checked)
        method = None if is_named(self.method) else self.method
        limits = asdict(limits_of(compiled))
        device, precision = self._binding.device, self._binding.precision
        precision = precision if precision in TENSOR_CORES else "float32"
        return _unpickled, (type(self), data, method, limits, device, precision)

    def __call__(
        self,
        x: Given,
        target: Any = None,
        *,
        lengths: Any = None,
        out: Given | None = None,
        progress: Told | None = None,
    ) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        x : ndarray or Tensor of floats, or of integers if the model takes tokens, shape (n, ...)
            Any batch size, zero included; several as in the example. The file of a memory map must
            stay as it is: where it is cut off meanwhile, the operating system ends the process.
        target : int or integers of shape (n,), optional
            The class to explain; by default the predicted one, ties to the lowest index. Of outputs
            (n, T, classes) a tuple ``(t, c)``, each an int or integers (n,), or integers (n, 2),
            but no list of arrays: none is predicted there, nor where one of several is asked for
            with ``task="regression"``. Negative ones do not count from the end. With ``lengths``, t
            counts within the sequence. "each step" explains the predicted class of each.
        lengths : integers of shape (n,), optional
            How many steps each sequence has, from 1 to that of ``x``; by default all that ``x``
            has. What lies beyond is not looked at, and may be NaN or any token id; its relevance is
            0. Results are those of the sequences alone, bit for bit. Needs an explainer made with
            ``lengths=True``.
        out : float32 ndarray or CPU Tensor of the shape of ``x``, or structure, optional
            Where to write the relevance; a memory map too. Of tensors explained where they lie, on
            a CUDA device, a tensor there.
        progress : callable, optional
            Called on the way with two numbers: how many runs of a sample through the model are
            done, and how many there are in all; one for each sample, or, of methods that explain by
            changed copies of it, one for each of these and one for itself. An exception that it
            raises ends the call.

        Returns
        -------
        Explanation

        Raises
        ------
        ValueError
            If ``x`` has the wrong shape, lacks an input or has another, holds NaN or infinity or a
            value outside [low, high] or a token id that the model has no row for, if a target is no
            class or a length no number of steps, if the model does not hold for that many steps, or
            if its output or the relevance
            overflows in float32, or comes so near that relevance is lost.
        TypeError
            If an argument has the wrong type.
        """
        batch = self.inputs.batch(x)
        self.outputs.check_asked(target, self.classes)
        lengths = self._checked_lengths(batch, lengths)
        told = check_progress(progress)
        found, amplification = self._explained(batch, target, lengths, out, told)
        if self.method.conserves:
            self._stability.check(amplification)
        return Explanation(*found)

    def forward(self, x: Given, *, lengths: Any = None) -> Array:
        """Compute the raw outputs alone, as the explained ones: bit for bit ``self(x).output``.

        Parameters
        ----------
        x, lengths
            As for a call.

        Returns
        -------
        ndarray or Tensor of float32, shape (n, classes), or that of the model's output
            Of the type of ``x``, before softmax.

        Raises
        ------
        ValueError, TypeError
            As for a call, but for what is said of relevance.

        Examples
        --------
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
        >>> explainer = pyrel.Explainer(model, x, method="lrp_epsilon")
        >>> torch.equal(explainer.forward(x), explainer(x).output)
        True
        """
        batch = self.inputs.batch(x)
        return self._outputs(batch, self._checked_lengths(batch, lengths))


def _unpickled(
    cls: type[Explainer],
    data: bytes,
    method: methods.Method | None,
    limits: dict[str, Any],
    device: str | None = None,
    precision: str = "float32",
) -> Explainer:
    explainer = cls.__new__(cls)
    source, binding = "a pickled explainer", bound(device, precision)
    explainer._take(*load_program(data, binding, source, Limits(**limits), method), binding)
    return explainer


def _own_options() -> list[str]:
    """Name the options of an explainer that are not of its method."""
    parameters = inspect.signature(Explainer.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
