# SPDX-License-Identifier: Apache-2.0
"""Reads calls of `attribute` as they are written for captum and for Quantus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pyrel.compiler.graph.layout import nested, parts_of
from pyrel.engine.as_captum.inputs import GivenInputs, read_inputs
from pyrel.engine.as_captum.options import baseline_of, changed_options, is_of_each
from pyrel.engine.as_captum.signatures import named_arguments
from pyrel.engine.compiled_model import CompiledModel
from pyrel.engine.inputs import Inputs
from pyrel.engine.several import SeveralInputs
from pyrel.methods import IntegratedGradients, Method, SmoothGrad
from pyrel.methods.options import flag, single


@dataclass(frozen=True, eq=False)
class AsCaptum:
    """What a call in captum's words asks for, in pyrel's.

    Attributes
    ----------
    given : GivenInputs
    target : Any
        As an explainer takes it.
    changed : dict
        Options of the method that the call changes; a baseline may be one for each sample.
    delta : bool
        Whether the convergence delta is asked for, too.
    absolute : bool
        Whether absolute values are asked for.
    """

    given: GivenInputs
    target: Any
    changed: dict[str, Any]
    delta: bool
    absolute: bool

    def result(self, found: _Found) -> Any:
        """Return what captum returns: attributions, and with the delta a pair."""
        relevance = found.relevance
        if self.absolute:
            relevance = _mapped(abs, relevance)
        attributions = self.given.attributions(relevance)
        return (attributions, found.conservation + found.absorbed) if self.delta else attributions


class _Found(NamedTuple):
    """What a call gives back of an explanation."""

    relevance: Any
    conservation: Any
    absorbed: Any


class Attributing(CompiledModel, ABC):
    """A compiled model that is called as captum's and Quantus's users call theirs."""

    @abstractmethod
    def __call__(self, x: Any, target: Any = None, *, lengths: Any = None) -> Any:
        """Explain a batch; what is returned has the fields of a `pyrel.Explanation`."""

    def attribute(self, inputs: Any, *positional: Any, **named: Any) -> Any:
        """Return the relevance alone, by a call as it is written for captum.

        Arguments without a name come in the order of the method's counterpart in captum: after
        ``inputs`` the target, but of integrated gradients baselines, target, and of occlusion
        sliding_window_shapes, strides, baselines, target, where a list, or integers (n,), can only
        be a target. What is not given is as the explainer was made.

        Parameters
        ----------
        inputs : array, or tuple of one, or of several inputs
            As ``x`` of a call; of a tuple, attributions are a tuple, too. Of several inputs those
            that are constant may be left to ``additional_forward_args``.
        target : int, integers of shape (n,), tuple, or list of such, optional
        baselines : number or array, or tuple of one, optional
            One for all samples, or for each, (n, ...), which are then explained one by one. Of
            several inputs a number, or one for each as the inputs are given.
        additional_forward_args : array, or tuple of such, optional
            What forward takes after the inputs: the inputs that the explainer has as constant, or
            the lengths of the sequences, where it takes them.
        return_convergence_delta : bool
            Return a pair: attributions, and (n,) what they add up to less what they should: of
            integrated gradients ΣR − (f(x) − f(baseline)), of methods that conserve relevance
            ΣR + absorbed − what was put in.
        n_steps, method : int, "gausslegendre", optional
            Of integrated gradients.
        sliding_window_shapes, strides : tuple of int, int or tuple of int, optional
            Of occlusion, the size of a patch along each axis of a sample, and how far patches are
            apart, by default 1. Of several inputs one for each, all alike.
        nt_type, nt_samples, stdevs : str, int, float or tuple of float, optional
            Of smoothgrad: "smoothgrad" or "smoothgrad_sq", the mean of squares; draws, their size.
        abs : bool
            Of gradient, whether to return absolute values. False, but True by default in captum.
        **others
            internal_batch_size, perturbations_per_eval, nt_samples_batch_size, show_progress and
            verbose change nothing: pyrel chooses how many copies it makes, and shows nothing.

        Raises
        ------
        TypeError, ValueError
            As for a call, where the method has no such thing, or where an argument may be a target
            or not; the message names it.

        Examples
        --------
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
        >>> ig = pyrel.Explainer(model, x, "integrated_gradients")
        >>> baseline = torch.full((1, 3), 0.5)
        >>> maps, delta = ig.attribute(x, baseline, target=(1,), return_convergence_delta=True)
        >>> maps.shape, delta.shape
        (torch.Size([5, 3]), torch.Size([5]))
        >>> occlusion = pyrel.Explainer(model, x, "occlusion")
        >>> occlusion.attribute(x, (2,), target=1).shape
        torch.Size([5, 3])
        """
        of_model = self.inputs, self.outputs.dimensions, self.classes
        call = read_call(self.method, *of_model, inputs, positional, named)
        if is_of_each(call.changed.get("baseline")):
            return call.result(_joined([*self._one_by_one(call)]))
        return call.result(self._asked(call.given.x, call.target, call.given.lengths, call.changed))

    def _asked(self, x: Any, target: Any, lengths: Any, changed: dict[str, Any]) -> _Found:
        explainer = self._with_options(changed) if changed else self
        e = explainer(x, target, lengths=lengths)
        return _Found(e.relevance, e.conservation, e.absorbed)

    def _one_by_one(self, call: AsCaptum) -> Iterator[_Found]:
        """Explain each sample with the baseline of its own."""
        x, target = call.given.x, call.target
        batch = self.inputs.batch(x)
        lengths = self._checked_lengths(batch, call.given.lengths)
        n = batch.shape[0]
        if target is not None:
            target = self.outputs.index(target, n, self.classes_at(self._steps_of(batch)))
        for number in range(n):
            some = slice(number, number + 1)
            own = call.changed | {"baseline": baseline_of(call.changed["baseline"], number)}
            try:
                yield self._asked(
                    _mapped(lambda each, some=some: each[some], x),
                    None if target is None else target[some],
                    None if lengths is None else lengths[some],
                    own,
                )
            except ValueError as error:
                raise ValueError(f"of sample {number}, which is x[0] here: {error}") from error


def _mapped(change: Any, given: Any) -> Any:
    """Change each array of a structure, or the array."""
    parts = parts_of(given)
    return nested(list(parts), [change(each) for each in parts.values()])


def _joined(found: list[_Found]) -> _Found:
    """Return what was found of samples as that of a batch."""

    def together(parts: list[Any]) -> Any:
        return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)

    relevance = [parts_of(each.relevance) for each in found]
    paths = list(relevance[0])
    return _Found(
        nested(paths, [together([each[path] for each in relevance]) for path in paths]),
        together([each.conservation for each in found]),
        together([each.absorbed for each in found]),
    )


def read_call(
    method: Method,
    taken: Inputs,
    dimensions: int,
    classes: int,
    inputs: Any,
    positional: tuple[Any, ...],
    named: dict[str, Any],
) -> AsCaptum:
    """Read a call's arguments.

    Parameters
    ----------
    method : Method
    taken : Inputs
        What the explainer takes.
    dimensions : int
        How many indices name an output of a sample.
    classes : int
        How many outputs there are.
    inputs : array, or tuple of one
    positional : tuple
        What comes after ``inputs`` without a name, in captum's order for the method.
    named : dict
        The arguments with names.

    Raises
    ------
    TypeError, ValueError
        If pyrel does not take one of them; the message names it.
    """
    named = named_arguments(method, inputs, positional, named, classes)
    extra = named.get("additional_forward_args")
    several = taken if isinstance(taken, SeveralInputs) else None
    given = read_inputs(inputs, extra, taken.lengths, several)
    delta = flag("return_convergence_delta", named.get("return_convergence_delta", False))
    if delta and not (method.conserves or isinstance(method, IntegratedGradients)):
        raise TypeError(
            f"return_convergence_delta: the relevance of {method.name} has no sum to converge to; "
            "that of integrated_gradients and of methods that conserve relevance has"
        )
    absolute = flag("abs", named.get("abs", False))
    if absolute and isinstance(method, SmoothGrad):
        raise ValueError(
            "abs: wanted False; smoothgrad averages gradients with their signs, or squares"
        )
    target = _target(named.get("target"), dimensions)
    changed = changed_options(method, given, named, several)
    return AsCaptum(given, target, changed, delta, absolute)


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
