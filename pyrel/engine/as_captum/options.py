# SPDX-License-Identifier: Apache-2.0
"""Reads what a call of captum sets for that call as options of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyrel.compiler.graph.layout import is_structure
from pyrel.engine.as_captum.inputs import GivenInputs
from pyrel.engine.several import SeveralInputs
from pyrel.methods import Method
from pyrel.methods.options import flag, single, whole, word

_MOST = 2**63 - 1
# What changes how captum works and shows, not what comes of it; pyrel shows nothing.
_COUNTS = ("internal_batch_size", "perturbations_per_eval", "nt_samples_batch_size")
_FLAGS = ("show_progress", "verbose")


@dataclass(frozen=True, eq=False)
class OfEach:
    """A baseline for each sample, (n, ...)."""

    values: Any


def changed_options(
    method: Method, given: GivenInputs, named: dict[str, Any], several: SeveralInputs | None
) -> dict[str, Any]:
    """Return the options of a method that a call changes.

    Parameters
    ----------
    method : Method
    given : GivenInputs
    named : dict
        The arguments of the call by name, all of which the method's class in captum has.
    several : SeveralInputs or None
        What the explainer takes, if it takes several inputs.

    Raises
    ------
    TypeError, ValueError
        If the method has no such option, or pyrel does not take its value; the message names it.
    """
    for name in _COUNTS:
        if named.get(name) is not None:
            whole(name, named[name], 1, _MOST)
    for name in _FLAGS:
        flag(name, named.get(name, False))
    if named.get("method") is not None:
        word("method", named["method"], "gausslegendre")
    baseline = _baselines(given.baselines(named.get("baselines")), given.x, several)
    changed = {"baseline": baseline, "n_steps": named.get("n_steps")}
    for option, name in {"baseline": "baselines", "n_steps": "n_steps"}.items():
        if changed[option] is not None and option not in vars(method):
            raise TypeError(f"{name}: {method.name} takes none")
    changed |= _windows(named, given) | _noise(named, given, several)
    return {name: value for name, value in changed.items() if value is not None}


def baseline_of(baseline: Any, number: int) -> Any:
    """Return the baseline of one sample."""
    if isinstance(baseline, Mapping):
        return {name: baseline_of(each, number) for name, each in baseline.items()}
    return baseline.values[number] if isinstance(baseline, OfEach) else baseline


def is_of_each(baseline: Any) -> bool:
    """Whether samples have baselines of their own."""
    parts = baseline.values() if isinstance(baseline, Mapping) else (baseline,)
    return any(isinstance(each, OfEach) for each in parts)


def _baselines(given: Any, x: Any, several: SeveralInputs | None) -> Any:
    """Return a baseline; of several inputs one for each by name."""
    if several is None or not is_structure(given):
        return _baseline(given, x)
    layout = several.layout
    pairs = zip(layout.names, layout.taken(given, "baselines"), layout.taken(x), strict=True)
    return {name: _baseline(each, of) for name, each, of in pairs if each is not None}


def _baseline(given: Any, x: Any) -> Any:
    """Return one baseline for all samples, or one for each where they differ."""
    if isinstance(given, tuple):
        if len(given) != 1:
            raise TypeError(f"baselines: wanted one, or a tuple of one, got {len(given)}")
        given = given[0]
    shape = getattr(given, "shape", None)
    if shape is None or shape != getattr(x, "shape", None):
        return given
    if len(given) == 0:
        return 0  # of no sample
    return given[0] if bool((given == given[:1]).all()) else OfEach(given)


def _windows(named: dict[str, Any], given: GivenInputs) -> dict[str, Any]:
    """Return the patch and the stride that captum's windows are."""
    windows, strides = named.get("sliding_window_shapes"), named.get("strides")
    if windows is None:
        if strides is not None:
            raise TypeError("strides: goes with sliding_window_shapes, which are not given")
        return {}
    if not isinstance(windows, tuple) or not windows:
        raise TypeError(
            "sliding_window_shapes: wanted a tuple with a size for each axis of a sample, as (3, "
            f"3), got {_kind(windows)}; a target or baselines are given by name, as target="
        )
    count = len(given.asked)
    if not isinstance(windows[0], tuple):
        windows = (windows,) * count
    patch = _alike("sliding_window_shapes", windows, count)
    if not isinstance(strides, tuple) or (count == 1 and len(strides) > 1):
        strides = (1 if strides is None else strides,) * count
    along = tuple(s if isinstance(s, tuple) else (s,) * len(patch) for s in strides)
    stride = _alike("strides", along, count)
    for name, sizes in {"sliding_window_shapes": patch, "strides": stride}.items():
        for size in sizes:
            whole(name, size, 1, _MOST)
        shapes = [tuple(each.shape[1:]) for each in given.asked if hasattr(each, "shape")]
        if wrong := [shape for shape in shapes if len(shape) != len(sizes)]:
            raise ValueError(
                f"{name}: wanted a size for each axis of a sample, {wrong[0]}, got {sizes}"
            )
    return {"patch": patch, "stride": stride}


def _alike(name: str, given: tuple[Any, ...], count: int) -> Any:
    """Return what is given for each input, all alike: occlusion has one for all."""
    if len(given) != count:
        raise ValueError(f"{name}: wanted one for each input, {count}, got {len(given)}")
    if any(each != given[0] for each in given):
        raise ValueError(
            f"{name}: wanted the same for all inputs, got {given}; explain each with the others "
            "as constant inputs of an explainer of its own"
        )
    return given[0]


def _noise(
    named: dict[str, Any], given: GivenInputs, several: SeveralInputs | None
) -> dict[str, Any]:
    """Return the number of noisy samples, the size of the noise, and what is averaged."""
    changed = {"n_samples": named.get("nt_samples")}
    if named.get("nt_type") is not None:
        kind = word("nt_type", named["nt_type"], "smoothgrad", "smoothgrad_sq")
        changed["squared"] = kind == "smoothgrad_sq"
    if flag("draw_baseline_from_distrib", named.get("draw_baseline_from_distrib", False)):
        raise ValueError("draw_baseline_from_distrib: wanted False; a gradient has no baselines")
    stdevs = named.get("stdevs")
    if isinstance(stdevs, tuple) and several is None:
        if len(stdevs) != 1:
            raise TypeError(f"stdevs: wanted one, or a tuple of one, got {len(stdevs)}")
        stdevs = stdevs[0]
    elif isinstance(stdevs, tuple) and several is not None:
        layout = several.layout
        taken = layout.taken(given.baselines(stdevs), "stdevs")
        pairs = zip(layout.names, taken, strict=True)
        stdevs = {name: each for name, each in pairs if each is not None}
    return changed | {"std": stdevs}


def _kind(value: Any) -> str:
    plain = single(value)
    return repr(plain) if isinstance(plain, int | float | str) else type(value).__name__
