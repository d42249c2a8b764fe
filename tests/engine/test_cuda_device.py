# SPDX-License-Identifier: Apache-2.0
"""`device="cuda"` by the emulated library: the same bits as on the CPU, whatever the call."""

from __future__ import annotations

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated
from engine.on_cuda import CUDA, assert_alike, by_emulator, emulated, launches, on_both
from engine.sequences import Last, Tokens, assert_same, batch, made
from engine.several_models import N, T, WithStatic
from torch import nn

import pyrel
from pyrel.engine import programs
from pyrel.engine.cuda.engine import CudaEngine

__all__ = ["emulated"]
pytestmark = pytest.mark.usefixtures("emulated")

OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 3},
    "smoothgrad": {"n_samples": 2},
    "pattern_net": {"estimator": "filter"},
    "pattern_attribution": {"estimator": "filter"},
}


def layers() -> nn.Module:
    """Return a small network of layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)).eval()


def samples(count: int) -> Any:
    return np.random.default_rng(count).uniform(-1, 1, (count, 5)).astype(np.float32)


@pytest.mark.parametrize("method", pyrel.methods.names())
def test_every_method(method: str) -> None:
    options = OPTIONS.get(method, {}) | {"low": -1.0, "high": 1.0, "check": None}
    assert_alike(on_both(layers(), samples(2), method, **options), samples(11))


@pytest.mark.parametrize("make", [Last, Tokens])
@pytest.mark.parametrize("method", ["lrp_epsilon", "gradient"])
def test_recurrent_cells(make: Any, method: str) -> None:
    x = batch(make, 3, 4)
    there, here = pair = on_both(made(make), x[:2], method, check="outputs")
    assert there.checked == here.checked  # by the device
    assert_alike(pair, x)
    assert_alike(pair, x, [2, 0, 1])
    # Of another number of steps, by a pattern.
    assert_alike(pair, batch(make, 2, 18))
    assert there.forward(x).tobytes() == here.forward(x).tobytes()


def test_the_self_check_runs_there() -> None:
    before = launches()
    explainer = pyrel.Explainer(layers(), samples(2), "lrp_epsilon", device="cuda")
    assert launches() == before + 2
    assert "outputs" in explainer.checked
    assert repr(explainer).endswith(f"{CUDA})")


@by_emulator
@pytest.mark.parametrize("chunk", [1, 7, 8, 16, 40, 41, 1000])
def test_chunks_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaEngine, "chunk", chunk)
    bounds = {"low": -1.0, "high": 1.0, "check": None}
    x = samples(41)
    pair = on_both(layers(), x[:2], "deep_taylor", **bounds)
    before = launches()
    pair[0](x)
    assert launches() == before + -(-41 // chunk)
    assert_alike(pair, x, np.arange(41) % 3)


def test_every_wait_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it results are read before they are there; all memory is NaN at first."""
    monkeypatch.setattr(CudaEngine, "chunk", 8)
    x, emulator = samples(40), cuda_emulated.library()

    def explained(dropped: int) -> Any:
        explainer = pyrel.Explainer(layers(), x[:2], "gradient", device="cuda", check=None)
        emulator.pyrel_cuda_drop_wait(dropped)
        try:
            return explainer(x)
        finally:
            del explainer
            gc.collect()

    def is_right(dropped: int) -> bool:
        try:
            assert_same(explained(dropped), wanted)
        except (AssertionError, ValueError):  # other results, or a verdict that is none
            return False
        return True

    try:
        wanted = explained(-1)
        count = emulator.pyrel_cuda_waits()
        assert count == 5  # one for each chunk
        assert not any(is_right(dropped) for dropped in range(count))
        assert is_right(-1)
    finally:
        emulator.pyrel_cuda_drop_wait(-1)


def test_takes_smaller_chunks_where_the_device_is_full(tmp_path: Path) -> None:
    x, parts, refused = samples(70), set(), 0
    made_once = pyrel.Explainer(layers(), x[:2], "lrp_epsilon", device="cpu", check=None)
    made_once.save(tmp_path / "program")
    for given in (20_000, 10_000, 8_000, 6_000, 5_000, 4_000, 3_000, 2_000, 1_000):
        there = pyrel.Explainer.load(tmp_path / "program", device="cuda")
        there(x[:0])  # which loads the program; nothing is kept of a run
        before = launches()
        with cuda_emulated.memory(1 << 30, cuda_emulated.used_memory() + given):
            try:
                found = there(x)
            except MemoryError as error:
                assert "per sample" in str(error)
                refused += 1
                continue
        assert not refused
        assert_same(found, made_once(x))
        parts.add(launches() - before)
    assert {1, 9} <= parts  # the last of a group each
    assert refused


def test_reports_the_first_offence_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaEngine, "chunk", 8)
    x = samples(60)
    there, here = on_both(layers(), x[:2], "lrp_epsilon", low=-1.0, high=1.0, check=None)
    wanted = there(x)
    x[59, 1], x[33, 2], x[34, 0] = np.nan, np.inf, 2.0
    for explainer in (there, here):
        with pytest.raises(ValueError, match=r"got x\[33, 2\] = inf"):
            explainer(x)
    assert_same(there(samples(60)), wanted)  # nothing is left running, or half-written


def test_lengths() -> None:
    x = batch(Last, 5, 6)
    pair = on_both(made(Last), x[:2], "lrp_epsilon", lengths=True, check=None)
    x[1, 3:] = np.nan
    assert_alike(pair, x, lengths=[6, 3, 1, 3, 5])


@pytest.mark.parametrize("method", ["lrp_epsilon", "integrated_gradients"])
def test_several_inputs(method: str) -> None:
    torch.manual_seed(1)
    x, static = torch.rand(N, T, 3), torch.rand(N, 5)
    pair = on_both(WithStatic().eval(), (x, static), method, check=None, **OPTIONS.get(method, {}))
    there, here = pair[0]((x, static)), pair[1]((x, static))
    for one, other in zip(there.relevance, here.relevance, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(there.absorbed, here.absorbed)


class Tagger(nn.Module):
    """Scores of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.core(x)[0])


def test_scores_of_each_step() -> None:
    torch.manual_seed(2)
    x = batch(Last, 3, 5)
    pair = on_both(Tagger().eval(), x[:2], "lrp_epsilon", check=None)
    assert_alike(pair, x, "each step")
    assert_alike(pair, x, (2, [0, 1, 2]))


def test_integrated_gradients_of_tokens_and_behind_linear_layers() -> None:
    x = batch(Tokens, 2, 4)
    assert_alike(on_both(made(Tokens), x, "integrated_gradients", n_steps=3, check=None), x)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    wide = np.random.default_rng(0).uniform(-1, 1, (3, 40)).astype(np.float32)
    pair = on_both(model, wide, "integrated_gradients", n_steps=12, check=None)
    assert_alike(pair, wide)


def test_saved_loaded_pickled_and_copied(tmp_path: Path) -> None:
    x = samples(9)
    there, here = on_both(layers(), x[:2], "deep_taylor", check=None)
    there.save(tmp_path / "there")
    here.save(tmp_path / "here")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    load = pyrel.Explainer.load
    assert_alike((load(tmp_path / "there", device="cuda:0"), load(tmp_path / "there")), x)
    for copied in (pickle.loads(pickle.dumps(there)), copy.copy(there), copy.deepcopy(there)):
        assert_alike((copied, here), x)


def test_a_model_that_changes_later_does_not_show(tmp_path: Path) -> None:
    model, x = layers(), samples(3)
    there = pyrel.Explainer(model, x, "lrp_epsilon", device="cuda", check=None)
    wanted = there(x)
    with torch.no_grad():
        model[0].weight.zero_()
    there.save(tmp_path / "there")
    assert_same(there(x), wanted)
    assert_same(pyrel.Explainer.load(tmp_path / "there", device="cuda")(x), wanted)


def test_one_call_keeps_explainers_by_device() -> None:
    model, x = layers(), samples(3)
    before = launches()
    here = pyrel.explain(model, x, "lrp_epsilon")
    assert launches() == before
    for device in ("cuda", torch.device("cuda", 0), "cuda:0"):
        assert_same(pyrel.explain(model, x, "lrp_epsilon", device=device), here)
    assert launches() == before + 2 + 3  # compared with the model once


def test_attribute_and_other_options() -> None:
    there, here = on_both(layers(), samples(2), "integrated_gradients", n_steps=3, check=None)
    x = torch.from_numpy(samples(4))
    given = {"baselines": 0.25, "n_steps": 2, "target": 1, "return_convergence_delta": True}
    for one, other in zip(there.attribute(x, **given), here.attribute(x, **given), strict=True):
        assert torch.equal(one, other)


def test_out_progress_and_clipping() -> None:
    x = samples(20) * 3
    options = {"low": -1.0, "high": 1.0, "out_of_range": "clip", "check": None}
    pair = on_both(layers(), samples(2), "deep_taylor", **options)
    assert_alike(pair, x)
    out, told = np.empty_like(x), []
    found = pair[0](x, out=out, progress=lambda *now: told.append(now))
    assert found.relevance is out
    assert out.tobytes() == pair[1](x).relevance.tobytes()
    assert told[-1] == (20, 20)
    assert pair[0](x[:0]).relevance.shape == (0, 5)
    as_tensor = pair[0](torch.from_numpy(x))
    assert as_tensor.relevance.is_cpu
    np.testing.assert_array_equal(as_tensor.relevance, out)


def test_threads_share_an_explainer() -> None:
    there, here = on_both(layers(), samples(2), "lrp_epsilon", check=None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: there(samples(n)), range(1, 20)))
    for n, each in enumerate(found, start=1):
        assert_same(each, here(samples(n)))


def test_a_program_is_freed_with_its_explainer() -> None:
    gc.collect()
    used, held = cuda_emulated.used_memory(), cuda_emulated.library().pyrel_cuda_held()
    there = pyrel.Explainer(layers(), samples(2), "lrp_epsilon", device="cuda", check=None)
    there(samples(30))
    assert cuda_emulated.used_memory() > used
    del there
    gc.collect()
    assert cuda_emulated.used_memory() == used
    assert cuda_emulated.library().pyrel_cuda_held() == held


def test_programs_of_many_lengths_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the weights on the device, so that the oldest ones go."""
    x = batch(Last, 2, 20)
    explainer = pyrel.Explainer(made(Last), x[:, :2], "gradient", device="cuda", check=None)
    explainer(x)
    one = explainer._programs.at(20).bytes_on_device
    monkeypatch.setattr(programs, "_KEPT_BYTES", 3 * one)
    wanted = [explainer(x[:, :steps]) for steps in range(2, 21)]
    assert explainer._programs._kept.keys() == {18, 19, 20}
    assert_same(explainer(x[:, :2]), wanted[0])
