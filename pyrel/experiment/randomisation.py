# SPDX-License-Identifier: Apache-2.0
"""Whether a method looks at the weights: its maps after layers have been randomised."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

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


def layers_with_weights(model: nn.Module, x: Any) -> list[str]:
    """Name the modules that have weights of their own, the one next to the output first.

    The order is that in which a run of the model last reads their weights, or what it makes of
    weights alone, as |W| before a loop; from the end. Modules of which it uses none come behind.

    Parameters
    ----------
    model
        Stays as it is: a copy runs, in eval mode.
    x
        Inputs of the model, one sample at least; of several inputs a tuple.

    Examples
    --------
    >>> from pyrel.experiment.randomisation import layers_with_weights
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> layers_with_weights(model, torch.zeros(1, 4))
    ['2', '0']
    """
    named = [name for name, module in model.named_modules() if _has_weights(module)]
    ran = copy.deepcopy(model).eval()
    uses = _Uses()
    for name in named:
        for held in _state_of(ran.get_submodule(name)).values():
            uses.owners.setdefault(held, set()).add(name)
    inputs = _first_sample(ran, x if isinstance(x, tuple) else (x,))
    with torch.no_grad(), _without_fast_path(), uses:
        ran(*inputs)
    return sorted(named[::-1], key=lambda name: -uses.last.get(name, -1))


def _first_sample(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Return one sample of each input, numbers with the type and the device of the weights."""
    weights = [each for each in model.parameters() if each.is_floating_point()]
    like = weights[0] if weights else torch.zeros(())
    tensors = [torch.as_tensor(each)[:1].to(like.device) for each in inputs]
    return [each.to(like.dtype) if each.is_floating_point() else each for each in tensors]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operator of a run was the last that read weights of a module.

    Attributes
    ----------
    owners
        Names of modules by weight, and by what is made of weights alone: a view of W that is made
        before a loop is read in every step. Names, as two modules may share a weight.
    last
        Number of the operator by name of the module.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners: MutableMapping[torch.Tensor, set[str]] = WeakTensorKeyDictionary()
        self.last: dict[str, int] = {}
        self._done = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._done += 1
        owners = [self.owners.get(value) for value in _tensors((args, kwargs))]
        read = {name for names in owners if names for name in names}
        self.last.update(dict.fromkeys(read, self._done))
        result = func(*args, **(kwargs or {}))
        if read and all(owners):
            self.owners.update(dict.fromkeys(_tensors(result), read))
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Let attention run part by part: on torch's fast path one operator reads a whole layer."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def randomise_weights(
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    x: Any,
    layers: Sequence[str] | None = None,
    cascade: bool = True,
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model in which layers have the weights of an untrained one.

    What a layer learns beside its parameters, as the means of a batch norm, goes with them.

    Parameters
    ----------
    model
        Stays as it is.
    fresh
        Makes an untrained model of the same kind, by which weights are distributed as at the start
        of training: `lambda: pyrel.experiment.new_cell("Deep", problem, seed=1)`.
    x
        Inputs of the model, one sample at least: a run tells how the layers follow each other. Of
        several inputs a tuple.
    layers
        Paths of modules, in the order in which they are randomised; by default
        `layers_with_weights`, the one next to the output first.
    cascade
        Randomise each layer together with all before it in this order; otherwise alone.

    Raises
    ------
    ValueError
        If a layer is none of the model, or the untrained one has other parameters.
    """
    known = layers_with_weights(model, x)
    chosen = known if layers is None else layers
    for name in chosen:
        if name not in known:
            raise ValueError(f"layers: wanted some of {', '.join(known)}, given {name!r}")
    untrained = fresh()
    changed = copy.deepcopy(model)
    for name in chosen:
        if not cascade:
            changed = copy.deepcopy(model)
        _take_weights(changed, untrained, name)
        yield name, copy.deepcopy(changed)


def randomisation_check(
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    make_explainer: Callable[[nn.Module], Explain],
    x: Any,
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
        (n, ...) inputs or a tuple of them, (n,) classes, the same for all models.
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
    for name, changed in randomise_weights(model, fresh, x, layers, cascade):
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


def _has_weights(module: nn.Module) -> bool:
    """Say whether a module has parameters of its own, or learns means without any."""
    has_parameters = next(module.parameters(recurse=False), None) is not None
    return has_parameters or "running_mean" in _state_of(module)


def _take_weights(model: nn.Module, untrained: nn.Module, name: str) -> None:
    mine = _state_of(model.get_submodule(name))
    modules = dict(untrained.named_modules())
    theirs = _state_of(modules[name]) if name in modules else {}
    if {key: value.shape for key, value in mine.items()} != {
        key: value.shape for key, value in theirs.items()
    }:
        raise ValueError(f"fresh: wanted a model with the parameters of {name or 'the model'!r}")
    with torch.no_grad():
        for key, value in mine.items():
            value.copy_(theirs[key])


def _state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers that are the module's own, by name."""
    own = module.named_parameters(recurse=False), module.named_buffers(recurse=False)
    return dict(itertools.chain(*own))


def _relevance(explain: Explain, x: Any, target: Any) -> npt.NDArray[Any]:
    """Return one map a sample; the maps of several inputs are one, side by side."""
    answer = explain(x, target)
    maps = getattr(answer, "relevance", answer)
    if isinstance(maps, tuple):
        return np.concatenate([np.asarray(each).reshape(len(each), -1) for each in maps], 1)
    return np.asarray(maps)
