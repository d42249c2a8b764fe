# SPDX-License-Identifier: Apache-2.0
"""Tensors on a CUDA device: explained there by pointer, or by way of the host.

A test says that CPU tensors lie on "cuda:0": their memory is the emulated device's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated
from engine.on_cuda import CUDA, emulated, launches
from engine.sequences import Last, Tokens, assert_same, batch, made
from engine.test_cuda_device import OPTIONS, Tagger, layers, samples
from torch import nn

import pyrel
from pyrel.engine import devices
from pyrel.engine.cuda import tensors
from pyrel.engine.cuda.engine import CudaEngine

__all__ = ["emulated"]
pytestmark = pytest.mark.usefixtures("emulated")

STREAM = 0x5EED


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let all tensors lie on "cuda:0", with a stream; return how programs are run."""
    cuda_emulated.library()  # skips on a GPU, where the CPU's memory is not the device's
    calls: list[str] = []

    def noted(name: str) -> Any:
        whole = getattr(CudaEngine, name)

        def run(self: CudaEngine, *given: Any) -> Any:
            calls.append(name)
            return whole(self, *given)

        return run

    for name in ("run", "run_there"):
        monkeypatch.setattr(CudaEngine, name, noted(name))
    on_device = lambda x: CUDA if isinstance(x, torch.Tensor) else "cpu"  # noqa: E731
    monkeypatch.setattr(devices, "lies_on", on_device)
    monkeypatch.setattr(tensors, "stream_of", lambda device: STREAM)
    return calls


def compiled(model: nn.Module, example: Any, method: str = "lrp_epsilon", **options: Any) -> Any:
    """Compile for wherever a batch lies."""
    return pyrel.Explainer(model, np.asarray(example), method, check=None, **options)


def on_cpu(explainer: Any, x: torch.Tensor, *given: Any, **named: Any) -> Any:
    """Explain an array, which lies on the CPU."""
    before = launches()
    found = explainer(x.numpy(), *given, **named)
    assert launches() == before
    return found


def test_a_plain_call_stays_there(there: list[str]) -> None:
    explainer, x = compiled(layers(), samples(2)), torch.from_numpy(samples(19))
    targets = torch.arange(19) % 3
    for target in (None, 1, targets, targets.to(torch.int32), targets.numpy(), targets.tolist()):
        found = explainer(x, target)
        assert all(isinstance(field, torch.Tensor) for field in vars(found).values())
        host = target.numpy() if isinstance(target, torch.Tensor) else target
        assert_same(found, on_cpu(explainer, x, host))
    assert there == ["run_there"] * 6
    assert cuda_emulated.library().pyrel_cuda_stream() == STREAM
    assert torch.equal(explainer.forward(x), found.output)
    assert there == ["run_there"] * 7


def test_other_types_and_orders_are_converted_there(there: list[str]) -> None:
    explainer, x = compiled(layers(), samples(2)), torch.from_numpy(samples(24))
    for given in (
        x.double(),
        x.half(),
        x[::3],
        x.T.contiguous().T,
        torch._neg_view(x),
        x.requires_grad_(),
    ):
        wanted = on_cpu(explainer, given.detach().float().resolve_neg().contiguous())
        assert_same(explainer(given), wanted)
    assert there == ["run_there"] * 6
    tokens = compiled(made(Tokens), batch(Tokens, 2, 4))
    ids = torch.from_numpy(batch(Tokens, 3, 4))
    assert_same(tokens(ids), on_cpu(tokens, ids))
    assert_same(tokens(ids.to(torch.int16)), on_cpu(tokens, ids))
    assert there == ["run_there"] * 8


def test_out_is_written_in_place(there: list[str]) -> None:
    explainer, x = compiled(layers(), samples(2)), torch.from_numpy(samples(9))
    out = torch.full_like(x, torch.nan)
    assert explainer(x, out=out).relevance is out
    assert_same(pyrel.Explanation(out, *[*vars(on_cpu(explainer, x)).values()][1:]), explainer(x))
    refused = {
        "wanted float32 of shape": [out[:3], out.double()],
        "contiguous": [torch.empty(5, 9).T],
        "memory apart from x": [x],
        "does not require a gradient": [torch.empty_like(x).requires_grad_()],
    }
    for message, given in refused.items():
        for each in given:
            with pytest.raises(ValueError, match=message):
                explainer(x, out=each)
    with pytest.raises(TypeError, match="wanted the type of x"):
        explainer(x, out=out.numpy())


def test_outputs_of_several_dimensions_and_clipping(there: list[str]) -> None:
    x = torch.from_numpy(batch(Last, 3, 4))
    tagger = compiled(Tagger().eval(), x[:2])
    for target in ((1, 2), torch.tensor([[0, 1], [3, 2], [2, 0]])):
        host = target.numpy() if isinstance(target, torch.Tensor) else target
        assert_same(tagger(x, target), on_cpu(tagger, x, host))
    assert tagger.forward(x).shape == (3, 4, 3)
    clipped = compiled(layers(), samples(2), low=-0.5, high=0.5, out_of_range="clip")
    wide = torch.from_numpy(samples(9))
    told: list[tuple[int, int]] = []
    found = clipped(wide, progress=lambda *now: told.append(now))
    assert_same(found, on_cpu(clipped, wide))
    assert told == [(9, 9)]
    assert there == ["run_there"] * 4


def test_other_calls_go_through_the_host(there: list[str]) -> None:
    x = torch.from_numpy(batch(Last, 4, 4))
    lstm = compiled(made(Last), x[:2], lengths=True)
    lengths = [4, 2, 1, 2]
    assert_same(lstm(x, lengths=lengths), on_cpu(lstm, x, lengths=lengths))
    tagger = compiled(Tagger().eval(), x[:2])
    assert_same(tagger(x, "each step"), on_cpu(tagger, x, "each step"))
    ig = compiled(layers(), samples(2), "integrated_gradients", **OPTIONS["integrated_gradients"])
    few = torch.from_numpy(samples(3))
    assert_same(ig(few), on_cpu(ig, few))
    maps, delta = ig.attribute(few, n_steps=2, return_convergence_delta=True)
    assert (maps.shape, delta.shape) == (few.shape, (3,))
    assert set(there) == {"run"}
    assert ig(few[:0]).relevance.shape == (0, 5)


@pytest.mark.parametrize("kind", ["float", "ids"])
def test_refusals_have_the_words_of_the_cpu(there: list[str], kind: str) -> None:
    if kind == "ids":
        explainer, x = compiled(made(Tokens), batch(Tokens, 2, 4)), batch(Tokens, 4, 4)
        wrong = [(2, 1, 99), (3, 3, -1)]
    else:
        explainer, x = compiled(layers(), samples(2), low=-1.0, high=1.0), samples(20)
        wrong = [(7, 1, np.nan), (9, 0, 1.3), (19, 4, -np.inf)]
    for sample, element, value in wrong:
        bad = x.copy()
        bad[sample, element] = value
        with pytest.raises(ValueError) as wanted:
            explainer(bad)
        with pytest.raises(ValueError) as found:
            explainer(torch.from_numpy(bad))
        assert str(found.value) == str(wanted.value)
    ends = (np.full(len(x), 3), [0] * (len(x) - 1), np.zeros(len(x)), -np.ones(len(x), np.int64))
    for target in ends:
        with pytest.raises((ValueError, TypeError)) as wanted:
            explainer(x, target)
        given = torch.as_tensor(target)
        with pytest.raises((ValueError, TypeError)) as found:
            explainer(torch.from_numpy(x), given)
        assert type(found.value) is type(wanted.value)
        assert str(found.value).replace("torch.", "") == str(wanted.value).replace(
            "list of int64", "dtype int64"
        )


def test_overflow_and_lost_relevance_have_the_words_of_the_cpu(there: list[str]) -> None:
    model = nn.Linear(2, 1, bias=False).eval()
    model.weight.data[:] = torch.tensor([[3e38, 3e38]])
    explainer = compiled(model, np.ones((2, 2), np.float32), "gradient_x_input")
    x = np.float32([[1e-30, 0], [1, 1]])
    with pytest.raises(ValueError, match=r"output 0 for x\[1\]") as wanted:
        explainer(x)
    with pytest.raises(ValueError) as found:
        explainer(torch.from_numpy(x))
    assert str(found.value) == str(wanted.value)
    sigmoid = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Sigmoid()).eval()
    sigmoid[0].weight.data[:] = torch.tensor([[-85.0, -1.0]])
    explainer = compiled(sigmoid, np.ones((2, 2), np.float32), "lrp_epsilon")
    x = np.float32([[0.1, 0.1], [1.0, 1.0]])
    by_host = pyrel.Explainer(sigmoid, x, "lrp_epsilon", device="cuda", check=None)
    said = []
    for each, given in ((explainer, x), (explainer, torch.from_numpy(x)), (by_host, x)):
        with pytest.raises(ValueError, match=r"relevance of x\[1\] is not conserved") as error:
            each(given)
        said.append(str(error.value))
    assert said[0] == said[1] == said[2]


def test_devices_of_tensors_and_of_explainers(
    there: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(samples(3))
    model = layers()
    cpu = pyrel.Explainer(model, samples(2), "lrp_epsilon", device="cpu")
    with pytest.raises(ValueError, match=r"x: it lies on cuda:0, .* device='cpu'"):
        cpu(x)
    with cuda_emulated.devices(2):
        other = pyrel.Explainer(model, samples(2), "lrp_epsilon", device="cuda:1")
        with pytest.raises(ValueError, match=r"x: it lies on cuda:0, .* device='cuda:1'"):
            other(x)
        assert_same(other(x.numpy()), cpu(x.numpy()))
    own = pyrel.Explainer(model, samples(2), "lrp_epsilon", device="cuda")
    there.clear()
    assert_same(own(x), cpu(x.numpy()))
    assert there == ["run_there"]
    monkeypatch.setenv("PYREL_CUDA_LIBRARY", "/nowhere")
    with pytest.raises(RuntimeError, match="names /nowhere, and there is no such file"):
        compiled(model, samples(2))(x)
    # A pyrel without CUDA explains tensors there on the CPU, as ever.
    monkeypatch.delenv("PYREL_CUDA_LIBRARY")
    before = launches()
    assert_same(compiled(model, samples(2))(x), cpu(x.numpy()))
    assert launches() == before
