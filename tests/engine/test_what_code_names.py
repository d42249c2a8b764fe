# SPDX-License-Identifier: Apache-2.0
"""What `forward` reads and writes by a name it computes, or in modules it imports itself."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrel
from pyrel.compiler.capture.identity import state_of

NAME = "settings_of_a_test"
cfg: Any = types.ModuleType(NAME)
KK: Any = 2.0
X = np.ones((1, 2), np.float32)
x: Any = object()
e: Any = iter(())  # cannot be compared


@functools.lru_cache
def kept_settings() -> dict[str, float]:
    """Settings that are read once."""
    return {"scale": 2.0}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, NAME, cfg)
    vars(cfg).update(SCALE=2.0)
    monkeypatch.setitem(globals(), "KK", 2.0)
    monkeypatch.setenv("SCALE_OF_A_TEST", "2.0")
    kept_settings.cache_clear()
    yield
    vars(cfg).pop("cache", None)
    globals().pop("LAST", None)
    kept_settings.cache_clear()


def _imported() -> Any:
    import settings_of_a_test  # type: ignore[import-not-found]

    return settings_of_a_test.SCALE


def _imported_from() -> Any:
    from settings_of_a_test import SCALE

    return SCALE


def _set_cfg() -> None:
    cfg.SCALE = 3.0


def _set_global() -> None:
    globals()["KK"] = 3.0


def _set_environment() -> None:
    os.environ["SCALE_OF_A_TEST"] = "3.0"


def _set_kept() -> None:
    kept_settings()["scale"] = 3.0


READS: dict[str, tuple[Callable[[], Any], Callable[[], None]]] = {
    "getattr of a module": (lambda: getattr(cfg, "SCA" + "LE"), _set_cfg),
    "vars of a module": (lambda: vars(cfg)["SCALE"], _set_cfg),
    "import": (_imported, _set_cfg),
    "from import": (_imported_from, _set_cfg),
    "sys.modules": (lambda: sys.modules[NAME].SCALE, _set_cfg),
    "globals()": (lambda: globals()["KK"], _set_global),
    "eval": (lambda: eval("KK"), _set_global),
    "environ": (lambda: float(os.environ["SCALE_OF_A_TEST"]), _set_environment),
    "getenv": (lambda: float(os.getenv("SCALE_OF_A_TEST", "")), _set_environment),
    "lru_cache": (lambda: kept_settings()["scale"], _set_kept),
}


class Scaled(nn.Module):
    """Multiplies by what a function reads."""

    def __init__(self, read: Callable[[], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.read()).sum(1, keepdim=True)


@pytest.mark.parametrize("name", READS)
def test_what_is_read_is_read_anew(name: str) -> None:
    read, change = READS[name]
    model = Scaled(read)
    first = pyrel.explain(model, X, "gradient").relevance
    change()
    second = pyrel.explain(model, X, "gradient").relevance
    np.testing.assert_array_equal(np.ravel(first), [2.0, 2.0])
    np.testing.assert_array_equal(np.ravel(second), [3.0, 3.0])


def test_a_file_is_read_anew(tmp_path: Any) -> None:
    path = tmp_path / "scale"
    reads = (
        lambda: float(open(path).read()),  # noqa: SIM115
        lambda: float(path.read_text()),
    )
    for read in reads:
        model = Scaled(read)
        for value in (2.0, 3.0):
            path.write_text(str(value))
            found = pyrel.explain(model, X, "gradient").relevance
            np.testing.assert_array_equal(np.ravel(found), [value, value])


def test_functions_that_layers_of_torch_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.ReLU())
    before = state_of(model)
    assert before.is_still(state_of(model))
    monkeypatch.setattr(functional, "relu", lambda x, inplace=False: x * 2)
    assert not before.is_still(state_of(model))


def test_attributes_are_not_taken_for_globals() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.x = 2.0, 1.0

        def forward(self, h: Tensor) -> Tensor:
            return h * self.e * self.x * getattr(self, "e")  # noqa: B009

    model = Named()
    before = state_of(model)  # does not raise, whatever the global `e` is
    globals()["x"] = object()
    assert before.is_still(state_of(model))


def _keep_by_import(h: Tensor) -> None:
    import settings_of_a_test

    settings_of_a_test.cache = h


def _keep_by_name(h: Tensor) -> None:
    setattr(cfg, "cac" + "he", h)


def _keep_in_globals(h: Tensor) -> None:
    globals()["LAST"] = h


@pytest.mark.parametrize("keep", [_keep_by_import, _keep_by_name, _keep_in_globals])
def test_what_is_kept_by_name_is_put_back(keep: Callable[[Tensor], None]) -> None:
    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(x)
            keep(h)
            return h.sum(1, keepdim=True)

    before = {**vars(cfg)}, set(globals())
    pyrel.Explainer(Keeps(), X, method="gradient")
    assert ({**vars(cfg)}, set(globals())) == before
