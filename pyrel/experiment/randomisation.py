# SPDX-License-Identifier: Apache-2.0
"""Whether a method looks at the weights: its maps after layers have been randomised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pyrel.metrics import Summary, map_cosine, rank_correlation

# Relevance, or an `Explanation`, of a batch and its classes: an `Explainer`.
Explain = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class RandomisedLayer:
    """How alike maps are before and after a layer, and with cascade those above, were randomised.

    Attributes
    ----------
    name
        Path of the module.
    rank, absolute_rank
        Rank correlation of the maps, and of their absolute values.
    cosine
        Cosine of the maps.
    """

    name: str
    rank: Summary
    absolute_rank: Summary
    cosine: Summary


def layers_with_weights(model: nn.Module) -> list[str]:
    """Name the modules that have parameters of their own, the last one first."""
    named = [
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    return named[::-1]


def randomise_weights(
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    layers: Sequence[str] | None = None,
    cascade: bool = True,
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model in which layers have the weights of an untrained one.

    Parameters
    ----------
    model
        Stays as it is.
    fresh
        Makes an untrained model of the same kind, by which weights are distributed as at the start
        of training: `lambda: pyrel.experiment.new_cell("Deep", problem, seed=1)`.
    layers
        Paths of modules, in the order in which they are randomised; by default all with parameters
        of their own, the last one, next to the output, first.
    cascade
        Randomise each layer together with all before it in this order; otherwise alone.

    Raises
    ------
    ValueError
        If a layer is none of the model, or the untrained one has other parameters.
    """
    known = layers_with_weights(model)
    for name in layers if layers is not None else known:
        if name not in known:
            raise ValueError(f"layers: wanted some of {', '.join(known)}, given {name!r}")
    untrained = fresh()
    changed = copy.deepcopy(model)
    for name in layers if layers is not None else known:
        if not cascade:
            changed = copy.deepcopy(model)
        _take_weights(changed, untrained, name)
        yield name, copy.deepcopy(changed)


def randomisation_check(
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    make_explainer: Callable[[nn.Module], Explain],
    x: npt.NDArray[Any],
    target: npt.NDArray[np.int64],
    *,
    layers: Sequence[str] | None = None,
    cascade: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[RandomisedLayer]:
    """Compare the maps of a trained model with those after its weights have been randomised.

    Adebayo et al., Sanity checks for saliency maps (2018): a method whose maps stay as
    they are does not depend on what the model has learned.

    Parameters
    ----------
    model, fresh, layers, cascade
        As `randomise_weights`.
    make_explainer
        Makes of a model what gives relevance for a batch and its classes:
        `lambda model: pyrel.Explainer(model, x[:1], "deep_taylor", low=0.0, high=1.0)`.
    x, target
        (n, ...) inputs, (n,) classes, the same for all models.
    progress
        Called with the path of each layer before it is randomised.

    Returns
    -------
    One entry for each layer. Samples with an empty map are left out.

    Raises
    ------
    ValueError
        As `randomise_weights`.
    """
    before = _relevance(make_explainer(model), x, target)
    found = []
    for name, changed in randomise_weights(model, fresh, layers, cascade):
        if progress is not None:
            progress(name)
        after = _relevance(make_explainer(changed), x, target)
        found.append(
            RandomisedLayer(
                name,
                Summary.of(rank_correlation(before, after)),
                Summary.of(rank_correlation(np.abs(before), np.abs(after))),
                Summary.of(map_cosine(before, after)),
            )
        )
    return found


def _take_weights(model: nn.Module, untrained: nn.Module, name: str) -> None:
    mine = dict(model.get_submodule(name).named_parameters(recurse=False))
    theirs = _parameters_at(untrained, name)
    if {key: value.shape for key, value in mine.items()} != {
        key: value.shape for key, value in theirs.items()
    }:
        raise ValueError(f"fresh: wanted a model with the parameters of {name or 'the model'!r}")
    with torch.no_grad():
        for key, value in mine.items():
            value.copy_(theirs[key])


def _parameters_at(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    modules = dict(model.named_modules())
    return dict(modules[name].named_parameters(recurse=False)) if name in modules else {}


def _relevance(explain: Explain, x: Any, target: Any) -> npt.NDArray[Any]:
    answer = explain(x, target)
    return np.asarray(getattr(answer, "relevance", answer))
