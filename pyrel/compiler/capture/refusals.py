# SPDX-License-Identifier: Apache-2.0
"""Errors for models that cannot be exported or interpreted: what, where, and what to do."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pyrel.compiler.capture.outputs import OutputError
from pyrel.compiler.capture.places import Place, paths_of, place_of_error
from pyrel.errors import UnsupportedModelError

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_MIXED = (
    "it mixes the samples of a batch, or does not treat them alike: what is computed for one of "
    "them depends on the others, which is probably a bug of the model"
)


def refuse_parts(model: nn.Module) -> None:
    """Refuse modules of torch.jit, which can neither be exported nor put back as they were.

    And quantised ones, which compute with integers.
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                "a compiled module, which torch.export cannot take apart; give the torch.nn.Module "
                "that it was made of, or make that anew with the same state_dict()",
                operator="torch.jit.ScriptModule",
                module=path,
            )
        if type(module).__module__.startswith(_QUANTISED):
            raise UnsupportedModelError(
                "a quantised module, which computes with integers; give the model of floats that "
                "it was made of",
                operator=type(module).__name__,
                module=path,
            )


@contextlib.contextmanager
def no_draws() -> Iterator[None]:
    """Refuse a model that draws random numbers of Python's or NumPy's, which no operator shows."""
    before = random.getstate(), _state_of_numpy()
    yield
    if before != (random.getstate(), _state_of_numpy()):
        raise UnsupportedModelError(
            "forward draws random numbers of Python's or NumPy's, so each call computes something "
            "else; draw them before, or in training mode only",
            operator="random",
        )


def _state_of_numpy() -> tuple[bytes, int]:
    state: Any = np.random.get_state()
    return state[1].tobytes(), state[2]


def branches(error: Exception) -> bool:
    """Whether torch.export failed at a branch on values."""
    return "GuardOnDataDependent" in type(error).__name__ or "data-dependent" in str(error)


def lacks_argument(error: Exception) -> bool:
    """Whether torch.export failed as the model takes more inputs."""
    return "missing a required argument" in str(error)


def is_unknown(error: UnsupportedModelError) -> bool:
    """Whether torch.export failed for a reason that pyrel does not know."""
    cause = error.__cause__
    known = not isinstance(cause, Exception) or branches(cause) or lacks_argument(cause)
    return error.operator == "torch.export" and not known


def shape_of_batch(sample: Sequence[int]) -> str:
    """Shape of any number of samples, such as "(n, 12, 8)"."""
    return f"({', '.join(map(str, ['n', *sample]))})"


def refusal(
    model: nn.Module, sample: str, error: Exception, lengths: bool
) -> UnsupportedModelError | OutputError:
    """Say why torch.export could not export a model.

    Parameters
    ----------
    model : torch.nn.Module
    sample : str
        What it was to be exported with, such as "an input of shape (n, 12, 8)".
    error : Exception
        What torch.export raised.
    lengths : bool
        Whether it was to take lengths.
    """
    if isinstance(error, UnsupportedModelError | OutputError):
        return error
    kind, reason = type(model).__name__, _first_line(error)
    if branches(error):
        why = (
            f"{kind} branches on the values of its input, so it has no one graph: {reason}. Compute"
            " both sides and choose by a constant mask, or explain the parts"
        )
        if lengths:
            why += "\nNor may a branch depend on the lengths of the sequences"
    elif lacks_argument(error):
        why = (
            f"{kind} takes more than one input; give a tuple of them, or a dictionary by the names"
            f" of forward's arguments; lengths of sequences by lengths=True: {reason}"
        )
    else:
        why = (
            f"{kind} could not be exported for {sample}: {type(error).__name__}: {reason}. Write "
            "this part with operators of torch on tensors, or explain the parts around it"
        )
    return _located(why, "torch.export", place_of_error(error, paths_of(model)))


def own_failure(model: nn.Module, sample: str, error: Exception) -> UnsupportedModelError:
    """Say that a model fails by itself for a batch like the example."""
    why = (
        f"{type(model).__name__} itself raises {type(error).__name__} for {sample}: "
        f"{_first_line(error)}. Give an example of the shape that the model takes, batch first, or "
        "mend the model"
    )
    if "Guard failed" in str(error):
        why = (
            "the module is an exported program that holds for certain sizes only. Export it with an"
            f" open batch dimension, and that of the steps open if it can be: {_first_line(error)}"
        )
    return _located(why, "forward", place_of_error(error, paths_of(model)))


def _located(why: str, operator: str, place: Place) -> UnsupportedModelError:
    reason = f"{why} ({place.at})" if place.at else why
    return UnsupportedModelError(reason, operator=operator, module=place.module)


def mixed(operator: str, place: Place, moved: tuple[str, Place] | None) -> UnsupportedModelError:
    """Say that an operator mixes the samples of a batch.

    Parameters
    ----------
    operator : str
    place : Place
        Of the operator.
    moved : (str, Place) or None
        An operator before that made a batch dimension of elements of several samples.
    """
    at = f" ({place.at})" if place.at else ""
    reason = f"{_MIXED}{at}. "
    if moved is not None:
        name, where = moved
        reason += f"Before, {name} {where} puts elements of other samples where the batch was"
        if name.rpartition(".")[2] in _RESHAPING:
            reason += ": exchange dimensions by transpose or permute, which view and reshape do not"
    elif operator.rpartition(".")[2] in _RECURRENT:
        reason += (
            "Recurrent layers of torch take the steps first, unless batch_first=True; one sequence "
            "alone has to be given as x[None]"
        )
    else:
        reason += "Is the batch the first dimension, and left out of sums, means and maxima?"
    return UnsupportedModelError(reason, operator=operator, module=place.module)


_RESHAPING = frozenset("view reshape _unsafe_view unflatten flatten view_as reshape_as".split())
_RECURRENT = frozenset(
    f"{name}{cell}" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")
)


def depends_on_batch(place: Place | None) -> UnsupportedModelError:
    """Say that what is computed for a sample depends on how many there are."""
    where = f" (it is read {place})" if place is not None else ""
    return UnsupportedModelError(
        f"what it computes for a sample depends on the size of the batch{where}, or on random "
        "numbers that are not torch's, which is probably a bug of the model. Sums over the batch "
        "belong into the loss",
        operator="torch.export",
        module=place.module if place is not None else "",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
