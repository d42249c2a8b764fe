# SPDX-License-Identifier: Apache-2.0
"""The passes that a graph goes through before it is lowered, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.compiler.passes.carries import mark_carries
from pyrel.compiler.passes.chain_pools import chain_pools, pool_before_relu
from pyrel.compiler.passes.contiguous import lay_out
from pyrel.compiler.passes.even_maxima import write_out_even_maxima
from pyrel.compiler.passes.fold import fold, split_mixed_rows
from pyrel.compiler.passes.gated_sums import gather_gated_sums
from pyrel.compiler.passes.gradient_stops import prepared
from pyrel.compiler.passes.log_softmaxes import divide_by_sums
from pyrel.compiler.passes.lone_sums import keep_stabilised
from pyrel.compiler.passes.matrix_products import gathered, turned, written_out
from pyrel.compiler.passes.softmaxes import gather_softmaxes
from pyrel.compiler.passes.whole_layers import tell_whole_layers
from pyrel.methods import Method


@dataclass(frozen=True)
class Pass:
    """One rewrite: what it does to a graph, and for which methods.

    ``applies`` is given the method, and whether it has rules for single products of two values.
    """

    name: str
    run: Callable[[Facts, Method], Graph]
    applies: Callable[[Method, bool], bool] = lambda method, single: True


PASSES = (
    Pass(
        "write out matrix products",
        lambda facts, _: written_out(facts.graph),
        lambda _, single: single,
    ),
    Pass(
        "divide by sums of exponentials",
        lambda facts, _: divide_by_sums(facts.graph),
        lambda m, _: m.conserves and m.attention == "attnlrp",
    ),
    Pass(
        "gather softmaxes",
        lambda facts, method: gather_softmaxes(facts.graph, method),
        lambda m, _: m.conserves and m.attention == "attnlrp",
    ),
    Pass("resolve gradient marks", lambda facts, method: prepared(facts.graph, method)),
    Pass(
        "gather matrix products",
        lambda facts, _: gathered(facts.graph),
        lambda _, single: not single,
    ),
    Pass(
        "turn matrix products",
        lambda facts, _: turned(facts.graph),
        lambda _, single: not single,
    ),
    Pass("keep stabilised sums", keep_stabilised),
    Pass(
        "tell whole layers",
        lambda facts, _: tell_whole_layers(facts.graph),
        lambda m, _: m.whole_layers,
    ),
    Pass("fold", lambda facts, _: fold(facts), lambda m, _: m.folds),
    Pass(
        "write out even maxima",
        lambda facts, _: write_out_even_maxima(facts.graph),
        lambda m, _: not m.conserves,
    ),
    Pass(
        "mark carried states",
        lambda facts, _: mark_carries(facts),
        lambda m, _: m.conserves and m.gates == "half",
    ),
    Pass("gather gated sums", lambda facts, _: gather_gated_sums(facts), lambda m, _: m.conserves),
    Pass("split mixed rows", lambda facts, _: split_mixed_rows(facts), lambda m, _: m.conserves),
    Pass(
        "pool before ReLU",
        lambda facts, _: pool_before_relu(facts),
        lambda m, _: m.conserves and m.pooling == "winner",
    ),
    Pass("chain pools", lambda facts, method: chain_pools(facts, method.pooling != "winner")),
    Pass("contiguous operands", lambda facts, method: lay_out(facts, method.conserves)),
)


def run_passes(
    graph: Graph,
    method: Method,
    low: Floats,
    high: Floats,
    check: Callable[[Graph], None] | None = None,
    *,
    single: bool = False,
) -> Facts:
    """Rewrite a graph for a method; return the facts of what it became.

    ``single`` says that the method has rules for single products of two values, of which matrix
    products are then made; those that conserve relevance have.
    ``check`` is called with every graph on the way, as tests do with
    `pyrel.compiler.graph.verify.verify`.
    """
    facts = Facts(graph, low, high)
    for each in PASSES:
        if each.applies(method, single or method.conserves):
            facts = facts.of(each.run(facts, method))
            if check is not None:
                check(facts.graph)
    return facts
