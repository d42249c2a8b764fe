# SPDX-License-Identifier: Apache-2.0
"""Reads calls of `attribute` as they are written for captum and for Quantus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrel.compiler.graph.layout import is_structure
from pyrel.engine.compiled_model import CompiledModel
from pyrel.engine.several import SeveralInputs
from pyrel.methods import IntegratedGradients, Method
from pyrel.methods.options import flag, single, whole

_PLANNED = ("baseline", "n_steps")  # options of a method that no program is compiled for
_TAKEN = (
    "inputs, target, baselines, additional_forward_args, return_convergence_delta, n_steps, "
    "internal_batch_size"
)


@dataclass(frozen=True, eq=False)
class AsCaptum:
    """What a call in captum's words asks for, in pyrel's.

    Attributes
    ----------
    x : array or structure of inputs
    target : Any
        As an explainer takes it.
    lengths : Any
        Likewise.
    changed : dict
        Options of the method that the call changes.
    delta : bool
        Whether the convergence delta is asked for, too.
    in_tuple : bool
        Whether attributions go back as a tuple of one.
    """

    x: Any
    target: Any
    lengths: Any
    changed: dict[str, Any]
    delta: bool
    in_tuple: bool

    def result(self, relevance: Any, conservation: Any, absorbed: Any) -> Any:
        """Return what captum returns: attributions, and with the delta a pair."""
        attributions = (relevance,) if self.in_tuple else relevance
        return (attributions, conservation + absorbed) if self.delta else attributions


class Attributing(CompiledModel, ABC):
    """A compiled model that is called as captum's and Quantus's users call theirs."""

    @abstractmethod
    def __call__(self, x: Any, target: Any = None, *, lengths: Any = None) -> Any:
        """Explain a batch; what is returned has the fields of a `pyrel.Explanation`."""

    def attribute(self, inputs: Any, *positional: Any, **named: Any) -> Any:
        """Return the relevance alone, by a call as it is written for captum.

        Parameters
        ----------
        inputs : array, or tuple of one, or of several inputs
            As ``x`` of a call; of a tuple, attributions are a tuple, too.
        target : int, integers of shape (n,), tuple, or list of such, optional
            Without a name it comes second, and for methods with a baseline after that, if any.
        baselines : number or array, or tuple of one, optional
            Of a method with a baseline, instead of the explainer's; the same for all samples. Of
            several inputs a number, or one for each as the inputs are given.
        additional_forward_args : optional
            The lengths of the sequences, where the explainer takes them.
        return_convergence_delta : bool
            Return a pair: attributions, and for each sample what they add up to less what they
            should: of integrated gradients ΣR − (f(x) − f(baseline)), of methods that conserve
            relevance ΣR + absorbed − what was put in. (n,)
        n_steps : int, optional
            Of integrated gradients, instead of the explainer's.
        internal_batch_size : int, optional
            Changes nothing: pyrel chooses how many copies it makes at a time.

        Raises
        ------
        TypeError, ValueError
            As for a call, and where the method has no such thing; the message names the argument.

        Examples
        --------
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
        >>> ig = pyrel.Explainer(model, x, "integrated_gradients")
        >>> baseline = torch.full((1, 3), 0.5)
        >>> maps, delta = ig.attribute(x, baseline, target=(1,), return_convergence_delta=True)
        >>> maps.shape, delta.shape
        (torch.Size([5, 3]), torch.Size([5]))
        """
        takes = self.inputs.lengths, self.outputs.dimensions
        several = self.inputs if isinstance(self.inputs, SeveralInputs) else None
        call = read_call(self.method, *takes, inputs, positional, several, **named)
        explainer = self._with_options(call.changed) if call.changed else self
        e = explainer(call.x, call.target, lengths=call.lengths)
        return call.result(e.relevance, e.conservation, e.absorbed)


def read_call(
    method: Method,
    takes_lengths: bool,
    dimensions: int,
    inputs: Any,
    positional: tuple[Any, ...],
    several: SeveralInputs | None = None,
    **named: Any,
) -> AsCaptum:
    """Read a call's arguments.

    Parameters
    ----------
    method : Method
    takes_lengths : bool
        Whether the explainer takes the lengths of sequences.
    dimensions : int
        How many indices name an output of a sample.
    inputs : array, or tuple of one
    positional : tuple
        What comes after ``inputs`` without a name: a target, or, for methods with a baseline, as in
        captum baselines and perhaps a target.
    several : SeveralInputs, optional
        What the explainer takes, if it takes several inputs.
    **named
        The arguments with names.

    Raises
    ------
    TypeError, ValueError
        If pyrel does not take one of them; the message names it.
    """
    named = _with_positional(method, positional, named)
    unknown = sorted(named.keys() - set(_TAKEN.split(", ")))
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: attribute takes {_TAKEN}")
    in_tuple = isinstance(inputs, tuple) and several is None
    if in_tuple and len(inputs) != 1:
        raise TypeError(f"inputs: wanted one array or a tuple of one, got a tuple of {len(inputs)}")
    x = inputs[0] if in_tuple else inputs
    delta = flag("return_convergence_delta", named.get("return_convergence_delta", False))
    if delta and not (method.conserves or isinstance(method, IntegratedGradients)):
        raise TypeError(
            f"return_convergence_delta: the relevance of {method.name} has no sum to converge to; "
            "that of integrated_gradients and of methods that conserve relevance has"
        )
    if named.get("internal_batch_size") is not None:
        whole("internal_batch_size", named["internal_batch_size"], 1, 2**63 - 1)
    target = _target(named.get("target"), dimensions)
    lengths = _lengths(named.get("additional_forward_args"), takes_lengths)
    changed = _changed(method, x, named, several)
    return AsCaptum(x, target, lengths, changed, delta, in_tuple)


def _with_positional(
    method: Method, positional: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """Give names to arguments without one.

    Floats are no target, so the first is ``baselines`` if it holds such, or if the target has been
    given by name or comes next.
    """
    names: list[str] = []
    if positional:
        is_baseline = len(positional) > 1 or "target" in named or _holds_floats(positional[0])
        names = ["baselines", "target"] if is_baseline else ["target"]
    if len(positional) > len(names) or (len(positional) > 1 and not _has(method, "baseline")):
        raise TypeError(
            f"attribute: wanted what comes after the target by name, got {len(positional)} "
            "arguments after inputs without one"
        )
    given = dict(zip(names, positional, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise TypeError(f"{', '.join(twice)}: given twice, with the name and without")
    return given | named


def _holds_floats(value: Any) -> bool:
    if isinstance(value, tuple) and value:
        value = value[0]
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")


def _has(method: Method, option: str) -> bool:
    return option in vars(method)


def _target(target: Any, dimensions: int) -> Any:
    """Return the class as an explainer takes it: captum's tuple has an index for each dimension."""
    if isinstance(target, tuple):
        return _class_of(target, dimensions)
    if isinstance(target, list) and any(isinstance(each, tuple) for each in target):
        return [_class_of(each, dimensions) if isinstance(each, tuple) else each for each in target]
    return single(target)


def _class_of(index: tuple[Any, ...], dimensions: int) -> Any:
    if len(index) != dimensions:
        wanted = "one dimension, as (3,), for outputs (n, classes)"
        if dimensions > 1:
            wanted = f"{dimensions} dimensions, as ({', '.join('0' * dimensions)})"
        raise ValueError(f"target: wanted an index of {wanted}; got {index}")
    return single(index[0]) if dimensions == 1 else index


def _lengths(given: Any, taken: bool) -> Any:
    if isinstance(given, tuple):
        if len(given) > 1:
            raise TypeError(
                "additional_forward_args: wanted the lengths of the sequences or None, got a tuple "
                f"of {len(given)}"
            )
        given = given[0] if given else None
    if given is not None and not taken:
        raise TypeError(
            "additional_forward_args: wanted None, or, from an explainer made with lengths=True, "
            f"the lengths of the sequences; got {type(given).__name__}"
        )
    return given


def _changed(
    method: Method, x: Any, named: dict[str, Any], several: SeveralInputs | None
) -> dict[str, Any]:
    """Return options of the method that a call gives, as baselines of captum's forms."""
    given = {
        "baseline": _baselines(named.get("baselines"), x, several),
        "n_steps": named.get("n_steps"),
    }
    changed = {name: value for name, value in given.items() if value is not None}
    for option, name in zip(_PLANNED, ("baselines", "n_steps"), strict=True):
        if option in changed and not _has(method, option):
            raise TypeError(f"{name}: {method.name} takes none")
    return changed


def _baselines(given: Any, x: Any, several: SeveralInputs | None) -> Any:
    """Return a baseline; of several inputs one for each by name."""
    if several is None or not is_structure(given):
        return _baseline(given, x)
    layout = several.layout
    pairs = zip(layout.names, layout.taken(given, "baselines"), layout.taken(x), strict=True)
    return {name: _baseline(each, of) for name, each, of in pairs if each is not None}


def _baseline(given: Any, x: Any) -> Any:
    """Return one baseline for all samples; where there is one for each, they have to be alike."""
    if isinstance(given, tuple):
        if len(given) != 1:
            raise TypeError(f"baselines: wanted one, or a tuple of one, got {len(given)}")
        given = given[0]
    shape = getattr(given, "shape", None)
    if shape is None or shape != getattr(x, "shape", None) or len(given) == 0:
        return given
    if not bool((given == given[:1]).all()):
        raise ValueError(
            "baselines: wanted one for all samples, got others for some; explain the samples of "
            "each baseline in a call of their own"
        )
    return given[0]
