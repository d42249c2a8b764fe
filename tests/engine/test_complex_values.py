# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms and complex values: outputs and gradients are those of torch in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, norms, rows, torch_gradient, unchecked_at
from torch import Tensor, nn

import pyrel

STEPS, WIDTH, CLASSES = 4, 6, 3
TOGETHER = 11  # models that are captured as one
Apply = Callable[[Tensor], Tensor]


def like(v: Tensor, *shape: int) -> Tensor:
    """Constants of the complex type that goes with a real one."""
    turns = torch.linspace(0, 5, math.prod(shape), dtype=v.dtype).reshape(shape)
    return torch.complex(turns.cos() * 0.8, turns.sin() * 0.9)


def pairs(z: Tensor) -> Tensor:
    return torch.view_as_real(z.resolve_conj()).flatten(1)


def complex_of(v: Tensor) -> Tensor:
    return torch.complex(v[..., :3], v[..., 3:])


def recurrence(v: Tensor) -> Tensor:
    """A linear recurrent unit: complex states, each turned and shrunk at each step."""
    turn, enter = like(v, 5), like(v, WIDTH, 5)
    h = torch.zeros(len(v), 5, dtype=turn.dtype)
    u = v.to(turn.dtype) @ enter
    for t in range(STEPS):
        h = turn * h + u[:, t]
    return (h @ like(v, 5, 4)).real


def spectrogram(v: Tensor, **options: object) -> Tensor:
    window = torch.hann_window(6, dtype=v.dtype)
    return torch.stft(v.flatten(1), 6, 3, window=window, return_complex=True, **options)


MODELS: dict[str, Apply] = {
    "fft": lambda v: pairs(torch.fft.fft(v)),
    "fft-of-complex": lambda v: pairs(torch.fft.fft(complex_of(v), n=5, dim=1, norm="ortho")),
    "ifft": lambda v: pairs(torch.fft.ifft(v, dim=1)),
    "rfft": lambda v: pairs(torch.fft.rfft(v, dim=1)),
    "power": lambda v: torch.fft.rfft(v, n=8, norm="forward").abs() ** 2,
    "irfft": lambda v: torch.fft.irfft(complex_of(v), n=5),
    "there-and-back": lambda v: torch.fft.irfft(torch.fft.rfft(v) * like(v, 4), n=WIDTH),
    "hfft": lambda v: torch.fft.hfft(complex_of(v)),
    "ihfft": lambda v: pairs(torch.fft.ihfft(v)),
    "fft2": lambda v: pairs(torch.fft.fft2(v)),
    "ifft2-of-sizes": lambda v: pairs(torch.fft.ifft2(v, s=(3, 4))),
    "fftn": lambda v: pairs(torch.fft.fftn(v, dim=(2, 1))),
    "rfft2": lambda v: pairs(torch.fft.rfft2(v)),
    "irfft2": lambda v: torch.fft.irfft2(torch.fft.rfft2(v)[:, :, :3], s=(3, 5)),
    "rfftn-of-sizes": lambda v: pairs(torch.fft.rfftn(v, s=(5, 4))),
    "shifted": lambda v: pairs(torch.fft.ifftshift(torch.fft.fftshift(torch.fft.fft(v), 2), (1,))),
    "stft": lambda v: pairs(spectrogram(v)),
    "stft-all-frequencies": lambda v: pairs(
        spectrogram(v, center=False, onesided=False, normalized=True)
    ),
    "stft-magnitudes": lambda v: spectrogram(v, pad_mode="constant").abs().log1p(),
    "parts": lambda v: torch.fft.fft(v).real + torch.fft.fft(v, dim=1).imag,
    "recurrence": recurrence,
    "products": lambda v: pairs(complex_of(v) * complex_of(v.flip(1)).conj()),
    "product-with-real": lambda v: pairs(v[..., :3] * complex_of(v)),
    "sums": lambda v: pairs((1j * complex_of(v) + 0.5).sum(1) - complex_of(v).mean(1)),
    "reversed-difference": lambda v: pairs(2.0 - complex_of(v)),
    "quotients": lambda v: pairs(complex_of(v) / like(v, 3) / (1 + v[..., :3] ** 2)),
    "exponential": lambda v: pairs(torch.exp(complex_of(v) * 0.5)),
    "einsum": lambda v: pairs(torch.einsum("bti,io->bto", complex_of(v), like(v, 3, 2))),
    "linear": lambda v: pairs(nn.functional.linear(complex_of(v), like(v, 2, 3), like(v, 2))),
    "bmm": lambda v: pairs(torch.bmm(complex_of(v), complex_of(v).mT)),
    "view-as-complex": lambda v: pairs(torch.view_as_complex(v.unflatten(2, (3, 2))).cumsum(1)),
    "moved": lambda v: pairs(
        torch.stack([z.roll(1, 1) for z in complex_of(v).mT[:, :2].split(2, 2)], -1)
    ),
    "detached": lambda v: pairs(complex_of(v).detach() * complex_of(v)),
}


class Around(nn.Module):
    """A dense layer, what is tested, and a dense layer for its outputs."""

    def __init__(self, apply: Apply) -> None:
        super().__init__()
        self.before, self.apply_it = nn.Linear(WIDTH, WIDTH), apply
        width = apply(torch.rand(2, STEPS, WIDTH)).flatten(1).shape[1]
        self.after = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.apply_it(self.before(x)).flatten(1))


def model_of(apply: Apply) -> nn.Module:
    torch.manual_seed(0)
    return Around(apply).eval()


def batch() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(7, STEPS, WIDTH)).astype(np.float32)


class Together(nn.Module):
    """A score of each of several models behind one dense layer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.each = nn.ModuleList(Around(MODELS[name]) for name in names)
        for around in self.each[1:]:
            around.before = self.each[0].before

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([around(x)[:, 0] for around in self.each], dim=1)


GROUPS = [tuple(MODELS)[i : i + TOGETHER] for i in range(0, len(MODELS), TOGETHER)]


@functools.cache
def together(names: tuple[str, ...]) -> tuple[Together, pyrel.Explainer]:
    """Return a model in float64 and its explainer: an export takes most of the time."""
    torch.manual_seed(0)
    model = Together(names).eval()
    explainer = unchecked_at(model, batch()[:2], method="gradient")
    return model.double(), explainer


@pytest.mark.parametrize(
    ("names", "number"),
    [pytest.param(part, n, id=name) for part in GROUPS for n, name in enumerate(part)],
)
def test_outputs_and_gradients_are_torchs(names: tuple[str, ...], number: int) -> None:
    (model, explainer), x = together(names), batch()
    e = explainer(x, target=number)
    output, gradient = torch_gradient(model, x.astype(np.float64), e.target)
    output, found = output[:, number], e.output[:, number]
    assert_within(np.abs(found - output), RELATIVE * np.abs(output).max(), "output")
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")


@pytest.mark.parametrize("name", ["there-and-back", "stft-magnitudes", "recurrence"])
def test_relevance_is_conserved(name: str) -> None:
    model, x = model_of(MODELS[name]), batch()
    e = unchecked_at(model, x[:2], method="lrp_epsilon", epsilon=1e-3)(x)
    start = rows(e.output)[np.arange(len(x)), np.asarray(e.target)]
    total = rows(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(start)
    assert_within(np.abs(total - start)[:, None], RELATIVE * size[:, None], "conservation")


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda v: torch.fft.fft(v).angle(), "aten.angle.*a complex value is used"),
        (lambda v: pairs(complex_of(v) / complex_of(v.flip(1))), "a complex value is divided by"),
        (lambda v: pairs(torch.fft.fft(v).sqrt()), "aten.sqrt.*a complex value is used"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(apply: Apply, words: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=words):
        pyrel.capture(model_of(apply), batch()[:2])


@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
@pytest.mark.parametrize(
    "cast",
    [
        lambda z, v: z.to(v.dtype).abs(),
        lambda z, v: z.to(v).abs() * v,
        lambda z, v: z.to(torch.complex64).abs(),
        lambda z, v: z.to(v.device).imag,
    ],
)
def test_a_cast_to_a_real_type_takes_the_real_part(
    cast: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Without the self-check, which would refuse what is wrong."""
    model, x = model_of(lambda v: cast(torch.fft.fft(v, dim=1), v)), batch()
    explainer = pyrel.Explainer(model, x[:2], "gradient", check=None)
    given = torch.as_tensor(x).clone().requires_grad_()
    output = model(given)
    output[:, 1].sum().backward()
    assert given.grad is not None
    e = explainer(x, 1)
    scale = output.detach().abs().max().item()
    np.testing.assert_allclose(np.asarray(e.output), output.detach().numpy(), atol=1e-5 * scale)
    scale = given.grad.abs().max().item()
    np.testing.assert_allclose(np.asarray(e.relevance), given.grad.numpy(), atol=1e-5 * scale)


def test_a_complex_output_is_refused() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x.flatten(1))

    with pytest.raises(pyrel.UnsupportedModelError, match="the output is a complex value"):
        pyrel.capture(Spectrum(), torch.rand(2, 4, 3))


class Turned(nn.Module):
    """Complex parameters, as of a linear recurrent unit."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Parameter(torch.randn(WIDTH, CLASSES, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.enter.dtype) @ self.enter).mean(1).imag


def test_complex_parameters_are_checked_and_compared() -> None:
    """The compiled program is compared with the model, and a changed parameter is seen."""
    torch.manual_seed(0)
    model, x = Turned(), batch()
    explainer = pyrel.Explainer(model, x[:2], method="gradient")
    assert "outputs and gradients" in str(explainer.checked)
    before = pyrel.explain(model, x, "gradient").relevance
    with torch.no_grad():
        model.enter.imag.mul_(2)
    after = pyrel.explain(model, x, "gradient").relevance
    np.testing.assert_allclose(after, 2 * np.asarray(before), rtol=1e-6)
