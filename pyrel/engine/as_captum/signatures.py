# SPDX-License-Identifier: Apache-2.0
"""Which arguments `attribute` takes for a method, in the order of captum's class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrel.methods import Gradient, IntegratedGradients, Method, Occlusion, SmoothGrad
from pyrel.methods.options import single

# By name `attribute` takes these for all methods; what a method has not is refused with its value.
_ALWAYS = (
    "target",
    "baselines",
    "additional_forward_args",
    "return_convergence_delta",
    "n_steps",
    "internal_batch_size",
)


@dataclass(frozen=True)
class Signature:
    """The arguments of `attribute` after ``inputs``, in the order of captum's.

    Attributes
    ----------
    of : str
        The class of captum whose order it is.
    order : tuple of str
        What may come without a name.
    by_name : tuple of str
        What captum's class hands on to another one, by name alone.
    """

    of: str
    order: tuple[str, ...]
    by_name: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be given by name."""
        return tuple(dict.fromkeys([*self.order, *self.by_name, *_ALWAYS]))


_FORWARD = "additional_forward_args"
_SALIENCY = Signature("Saliency", ("target", "abs", _FORWARD))
_PLAIN = Signature("InputXGradient", ("target", _FORWARD))
_LRP = Signature("LRP", ("target", _FORWARD, "return_convergence_delta", "verbose"))
_INTEGRATED_GRADIENTS = Signature(
    "IntegratedGradients",
    (
        "baselines",
        "target",
        _FORWARD,
        "n_steps",
        "method",
        "internal_batch_size",
        "return_convergence_delta",
    ),
)
_OCCLUSION = Signature(
    "Occlusion",
    (
        "sliding_window_shapes",
        "strides",
        "baselines",
        "target",
        _FORWARD,
        "perturbations_per_eval",
        "show_progress",
    ),
)
_NOISE_TUNNEL = Signature(
    "NoiseTunnel",
    (
        "nt_type",
        "nt_samples",
        "nt_samples_batch_size",
        "stdevs",
        "draw_baseline_from_distrib",
    ),
    _SALIENCY.order,
)


def signature_of(method: Method) -> Signature:
    """Return the signature of the class of captum that a method is the counterpart of.

    Methods that captum has not take the order of its LRP, or of its InputXGradient where they do
    not conserve relevance.
    """
    match method:
        case IntegratedGradients():
            return _INTEGRATED_GRADIENTS
        case Occlusion():
            return _OCCLUSION
        case SmoothGrad():
            return _NOISE_TUNNEL
        case Gradient():
            return _SALIENCY
    return _LRP if method.conserves else _PLAIN


def named_arguments(
    method: Method,
    inputs: Any,
    positional: tuple[Any, ...],
    named: dict[str, Any],
    classes: int,
) -> dict[str, Any]:
    """Give names to arguments without one, in captum's order.

    Parameters
    ----------
    method : Method
    inputs : array, or tuple of arrays
    positional : tuple
        What comes after ``inputs`` without a name.
    named : dict
        What has a name.
    classes : int
        How many outputs the model has.

    Raises
    ------
    TypeError
        If there is an argument that the method has not, one too many, one twice, or one without a
        name that may be a target or something else; the message names it.
    """
    signature = signature_of(method)
    order = signature.order
    if len(positional) == 1 and "target" not in named and order[0] != "target":
        if _can_only_be_target(positional[0], inputs, order[0]):
            order = ("target",)
        elif classes > 1 and _is_whole(positional[0]):
            raise TypeError(
                f"{order[0]}: the second argument of {method.name}, as of captum's {signature.of}, "
                f"or a target? Write target={positional[0]}, or give both by name; captum, too, "
                f"wants a target where a model has {classes} outputs"
            )
    if len(positional) > len(order):
        raise TypeError(
            f"attribute: of {method.name} takes {', '.join(order)} after inputs, as captum's "
            f"{signature.of}; got {len(positional)} arguments without a name"
        )
    given = dict(zip(order, positional, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise TypeError(
            f"{', '.join(twice)}: given twice, with the name and without; the order is inputs, "
            f"{', '.join(order)}, as of captum's {signature.of}"
        )
    if unknown := sorted(named.keys() - set(signature.names)):
        raise TypeError(
            f"{', '.join(unknown)}: attribute of {method.name} takes inputs, "
            f"{', '.join(signature.names)}"
        )
    return given | named


def _can_only_be_target(value: Any, inputs: Any, place: str) -> bool:
    """Whether an argument in a place that captum has for another one can only be a target.

    Captum takes no list there, no integers of shape (n,) beside inputs of more dimensions, and no
    number for the kind of a noise tunnel.
    """
    if isinstance(value, list):
        return True
    if place == "nt_type":
        return not isinstance(value, str)
    if isinstance(value, torch.Tensor):
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    else:
        whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return whole and value.ndim == 1 and getattr(inputs, "ndim", 2) > 1


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number, or a tuple of such."""
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_whole, value))
    plain = single(value)
    return isinstance(plain, int) and not isinstance(plain, bool)
