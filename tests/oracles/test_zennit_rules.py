# SPDX-License-Identifier: Apache-2.0
"""Zennit's rules and composites on nets with convolutions and pools against ours.

zennit has the textbook's αβ rule, its ZBox cancels the bias and its WSquare adds b². Its canonizer
leaves out a batch norm's ε, so torch merges batch norms before zennit sees them.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.checks import assert_relevance, norms
from engine.layer_graphs import layer_graph
from reference import Reference, explain
from reference_graph import Array
from reference_rules import ReferenceRule
from torch import nn
from torch.nn.utils import fusion

import pyrel
from pyrel.benchmark.peers.packages import import_zennit
from pyrel.methods import AlphaBeta, Assign, Composite, Flat, Gamma, WSquared, ZBeta, ZPlus

FLOAT64 = 1e-10  # both sides are float64 and add the same terms in another order
NONE = 1e-30  # for a stabiliser that we have not
LOW, HIGH = -0.5, 1.5
BELOW_RELU = "maximum below ReLU"
CONVOLUTIONS = (0, 3)  # of the net's layers


@pytest.fixture(scope="module")
def zennit() -> Any:
    if importlib.util.find_spec("zennit") is None:
        pytest.skip("zennit is not installed")
    found = import_zennit()
    importlib.import_module("zennit.composites")
    return found


def net(pool: str, *, norm: bool = False) -> nn.Sequential:
    """Return two convolutions with padding and pools below two dense layers."""
    torch.manual_seed(3)
    kind = nn.AvgPool2d if pool == "average" else nn.MaxPool2d
    first, second = ([nn.ReLU(), kind(2)][:: -1 if pool == BELOW_RELU else 1] for _ in range(2))
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), *([nn.BatchNorm2d(5)] if norm else []), *first,
        nn.Conv2d(5, 4, 2), *second,
        nn.Flatten(), nn.Linear(4 * 2, 17), nn.ReLU(), nn.Linear(17, 3),
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.02, (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.normal_(1.0 if norm and name == "1.weight" else 0.0, 0.2)
        if norm:
            model[1].running_mean.normal_(0.0, 0.3)
            model[1].running_var.uniform_(0.5, 2.0)
    return model.eval()


def inputs() -> Array:
    rng = np.random.default_rng(5)
    return rng.uniform(LOW, HIGH, (30, 2, 11, 6)).astype(np.float32).astype(np.float64)


def theirs(model: nn.Sequential, composite: Any, x: Array, target: Array) -> Array:
    """Return zennit's relevance of the target's output."""
    with composite.context(model) as modified:
        tensor = torch.from_numpy(x).requires_grad_()
        output = modified(tensor)
        seed = output.detach() * torch.from_numpy(np.eye(output.shape[1])[target])
        output.backward(seed)
    assert tensor.grad is not None
    relevance: Array = tensor.grad.numpy()
    return relevance


def by_layer(zennit: Any, rules: Any) -> Any:
    """Return a composite of the rule of each convolution and dense layer, in order."""
    given = iter(rules)

    def choose(ctx: Any, name: str, module: nn.Module) -> Any:
        if isinstance(module, nn.Conv2d | nn.Linear):
            return next(given)
        if isinstance(module, nn.ReLU | nn.Sigmoid):
            return zennit.rules.Pass()
        return zennit.rules.Norm(stabilizer=NONE) if isinstance(module, nn.AvgPool2d) else None

    return zennit.core.Composite(module_map=choose)


def assert_all_agree(
    model: nn.Sequential,
    composite: Any,
    rules: ReferenceRule | list[ReferenceRule],
    method: Any,
    **domain: float,
) -> Reference:
    """Compare zennit with the reference and the engine; `rules` are those of the linear nodes."""
    x = inputs()
    bounds = (domain.get("low", -np.inf), domain.get("high", np.inf))
    exact = copy.deepcopy(model).double()
    graph = layer_graph(exact, ref.input_node(x.shape[1:], *bounds))
    linear = [node.serial for node in ref.reachable(graph) if isinstance(node, ref.Affine)]
    several = rules if isinstance(rules, list) else [rules] * len(linear)
    of_node = dict(zip(linear, several, strict=True))
    ours = explain(graph, x, "lrp_epsilon", rule=lambda node: of_node[node.serial])
    if isinstance(model[1], nn.BatchNorm2d):
        merged = fusion.fuse_conv_bn_eval(exact[0], exact[1])
        exact = nn.Sequential(merged, *list(exact)[2:])
    relevance = theirs(exact, composite, x, ours.target)
    assert (norms(ours.relevance - relevance) <= FLOAT64 * np.maximum(ours.peak, 1e-30)).all()
    single = x.astype(np.float32)
    e = pyrel.Explainer(model, single, method=method, check=None, **domain)(single, ours.target)
    ours.relevance = relevance
    assert assert_relevance(e, ours, "lrp_epsilon") <= 1
    return ours


every_pool = pytest.mark.parametrize("pool", ["average", "maximum"])
# Where relevance may arrive at zeros, zennit's pool of ReLUs takes the first zero of a window; ours
# chooses before the ReLU, so that there is one map whichever stands first.
every_pool_alike = pytest.mark.parametrize("pool", ["average", BELOW_RELU])

EPSILON = ReferenceRule("epsilon")
PLUS = ReferenceRule("alpha_beta", alpha=1.0, beta=0.0)
TEXTBOOK = ReferenceRule("alpha_beta", textbook=True)


@every_pool
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize(
    ("name", "first", "other", "options"),
    [
        ("EpsilonPlus", PLUS, PLUS, {}),
        ("EpsilonAlpha2Beta1", TEXTBOOK, TEXTBOOK, {"textbook": True}),
    ],
)
def test_composites(
    zennit: Any,
    pool: str,
    norm: bool,
    name: str,
    first: ReferenceRule,
    other: ReferenceRule,
    options: dict[str, Any],
) -> None:
    composite = getattr(zennit.composites, name)(stabilizer=NONE)
    method = getattr(pyrel.methods, name)(**options)
    rules = [first, other, EPSILON, EPSILON]
    assert_all_agree(net(pool, norm=norm), composite, rules, method)


@every_pool
def test_box_and_gamma(zennit: Any, pool: str) -> None:
    """At a first convolution without bias, which zennit's ZBox would cancel.

    zennit stabilises all rules alike, we neither z^β nor pools: so ε is too small to matter.
    """
    tiny = 1e-13
    composite = zennit.composites.EpsilonGammaBox(
        LOW, HIGH, epsilon=tiny, gamma=0.5, stabilizer=NONE
    )
    epsilon = ReferenceRule("epsilon", epsilon=tiny)
    gamma = ReferenceRule("gamma", gamma=0.5, epsilon=tiny)
    rules = [ReferenceRule("z_beta"), gamma, epsilon, epsilon]
    method = pyrel.methods.EpsilonGammaBox(gamma=0.5, epsilon=tiny)
    model = net(pool)
    with torch.no_grad():
        model[0].bias.zero_()
    assert_all_agree(model, composite, rules, method, low=LOW, high=HIGH)


@every_pool
@pytest.mark.parametrize("name", ["alpha3", "plus", "gamma"])
def test_one_rule_at_all_layers(zennit: Any, pool: str, name: str) -> None:
    z = zennit.rules
    make, rule, ours = {
        "alpha3": (
            lambda: z.AlphaBeta(alpha=3.0, beta=2.0, stabilizer=NONE),
            ReferenceRule("alpha_beta", alpha=3.0, beta=2.0, textbook=True),
            AlphaBeta(3.0, 2.0, textbook=True),
        ),
        "plus": (lambda: z.ZPlus(stabilizer=NONE), PLUS, ZPlus()),
        "gamma": (lambda: z.Gamma(stabilizer=1e-6), ReferenceRule("gamma"), Gamma()),
    }[name]
    method = Composite([Assign(ours)])
    assert_all_agree(net(pool), by_layer(zennit, [make() for _ in range(4)]), rule, method)


@every_pool_alike
def test_flat_rule(zennit: Any, pool: str) -> None:
    chain = [zennit.rules.Flat(stabilizer=NONE) for _ in range(4)]
    method = Composite([Assign(Flat())])
    assert_all_agree(net(pool), by_layer(zennit, chain), ReferenceRule("flat"), method)


@every_pool_alike
def test_square_rule_below_others(zennit: Any, pool: str) -> None:
    z = zennit.rules
    chain = [z.WSquare(stabilizer=NONE), z.WSquare(stabilizer=NONE), z.Flat(stabilizer=NONE)]
    rules = [ReferenceRule("w_squared"), ReferenceRule("w_squared"), ReferenceRule("flat"), EPSILON]
    model = net(pool)
    with torch.no_grad():
        for number in CONVOLUTIONS:
            model[number].bias.zero_()
    composite = by_layer(zennit, [*chain, z.Epsilon(epsilon=1e-6)])
    method = Composite(
        [Assign(WSquared(), kind="convolution"), Assign(Flat(), from_output=1)], epsilon=1e-6
    )
    assert_all_agree(model, composite, rules, method)


def test_box_rule_on_inner_values(zennit: Any) -> None:
    """Of sigmoid units, whose range is known."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(9, 17), nn.Sigmoid(), nn.Linear(17, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)
    ).eval()
    x = np.random.default_rng(2).normal(size=(20, 9)).astype(np.float32)
    method = Composite([Assign(ZBeta(), from_input=1), Assign(AlphaBeta(textbook=True))])
    e = pyrel.Explainer(model, x, method=method, check=None)(x)
    z = zennit.rules
    rules = [
        z.AlphaBeta(stabilizer=NONE), z.ZBox(0.0, 1.0, stabilizer=NONE),
        z.AlphaBeta(stabilizer=NONE),
    ]  # fmt: skip

    exact = copy.deepcopy(model).double()
    relevance = theirs(exact, by_layer(zennit, rules), x.astype(np.float64), e.target)
    start = np.abs(e.output[np.arange(len(x)), e.target])
    assert (norms(e.relevance - relevance) <= 1e-5 * np.maximum(e.amplification * start, 0)).all()
