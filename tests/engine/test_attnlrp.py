# SPDX-License-Identifier: Apache-2.0
"""`attention="attnlrp"`: maps are those of the paper's rules, written in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, rows, target_score, unchecked
from reference_attention import Array, Blocks, of_softmax, softmax, start
from torch import Tensor, nn
from torch.nn import functional

import pyrel

STEPS, WIDTH, CLASSES = 4, 4, 3
EPSILON = 1e-3
BLOCKS = Blocks(EPSILON)
CAUSAL = torch.full((STEPS, STEPS), -torch.inf).triu(1)


def _without_grad(scores: Tensor) -> Tensor:
    with torch.no_grad():
        return scores.amax(-1, keepdim=True)


MAXIMA: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda s: s.amax(-1, keepdim=True),
    "maximum detached": lambda s: s.amax(-1, keepdim=True).detach(),
    "maximum of detached": lambda s: s.detach().amax(-1, keepdim=True),
    "max of detached": lambda s: s.detach().max(-1, keepdim=True)[0],
    "maximum without grad": _without_grad,
    "maximum of all, detached": lambda s: s.detach().amax((1, 2), keepdim=True),
}
MASKED = (
    "causal",
    "mask",
    "mask, then scale",
    "two masks",
    "mask taken off",
    "mask, maximum",
    "maximum, mask",
    "log-softmax",
    "logarithm of a sum",
    "masked exponentials",
)
Parameters = dict[str, Array]
Explained = tuple[Array, Callable[[Array], Array]]  # the output, and the way back to the input


def batch(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.normal(size=(count, STEPS, WIDTH)).astype(np.float32)


class ByHand(nn.Module):
    """One head of attention, its products written in one of several ways."""

    def __init__(self, way: str = "matmul") -> None:
        super().__init__()
        self.way = way
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        scale = WIDTH**-0.5
        match self.way:
            case "matmul":
                mixed = torch.softmax(scale * (q @ k.transpose(1, 2)), -1) @ v
            case "bmm":
                mixed = torch.bmm((torch.bmm(q, k.mT) * scale).softmax(-1), v)
            case "einsum":
                scores = torch.einsum("nid,njd->nij", q, k) * scale
                mixed = torch.einsum("nij,njd->nid", scores.softmax(-1), v)
            case "sum":
                scores = (q[:, :, None] * k[:, None]).sum(-1) * scale
                mixed = (scores.softmax(-1)[..., None] * v[:, None]).sum(2)
            case "steps":
                scores = torch.stack([(q * k[:, t : t + 1]).sum(-1) for t in range(STEPS)], -1)
                weights = (scores * scale).softmax(-1)
                parts = [weights[:, :, t : t + 1] * v[:, t : t + 1] for t in range(STEPS)]
                mixed = torch.stack(parts).sum(0)
            case "exponentials":
                e = torch.exp(scale * (q @ k.mT))
                mixed = (e / e.sum(-1, keepdim=True)) @ v
            case "causal":
                mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "mask":
                mixed = torch.softmax(scale * (q @ k.mT) + CAUSAL, -1) @ v
            case "mask, then scale":
                mixed = torch.softmax((q @ k.mT + CAUSAL) * scale, -1) @ v
            case "two masks":
                lowest = CAUSAL.clamp_min(torch.finfo(torch.float32).min)
                mixed = torch.softmax(scale * (q @ k.mT) + lowest + lowest, -1) @ v
            case "mask taken off":
                mixed = torch.softmax(scale * (q @ k.mT) - (0.0 - CAUSAL), -1) @ v
            case "mask, maximum":
                scores = scale * (q @ k.mT)
                masked = scores + CAUSAL
                e = torch.exp(masked - masked.detach().amax(-1, keepdim=True))
                mixed = (e / e.sum(-1, keepdim=True)) @ v
            case "maximum, mask":
                scores = scale * (q @ k.mT)
                e = torch.exp(scores - scores.amax(-1, keepdim=True) + CAUSAL)
                mixed = (e / e.sum(-1, keepdim=True)) @ v
            case "log-softmax":
                mixed = torch.log_softmax(scale * (q @ k.mT) + CAUSAL, -1).exp() @ v
            case "logarithm of a sum":
                scores = scale * (q @ k.mT) + CAUSAL
                mixed = torch.exp(scores - scores.exp().sum(-1, keepdim=True).log()) @ v
            case "masked exponentials":
                e = torch.exp(scale * (q @ k.mT)) * (CAUSAL == 0)
                mixed = (e / (e.sum(-1, keepdim=True) + 1e-13)) @ v
            case "maximum, softmax":
                scores = scale * (q @ k.mT)
                mixed = (scores - scores.amax(-1, keepdim=True)).softmax(-1) @ v
            case _ if self.way in MAXIMA:
                scores = scale * (q @ k.mT)
                e = torch.exp(scores - MAXIMA[self.way](scores))
                mixed = (e / e.sum(-1, keepdim=True)) @ v
            case _:
                mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed[:, -2])


def of_by_hand(p: Parameters, x: Array, way: str) -> Explained:
    linear = [BLOCKS.linear(x, *of(p, name)) for name in "qkv"]
    mask = np.tril(np.ones((STEPS, STEPS), dtype=bool)) if way in MASKED else None
    mixed, back_mixed = BLOCKS.attention(*(z for z, _ in linear), WIDTH**-0.5, mask)
    out, back_out = BLOCKS.linear(mixed[:, -2], *of(p, "out"))

    def back(r: Array) -> Array:
        of_mixed = np.zeros_like(mixed)
        of_mixed[:, -2] = back_out(r)
        parts = zip(linear, back_mixed(of_mixed), strict=True)
        return np.sum([linear_back(part) for (_, linear_back), part in parts], axis=0)

    return out, back


class Additive(nn.Module):
    """Attention by vᵀ tanh(W h_t + U h_T) over inputs; over the first ones, with a mask."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way = way
        self.w, self.u = nn.Linear(WIDTH, 6), nn.Linear(WIDTH, 6, bias=False)
        self.v, self.out = nn.Linear(6, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.v(torch.tanh(self.w(x) + self.u(x[:, -1:])))
        if self.way == "mask":
            scores = scores + CAUSAL[2][:, None]
        elif self.way == "maximum":
            e = torch.exp(scores - scores.detach().amax(1, keepdim=True))
            return self.out((e / e.sum(1, keepdim=True) * x).sum(1))
        return self.out((scores.softmax(1) * x).sum(1))


def of_additive(p: Parameters, x: Array, masked: bool = False) -> Explained:
    last = np.broadcast_to(x[:, -1:], x.shape)
    weight = np.concatenate([p["w.weight"], p["u.weight"]], axis=1)
    z, back_z = BLOCKS.linear(np.concatenate([x, last], axis=2), weight, p["w.bias"])
    scores, back_scores = BLOCKS.linear(np.tanh(z), *of(p, "v"))
    logits = scores.swapaxes(1, 2) + (CAUSAL[2].double().numpy() if masked else 0.0)
    weights = softmax(logits)
    mixed, back_mixed = BLOCKS.product(weights, x)
    out, back_out = BLOCKS.linear(mixed[:, 0], *of(p, "out"))

    def back(r: Array) -> Array:
        of_weights, of_x = back_mixed(back_out(r)[:, None])
        of_scores = of_softmax(logits, weights, of_weights).swapaxes(1, 2)
        both = back_z(back_scores(of_scores))
        of_x = of_x + both[..., :WIDTH]
        of_x[:, -1] += both[..., WIDTH:].sum(axis=1)
        return of_x

    return out, back


class LinearScores(nn.Module):
    """Attention whose scores are a linear layer's, over the first inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.out = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(((self.score(x).mT + CAUSAL).softmax(-1) @ x)[:, -2])


def of_linear_scores(p: Parameters, x: Array) -> Explained:
    scores, back_scores = BLOCKS.linear(x, *of(p, "score"))
    logits = scores.swapaxes(1, 2) + CAUSAL[-2].double().numpy()
    weights = softmax(logits)
    mixed, back_mixed = BLOCKS.product(weights, x)
    out, back_out = BLOCKS.linear(mixed[:, 0], *of(p, "out"))

    def back(r: Array) -> Array:
        of_weights, of_x = back_mixed(back_out(r)[:, None])
        return of_x + back_scores(of_softmax(logits, weights, of_weights).swapaxes(1, 2))

    return out, back


class Twice(nn.Module):
    """Attention by a softmax of what a softmax gives."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weights = ((x @ x.mT).softmax(-1) + CAUSAL).softmax(-1)
        return self.out((weights @ x)[:, -2])


def of_twice(p: Parameters, x: Array) -> Explained:
    scores, back_scores = BLOCKS.product(x, x.swapaxes(1, 2))
    first = softmax(scores)
    logits = first + CAUSAL.double().numpy()
    weights = softmax(logits)
    mixed, back_mixed = BLOCKS.product(weights, x)
    out, back_out = BLOCKS.linear(mixed[:, -2], *of(p, "out"))

    def back(r: Array) -> Array:
        of_mixed = np.zeros_like(mixed)
        of_mixed[:, -2] = back_out(r)
        of_weights, of_x = back_mixed(of_mixed)
        of_first = of_softmax(logits, weights, of_weights)
        left, right = back_scores(of_softmax(scores, first, of_first))
        return of_x + left + right.swapaxes(1, 2)

    return out, back


class Dotted(nn.Module):
    """An LSTM whose last state asks for all states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(WIDTH, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)
        scores = (h @ h[:, -1, :, None]).softmax(1)
        return self.out((scores * h).sum(1))


def of_dotted(p: Parameters, x: Array) -> Explained:
    bias = p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]
    h, back_h = BLOCKS.lstm(x, p["lstm.weight_ih_l0"], p["lstm.weight_hh_l0"], bias)
    mixed, back_mixed = BLOCKS.attention(h[:, -1:], h, h)
    out, back_out = BLOCKS.linear(mixed[:, 0], *of(p, "out"))

    def back(r: Array) -> Array:
        of_last, of_keys, of_values = back_mixed(back_out(r)[:, None])
        of_h = of_keys + of_values
        of_h[:, -1] += of_last[:, 0]
        return back_h(of_h)

    return out, back


class Heads(nn.Module):
    """`nn.MultiheadAttention` of two heads, with a mask."""

    def __init__(self, weights: bool, mask: str = "") -> None:
        super().__init__()
        self.mask = mask
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.out, self.weights = nn.Linear(WIDTH, CLASSES), weights

    def forward(self, x: Tensor) -> Tensor:
        masks: dict[str, Tensor] = {}
        match self.mask:
            case "float":
                masks["attn_mask"] = CAUSAL
            case "bool":
                masks["attn_mask"] = CAUSAL < 0
            case "padding":
                masks["key_padding_mask"] = (CAUSAL[2] < 0).expand(len(x), -1)
            case "float and padding":
                masks["attn_mask"] = CAUSAL
                masks["key_padding_mask"] = CAUSAL[2].expand(len(x), -1)
        return self.out(self.attend(x, x, x, need_weights=self.weights, **masks)[0][:, 1])


def in_heads(
    p: Parameters, name: str, x: Array, early: bool, mask: Array | None = None
) -> tuple[Array, Callable[[Array], Array]]:
    """Two heads before their last layer; their queries are scaled as they are made, or later."""
    scale = (WIDTH // 2) ** -0.5
    by = np.repeat([scale if early else 1.0, 1.0, 1.0], WIDTH)
    weight, bias = by[:, None] * p[f"{name}.in_proj_weight"], by * p[f"{name}.in_proj_bias"]
    z, back_z = BLOCKS.linear(x, weight, bias)
    q, k, v = (
        part.reshape(*part.shape[:2], 2, -1).swapaxes(1, 2) for part in np.split(z, 3, axis=2)
    )
    mixed, back_mixed = BLOCKS.attention(q, k, v, 1.0 if early else scale, mask)

    def joined(part: Array) -> Array:
        return part.swapaxes(1, 2).reshape(x.shape)

    def back(r: Array) -> Array:
        of_heads = r.reshape(*r.shape[:2], 2, -1).swapaxes(1, 2)
        return back_z(np.concatenate([joined(part) for part in back_mixed(of_heads)], axis=2))

    return joined(mixed), back


def of_heads(p: Parameters, x: Array, weights: bool, mask: str = "") -> Explained:
    kept = np.ones((STEPS, STEPS))
    if mask and mask != "padding":
        kept = np.tril(kept)
    if "padding" in mask:
        kept[:, 3:] = 0.0
    mixed, back_mixed = in_heads(p, "attend", x, early=weights, mask=kept)
    joined, back_joined = BLOCKS.linear(mixed, *of(p, "attend.out_proj"))
    out, back_out = BLOCKS.linear(joined[:, 1], *of(p, "out"))

    def back(r: Array) -> Array:
        of_joined = np.zeros_like(joined)
        of_joined[:, 1] = back_out(r)
        return back_mixed(back_joined(of_joined))

    return out, back


class Encoder(nn.Module):
    """A layer of a transformer's encoder."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 8, batch_first=True, norm_first=norm_first
        )
        self.out = nn.Linear(WIDTH, CLASSES)
        for norm in (self.layer.norm1, self.layer.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
        nn.init.normal_(self.layer.self_attn.in_proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[:, -1])


def of_encoder(p: Parameters, x: Array) -> Explained:
    """Explain a layer that normalises last: each sum is one linear layer over both addends."""
    mixed, back_mixed = in_heads(p, "layer.self_attn", x, early=False)
    summed, back_summed = BLOCKS.residual(x, mixed, *of(p, "layer.self_attn.out_proj"))
    a, back_a = BLOCKS.normalised(summed, *of(p, "layer.norm1"))
    z, back_z = BLOCKS.linear(a, *of(p, "layer.linear1"))
    summed_again, back_again = BLOCKS.residual(a, np.maximum(z, 0.0), *of(p, "layer.linear2"))
    b, back_b = BLOCKS.normalised(summed_again, *of(p, "layer.norm2"))
    out, back_out = BLOCKS.linear(b[:, -1], *of(p, "out"))

    def back(r: Array) -> Array:
        of_a, of_z = back_again(back_b(at_last(back_out(r), b)))
        of_x, of_mixed = back_summed(back_a(of_a + back_z(of_z)))
        return of_x + back_mixed(of_mixed)

    return out, back


def of_encoder_norm_first(p: Parameters, x: Array) -> Explained:
    """Explain a layer that normalises first: what is added up is one linear layer over all."""
    first, back_first = BLOCKS.normalised(x, *of(p, "layer.norm1"))
    mixed, back_mixed = in_heads(p, "layer.self_attn", first, early=False)
    weight, bias = of(p, "layer.self_attn.out_proj")
    a, back_a = BLOCKS.residual(x, mixed, weight, bias)
    second, back_second = BLOCKS.normalised(a, *of(p, "layer.norm2"))
    z, back_z = BLOCKS.linear(second, *of(p, "layer.linear1"))
    inner, (last_weight, last_bias) = np.maximum(z, 0.0), of(p, "layer.linear2")
    both = np.concatenate([mixed, inner], axis=2)
    weights = np.concatenate([weight, last_weight], axis=1)
    b, back_b = BLOCKS.residual(x, both, weights, bias + last_bias)
    out, back_out = BLOCKS.linear(b[:, -1], *of(p, "out"))

    def back(r: Array) -> Array:
        of_x, of_both = back_b(at_last(back_out(r), b))
        of_mixed, of_inner = np.split(of_both, [WIDTH], axis=2)
        more = back_a(back_second(back_z(of_inner)))
        return of_x + more[0] + back_first(back_mixed(of_mixed + more[1]))

    return out, back


def of(p: Parameters, name: str) -> tuple[Array, Array]:
    return p[f"{name}.weight"], p[f"{name}.bias"]


def at_last(r: Array, states: Array) -> Array:
    """Relevance of the last of some states."""
    out = np.zeros_like(states)
    out[:, -1] = r
    return out


WAYS = ("matmul", "bmm", "einsum", "sum", "steps", "exponentials", "fused", "maximum, softmax")
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Parameters, Array], Explained]]] = {
    **{
        f"by hand, {way}": (
            functools.partial(ByHand, way),
            functools.partial(of_by_hand, way=way),
        )
        for way in (*WAYS, *MASKED, *MAXIMA)
    },
    "additive": (Additive, of_additive),
    "additive, maximum": (functools.partial(Additive, "maximum"), of_additive),
    "additive, mask": (
        functools.partial(Additive, "mask"),
        functools.partial(of_additive, masked=True),
    ),
    "two softmaxes": (Twice, of_twice),
    "linear scores, mask": (LinearScores, of_linear_scores),
    "LSTM with dot products": (Dotted, of_dotted),
    **{
        f"heads{', weights' if weights else ''}{mask and f', {mask}'}": (
            functools.partial(Heads, weights, mask),
            functools.partial(of_heads, weights=weights, mask=mask),
        )
        for weights in (False, True)
        for mask in ("", "float", "bool", "padding", "float and padding")
    },
    "encoder": (functools.partial(Encoder, False), of_encoder),
    "encoder, norm first": (
        functools.partial(Encoder, True),
        of_encoder_norm_first,
    ),
}


@functools.cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(2)
    return CASES[name][0]().eval()


class Together(nn.Module):
    """The scores of several models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([model(x) for model in self.each], dim=1)


BY_HAND = tuple(name for name in CASES if name.startswith("by hand"))


@functools.cache
def captured(names: tuple[str, ...]) -> Any:
    """Return the graph of models, at one number of steps."""
    return pyrel.capture(Together([model_of(name) for name in names]), batch(2))


@functools.cache
def compiled(names: tuple[str, ...], detach: str = "pass") -> pyrel.Explainer:
    options: dict[str, Any] = {"epsilon": EPSILON, "attention": "attnlrp", "detach": detach}
    return unchecked(captured(names), method="lrp_epsilon", **options)


@functools.cache
def explained(name: str, detach: str = "pass") -> tuple[pyrel.Explanation, Array]:
    """Explain the predicted class; one export is for all models that are written by hand."""
    names = BY_HAND if name in BY_HAND else (name,)
    explainer, first = compiled(names, detach), CLASSES * names.index(name)
    own = explainer.forward(batch())[:, first : first + CLASSES]
    target = np.asarray(own).argmax(axis=1)
    return explainer(batch(), target=first + target), target


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_formulas(name: str) -> None:
    x = batch()
    e, target = explained(name)
    p = {key: each.detach().double().numpy() for key, each in model_of(name).named_parameters()}
    output, back = CASES[name][1](p, x.astype(np.float64))
    np.testing.assert_array_equal(target, output.argmax(axis=1))
    seed = start(output, target)
    expected = back(seed)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(output).max(axis=1)
    error = np.abs(rows(e.relevance) - rows(expected))
    assert_within(error, RELATIVE * size[:, None], "relevance")
    absorbed = seed.sum(axis=1) - rows(expected).sum(axis=1)
    assert_within(
        np.abs(np.asarray(e.absorbed) - absorbed)[:, None], RELATIVE * size[:, None], "absorbed"
    )
    total = rows(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    assert_within(np.abs(total - target_score(e))[:, None], RELATIVE * size[:, None], "conserved")


@pytest.mark.parametrize("way", MAXIMA)
def test_a_maximum_changes_nothing_where_detached_values_are_constants(way: str) -> None:
    name = f"by hand, {way}"
    stopped, plain = explained(name, "stop")[0], explained(name)[0]
    np.testing.assert_array_equal(stopped.relevance, plain.relevance)


def test_what_a_mask_leaves_out_gets_nothing() -> None:
    e, _ = explained("linear scores, mask")
    assert np.asarray(e.relevance)[:, :-1].any(axis=2).all()
    assert not np.asarray(e.relevance)[:, -1].any()


class OfIds(nn.Module):
    """Attention over embedded tokens that leaves the padding, id 0, out, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embed = nn.Embedding(7, WIDTH)
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x, padding = self.embed(ids), ids == 0
        mask = torch.where(padding, -torch.inf, 0.0)
        scores = x @ x.mT
        match self.way:
            case "filled":
                mixed = scores.masked_fill(padding[:, None], -torch.inf).softmax(-1) @ x
            case "added":
                mixed = (scores + mask[:, None]).softmax(-1) @ x
            case "added with another":
                mixed = (scores + mask[:, None] + CAUSAL).softmax(-1) @ x
            case "taken off":
                mixed = (scores - torch.where(padding, torch.inf, 0.0)[:, None]).softmax(-1) @ x
            case "logarithm":
                mixed = (scores + torch.log((~padding).float())[:, None]).softmax(-1) @ x
            case "exponentials":
                e = torch.exp(scores) * (~padding)[:, None]
                mixed = (e / e.sum(-1, keepdim=True)) @ x
            case "heads":
                mixed = self.attend(x, x, x, key_padding_mask=padding)[0]
            case _:
                mixed = self.attend(x, x, x, key_padding_mask=padding, attn_mask=CAUSAL < 0)[0]
        return self.out(mixed[:, 1])


WAYS_OF_IDS = (
    "added",
    "added with another",
    "taken off",
    "logarithm",
    "heads",
    "heads with another",
)


def test_masked_exponentials_are_weights_of_a_softmax() -> None:
    """The same as of a mask that is added: queries and keys get relevance."""
    ids = np.random.default_rng(3).integers(0, 7, size=(20, STEPS))
    ids[:, 0] = 1
    options: dict[str, Any] = {"epsilon": EPSILON, "attention": "attnlrp"}
    found = []
    for way in ("filled", "exponentials"):
        torch.manual_seed(2)
        model = OfIds(way).eval()
        explainer = unchecked(pyrel.capture(model, ids[:2]), method="lrp_epsilon", **options)
        found.append(explainer(ids))
    size = np.maximum(1.0, np.asarray(found[0].amplification)) * np.abs(target_score(found[0]))
    error = np.abs(rows(found[0].relevance) - rows(found[1].relevance))
    assert_within(error, RELATIVE * size[:, None], "relevance")


@pytest.mark.parametrize("way", WAYS_OF_IDS)
def test_padding_of_tokens_gets_nothing_and_changes_nothing(way: str) -> None:
    torch.manual_seed(2)
    model = OfIds(way).eval()
    ids = np.random.default_rng(3).integers(1, 7, size=(20, STEPS))
    ids[1::2, -2:] = 0
    options: dict[str, Any] = {"epsilon": EPSILON, "attention": "attnlrp"}
    with torch.no_grad():
        changed = copy.deepcopy(model)
        changed.embed.weight[0] = 5.0
    both = pyrel.capture(Together([model, changed]), ids[:2])
    explainer = unchecked(both, method="lrp_epsilon", **options)
    target = np.asarray(explainer.forward(ids))[:, :CLASSES].argmax(axis=1)
    e, other = explainer(ids, target=target), explainer(ids, target=CLASSES + target)
    score = np.abs(np.asarray(e.output)[:, :CLASSES]).max(axis=1)
    size = np.maximum(1.0, np.asarray(e.amplification)) * score
    relevance = rows(e.relevance)
    assert not relevance[ids == 0].any()
    total = relevance.sum(axis=1) + np.asarray(e.absorbed, np.float64)
    assert_within(np.abs(total - target_score(e))[:, None], RELATIVE * size[:, None], "conserved")
    assert_within(
        np.abs(rows(other.relevance) - relevance), RELATIVE * size[:, None], "other padding"
    )
