# SPDX-License-Identifier: Apache-2.0
"""Removes from torch's caches the entries that an export adds.

torch keeps, for the whole process, what it computed with fake tensors, the source of each graph it
made, and symbolic sizes with all that they were computed from: some 100 KB for each export of a
fresh module, and each capture exports a model a few times.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import graph_module
from torch.fx.experimental import symbolic_shapes

_GENERATED = "<eval_with_key>"  # how torch names the source files of its graphs


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Export models inside of this, and nothing of them is kept by torch afterwards."""
    stores = _stores()
    before = [set(store) for store in stores]
    try:
        with _shape_envs() as made:
            yield
    finally:
        for env in made:
            _break_cycles(env)
        for store, known in zip(stores, before, strict=True):
            for key in [key for key in list(store) if key not in known]:
                if store is not linecache.cache or str(key).startswith(_GENERATED):
                    store.pop(key, None)
        for clear in _clearings():
            clear()


def _stores() -> list[MutableMapping[Any, Any]]:
    """Return mappings without a bound, but those that a version of torch does not have."""
    loader = getattr(graph_module, "_loader", None)
    found = [
        getattr(FakeTensorMode, "cache", None),
        linecache.cache,
        getattr(loader, "eval_cache", None),
    ]
    return [store for store in found if isinstance(store, dict)]


def _clearings() -> list[Callable[[], object]]:
    """Return what empties the caches of symbolic sizes, whose keys hold all of an export."""
    owners = (symbolic_shapes, symbolic_shapes.ShapeEnv, torch.fx.experimental.sym_node)
    found = [
        getattr(each, "cache_clear", None) for owner in owners for each in vars(owner).values()
    ]
    return [clear for clear in found if callable(clear)]


@contextlib.contextmanager
def _shape_envs() -> Iterator[list[symbolic_shapes.ShapeEnv]]:
    """Collect what this thread makes symbolic sizes in."""
    made: list[symbolic_shapes.ShapeEnv] = []
    exporting, env = threading.get_ident(), vars(symbolic_shapes)["ShapeEnv"]

    init = env.__init__

    @functools.wraps(init)
    def noting(self: symbolic_shapes.ShapeEnv, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if threading.get_ident() == exporting:
            made.append(self)

    env.__init__ = noting
    try:
        yield made
    finally:
        env.__init__ = init


def _break_cycles(env: symbolic_shapes.ShapeEnv) -> None:
    """Let go of tensors that name their sizes' environment where Python cannot see it.

    They were needed while the model was exported.
    """
    for name in ("tracked_fakes", "fake_tensor_cache"):
        held = getattr(env, name, None)
        if held is not None:
            held.clear()
