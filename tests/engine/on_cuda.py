# SPDX-License-Identifier: Apache-2.0
"""Lets pyrel find the emulated CUDA library, and compares what it explains with the CPU's AVX2.

With PYREL_TEST_CUDA=1 it is the library that pyrel finds itself, and runs on a GPU.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from engine import cuda_emulated
from engine.sequences import assert_same

import pyrel
from pyrel import _core
from pyrel.engine.cuda import library

CUDA = "cuda:0"
# For what a GPU is too fast for, or does out of sight.
by_emulator = pytest.mark.skipif(cuda_emulated.ON_GPU, reason="needs the emulator")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pyrel load the emulated library, and check that nothing of a test stays on the device."""
    if cuda_emulated.ISA not in _core.instruction_sets():
        pytest.skip(f"this machine does not run {cuda_emulated.ISA}")
    monkeypatch.setenv("PYREL_ISA", cuda_emulated.ISA)
    if cuda_emulated.ON_GPU:
        monkeypatch.setattr(library.Library, "call", _counted)
        yield
        return
    emulator = cuda_emulated.library()  # skips where there is no emulator
    monkeypatch.setenv(library.VARIABLE, str(cuda_emulated.built()))
    gc.collect()
    used, held = cuda_emulated.used_memory(), emulator.pyrel_cuda_held()
    yield
    gc.collect()
    assert cuda_emulated.used_memory() == used
    assert emulator.pyrel_cuda_held() == held


def launches() -> int:
    """Return how many launches the device has had; of a GPU, at least: calls that launch."""
    if cuda_emulated.ON_GPU:
        return _calls["run"]
    return int(cuda_emulated.library().pyrel_cuda_runs())


_calls = Counter[str]()
_call = library.Library.call


def _counted(self: library.Library, name: str, *arguments: Any) -> None:
    _calls["run"] += name.startswith("pyrel_cuda_run")
    _call(self, name, *arguments)


def on_both(model: Any, example: Any, method: Any, **options: Any) -> tuple[Any, Any]:
    """Compile for the device, and for the CPU."""
    there, here = (
        pyrel.Explainer(model, example, method, device=device, **options)
        for device in ("cuda", "cpu")
    )
    return there, here


def assert_alike(pair: tuple[Any, Any], x: Any, *given: Any, **named: Any) -> Any:
    """Explain by both, see that the device ran, and compare all bits; return the explanation."""
    there, here = pair
    before = launches()
    found = there(x, *given, **named)
    assert launches() > before
    before = launches()
    wanted = here(x, *given, **named)
    assert launches() == before
    assert_same(found, wanted)
    return found
