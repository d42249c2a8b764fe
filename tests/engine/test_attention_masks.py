# SPDX-License-Identifier: Apache-2.0
"""Masks of torch's attention: of padding that token ids tell or an input gives, and causal ones."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import torch_gradient, unchecked
from engine.mask_models import UNITS, Masked, reference
from engine.sequences import made
from torch import Tensor, nn
from torch.nn import functional

# Padded at the end, by one and by all but one, and not at all.
IDS = np.array([[1, 2, 3, 4, 0], [5, 0, 0, 0, 0], [3, 1, 5, 6, 2]])
ROUNDING = 200 * 2.0**-23  # of some hundred terms of size one or less


def causal(steps: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(steps)


class Attending(Masked):
    """Multi-head attention from the first token to all that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(UNITS, 1, batch_first=True)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        return self.attend(e[:, :1], e, e, key_padding_mask=x.eq(0), need_weights=False)[0][:, 0]


class Encoder(Masked):
    """A layer of a transformer's encoder, read at the first token."""

    masks: Any = staticmethod(lambda steps: None)

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(UNITS, 1, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        mask = self.masks(x.shape[1])
        return self.read(self.encoder(e, mask=mask, src_key_padding_mask=x == 0), x)

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        return h[:, 0]


class CausalEncoder(Encoder):
    """Each token attends to those before it; the mean of what is no padding is read."""

    masks = staticmethod(lambda steps: torch.ones(steps, steps, dtype=torch.bool).triu(1))

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        m = (x != 0).unsqueeze(-1).to(h.dtype)
        return (h * m).sum(1) / m.sum(1)


class Token(Encoder):
    """A token of the model's own stands before the others, and is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, UNITS))

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        whole = torch.cat([self.first.expand(len(x), -1, -1), e], 1)
        padding = functional.pad(x == 0, (1, 0), value=False)
        return self.encoder(whole, src_key_padding_mask=padding)[:, 0]


class TruthValues(Masked):
    """A mask of truth values, both of ids and constant ones."""

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        steps = x.shape[1]
        allowed = (x != 0)[:, None, :] & torch.ones(steps, steps, dtype=torch.bool).tril()
        return functional.scaled_dot_product_attention(e, e, e, attn_mask=allowed).sum(1)


class Numbers(Masked):
    """A mask of 0 and 1 that is no truth value: it is added to the scores."""

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        added = (x != 0).to(e.dtype)[:, None, :].expand(-1, x.shape[1], -1)
        return functional.scaled_dot_product_attention(e, e, e, attn_mask=added).sum(1)


MODELS = Attending, Encoder, CausalEncoder, Token, TruthValues, Numbers


@functools.cache
def model_of(make: type[Masked]) -> Masked:
    """Return a model that no test changes, so that it is captured once."""
    return made(make)


@pytest.mark.parametrize("make", MODELS)
def test_gradients_are_torchs(make: type[Masked]) -> None:
    model = model_of(make)
    e = unchecked(model, IDS[:2], "gradient")(IDS)
    output, relevance = reference(model, IDS, e.target)
    np.testing.assert_allclose(e.output, output, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("attention", ["values", "attnlrp"])
@pytest.mark.parametrize("make", MODELS)
def test_relevance_is_conserved(make: type[Masked], attention: Any) -> None:
    model = model_of(make)
    e = unchecked(model, IDS[:2], "lrp_epsilon", attention=attention)(IDS)
    start = np.take_along_axis(e.output, e.target[:, None], 1)[:, 0]
    size = np.maximum(1, e.amplification) * np.maximum(1, np.abs(start))
    assert (np.abs(e.relevance.sum(1) + e.absorbed - start) <= ROUNDING * size).all()
    if make in {Encoder, TruthValues}:  # nothing reads a token of padding but at its own place
        assert np.abs(e.relevance[IDS != 0]).max() > 1e-3
    if make is Encoder:
        np.testing.assert_array_equal(e.relevance[IDS == 0], 0)


def test_a_sequence_of_padding_alone_is_an_error() -> None:
    """The softmax of nothing is NaN in torch, too, or 0 by its choice of a kernel."""
    explainer = unchecked(model_of(TruthValues), IDS[:2], "gradient")
    with pytest.raises(ValueError, match=r"output 0 for x\[1\] is NaN or infinite"):
        explainer(np.array([[1, 2, 3, 4, 0], [0, 0, 0, 0, 0]]))


class Given(nn.Module):
    """Takes the mask as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.out(self.attend(x, x, x, key_padding_mask=padding)[0].mean(1))


def test_a_mask_that_is_an_input() -> None:
    torch.manual_seed(0)
    model, x, padding = Given().eval(), torch.randn(3, 5, 4).numpy(), IDS == 0
    given = {"x": x, "padding": padding}
    e = unchecked(model, given, "gradient")(given)
    exact = functools.partial(model.double(), padding=torch.from_numpy(padding))
    output, gradient = torch_gradient(exact, x.astype(np.float64), e.target)
    np.testing.assert_allclose(e.output, output, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(e.relevance["x"], gradient, rtol=0, atol=ROUNDING)


class Decoder(nn.Module):
    """A decoder with a causal mask, which torch compares with one that it makes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)
        self.decoder, self.out = nn.TransformerDecoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.decoder(x, x[:, :2], tgt_mask=causal(x.shape[1]))[:, -2])


def test_a_causal_mask_of_a_decoder() -> None:
    torch.manual_seed(0)
    model, x = Decoder().eval(), torch.randn(3, 5, 4).numpy()
    looks = nn.modules.transformer._detect_is_causal_mask
    e = unchecked(model, x[:2], "gradient")(x)
    assert nn.modules.transformer._detect_is_causal_mask is looks
    output, gradient = torch_gradient(model.double(), x.astype(np.float64), e.target)
    np.testing.assert_allclose(e.output, output, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(e.relevance, gradient, rtol=0, atol=ROUNDING)
    assert not e.relevance[:, -1].any()  # causal
