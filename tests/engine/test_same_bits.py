# SPDX-License-Identifier: Apache-2.0
"""The same bits for every batch, thread count, instruction set, process and caller."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import ALL_CASES, Case, by_name, compiled, expected, inputs
from engine.cells import CellCase
from engine.checks import assert_deep_taylor, assert_gradient
from engine.fields import FIELDS, bits
from reference import METHODS

import pyrel

BATCHES = (0, 1, 2, 11, 12, 13, 25, 49)
every_model = pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    pyrel.set_num_threads(1)


def rows_of(e: Any, count: int) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(getattr(e, field)[:count]).tobytes() for field in FIELDS)


@every_model
@every_method
def test_batch_sizes(case: Case | CellCase, method: str) -> None:
    explainer, x = compiled(case, method), inputs(case)
    whole = explainer(x)
    for count in BATCHES:
        assert bits(explainer(x[:count])) == rows_of(whole, count), count


@every_model
@pytest.mark.parametrize("method", ["gradient", "deep_taylor"])
def test_batch_is_a_loop_of_single_samples(case: Case | CellCase, method: str) -> None:
    explainer, x = compiled(case, method), inputs(case, 25)
    whole = explainer(x)
    for number in range(len(x)):
        single = explainer(x[number : number + 1])
        for field in FIELDS:
            one, of_many = getattr(single, field)[0], getattr(whole, field)[number]
            assert np.asarray(one).tobytes() == np.asarray(of_many).tobytes(), (field, number)


@every_model
@every_method
def test_thread_counts(case: Case | CellCase, method: str, threads: None) -> None:
    explainer, x = compiled(case, method), inputs(case)
    seen = set()
    for count in (1, 2, 5):
        pyrel.set_num_threads(count)
        seen.add(bits(explainer(x)))
    assert len(seen) == 1


def test_large_batch_with_more_threads_than_cores(threads: None) -> None:
    explainer, x = compiled(by_name("Elman"), "deep_taylor"), inputs(by_name("Elman"))
    few = explainer(x)
    pyrel.set_num_threads(5)
    many = explainer(np.tile(x, (41, 1, 1)))
    for start in range(0, 4100, 100):
        np.testing.assert_array_equal(many.relevance[start : start + 100], few.relevance)


def test_wide_layers_in_slabs_of_any_size(threads: None) -> None:
    """Their weights are larger than a cache, so a slab has many samples, and some columns wait."""
    torch.manual_seed(0)
    recurrent, width = torch.nn.GRU(24, 700, batch_first=True), 700
    head = torch.nn.Sequential(torch.nn.Linear(width, 1400), torch.nn.ReLU())
    last = torch.nn.Linear(1400, 3)

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head, self.last = recurrent, head, last

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.head(self.recurrent(x)[0][:, -1]))

    x = np.random.default_rng(0).standard_normal((150, 3, 24)).astype(np.float32)
    explainer = pyrel.Explainer(Wide().eval(), x[:2], method="lrp_epsilon", check=None)
    whole = explainer(x)
    for count in (1, 12, 13, 25, 77):
        assert bits(explainer(x[:count])) == rows_of(whole, count), count
    pyrel.set_num_threads(3)
    assert bits(explainer(x)) == rows_of(whole, len(x))


@pytest.mark.parametrize("count", [0, -1, 1.5, "two", True])
def test_bad_thread_counts(count: Any, threads: None) -> None:
    with pytest.raises((ValueError, TypeError), match="^n: "):
        pyrel.set_num_threads(count)


def test_many_threads_share_one_explainer(threads: None) -> None:
    pyrel.set_num_threads(2)
    case = by_name("Deep-T12-64-33-15")
    explainer, x = compiled(case, "deep_taylor"), inputs(case)
    starts = [(7 * k) % 80 for k in range(48)]
    alone = [bits(explainer(x[start : start + 20])) for start in starts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda start: bits(explainer(x[start : start + 20])), starts))
    assert together == alone


# Python 3.12 warns of any fork in a process with threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_fork_after_use(threads: None) -> None:
    pyrel.set_num_threads(2)
    explainer, x = compiled(by_name("Elman"), "deep_taylor"), inputs(by_name("Elman"))
    before = bits(explainer(x))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"same" if bits(explainer(x)) == before else b"different")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert answer == b"same"
    assert bits(explainer(x)) == before


def test_torch_in_gives_the_bits_of_numpy_in() -> None:
    explainer, x = compiled(by_name("Rearranged"), "deep_taylor"), inputs(by_name("Rearranged"))
    assert bits(explainer(torch.from_numpy(x))) == bits(explainer(x))


MODELS = (
    ("Deep-T7-3-32-9", "deep_taylor"),
    ("Shallow-T7-65", "deep_taylor"),
    ("SlicedImage", "deep_taylor"),
    ("DeepV2-T7-65-31-33-17", "gradient"),
    ("Rearranged", "guided_backprop"),
)


def explained_by(isa: str, folder: Path) -> dict[str, Any]:
    """Explain with one instruction set, on two threads, by programs that were compiled here."""
    results = {}
    for name, method in MODELS:  # before the other set is asked for: other tests share these
        compiled(by_name(name), method).save(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYREL_ISA", isa)
        assert isa in str(pyrel.show_config()).lower()
        pyrel.set_num_threads(2)
        for name, _ in MODELS:
            explainer = pyrel.Explainer.load(folder / name)
            assert repr(explainer).endswith(f"{isa})")
            results[name] = explainer(inputs(by_name(name)))
    return results


def supported(isa: str) -> bool:
    levels = {"DEFAULT": 0, "NO AVX": 0, "AVX2": 1, "AVX512": 2}
    own = levels.get(torch.backends.cpu.get_cpu_capability().upper(), 0)
    return own >= {"baseline": 0, "avx2": 1, "avx512": 2}[isa]


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_fma_instruction_sets_give_the_same_bits(isa: str, tmp_path: Path, threads: None) -> None:
    if not supported(isa):
        pytest.skip(f"the CPU has no {isa}")
    for name, e in explained_by(isa, tmp_path).items():
        assert bits(e) == bits(compiled(by_name(name), dict(MODELS)[name])(inputs(by_name(name))))


def test_baseline_instruction_set_agrees_with_the_reference(tmp_path: Path, threads: None) -> None:
    """Without FMA the bits may differ."""
    for name, e in explained_by("baseline", tmp_path).items():
        method = dict(MODELS)[name]
        check = assert_deep_taylor if method == "deep_taylor" else assert_gradient
        check(e, expected(by_name(name), method))


def test_unknown_instruction_set_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import pyrel; pyrel.show_config()"],
        env=os.environ | {"PYREL_ISA": "sse9"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert b"PYREL_ISA" in done.stderr
    assert b"sse9" in done.stderr
