# SPDX-License-Identifier: Apache-2.0
"""Write the table of operators and methods in docs/models.md, from what the compiler does.

For each family of operators a small model is captured and lowered with each method; an entry says
what the program then holds. ``--check`` compares only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrel import methods
from pyrel.compiler.capture import operators
from pyrel.compiler.capture.capture import capture
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.lowering.lower import lower
from pyrel.compiler.program.enums import Post
from pyrel.compiler.program.instructions import NormaliseBack, PoolRoute, Slope
from pyrel.compiler.program.program import Program
from pyrel.errors import UnsupportedModelError
from pyrel.methods import LinearNode, LinearRule, Method, rules

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"
REFUSED = "refused"
ONLY = {
    **dict.fromkeys(["clamp", "clamp_max", "clamp_min"], "to numbers"),
    "pow": "one factor constant",
}

STEPS, FEATURES, WIDTH, VOCABULARY = 4, 6, 5, 7


@dataclass
class Seen:
    """What lowering did to a small model with a method."""

    method: Method
    programs: list[Program] = field(default_factory=list)
    linear_rules: set[str] = field(default_factory=set)

    def templates(self, kind: type) -> list[Any]:
        """Templates of a kind in all programs."""
        every = (i.template for p in self.programs for i in p.every_instruction())
        return [template for template in every if isinstance(template, kind)]

    @property
    def posts(self) -> set[Post]:
        """What epilogues do last."""
        every = (i.template for p in self.programs for i in p.every_instruction())
        epilogues = (getattr(template, "epilogue", None) for template in every)
        return {epilogue.post for epilogue in epilogues if epilogue is not None}


class Small(nn.Module):
    """A hidden layer, what is to be shown, and a linear layer."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, WIDTH)
        for name, part in parts.items():
            setattr(self, name, part)
        self.shown, self.out = forward, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.shown(self, x).flatten(1))


@dataclass(frozen=True, eq=False)
class Row:
    """Operators that a method treats alike.

    Attributes
    ----------
    title : str
    family : str
        Of `pyrel.compiler.capture.operators.families`.
    show : callable
        The operators between two linear layers; takes the module and its input.
    says : callable
        The entry, from what was seen.
    parts : mapping
        Makers of modules that ``show`` uses.
    names : tuple of str
        The operators; none for all of the family that other rows do not name.
    tokens : bool
        Whether the input is token ids.
    """

    title: str
    family: str
    show: Callable[[Any, Tensor], Tensor]
    says: Callable[[Seen], str]
    parts: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    tokens: bool = False

    def model(self) -> nn.Module:
        """Make the small model."""
        torch.manual_seed(0)
        model = Small(self.show, **{name: make() for name, make in self.parts.items()}).eval()
        model(torch.as_tensor(self.example()))  # gives the last layer its width
        return model

    def example(self) -> Any:
        """Make two samples."""
        rng = np.random.default_rng(0)
        if self.tokens:
            return rng.integers(0, VOCABULARY, (2, STEPS))
        return rng.uniform(-1, 1, (2, STEPS, FEATURES)).astype(np.float32)

    @property
    def bounds(self) -> dict[str, float]:
        """What an explainer is told of the input."""
        return {} if self.tokens else {"low": -1.0, "high": 1.0}


def _linear(seen: Seen) -> str:
    return ", ".join(sorted(seen.linear_rules))


def _relu(seen: Seen) -> str:
    if Post.guided in seen.posts:
        return "where z > 0 and R > 0"
    if seen.method.relu == methods.AtRelu.rectify:
        return "where R > 0"
    masks = seen.method.relu == methods.AtRelu.mask and Post.mask in seen.posts
    return "where z > 0" if masks else "passes"


def _activation(seen: Seen) -> str:
    return "times f′(z)" if seen.templates(Slope) else "passes"


def _clamp(seen: Seen) -> str:
    return "where it is open" if seen.templates(Slope) else "passes"


def _derivative(seen: Seen) -> str:
    return "in parts" if seen.method.conserves else "derivative"


def _norm(seen: Seen) -> str:
    return "deviation constant" if seen.method.conserves else "derivative"


def _product(seen: Seen) -> str:
    if not seen.method.conserves:
        return "times the other factor"
    return "signal takes all" if seen.method.gates == "signal" else "half each"


def _sum(seen: Seen) -> str:
    return "in proportion" if seen.method.conserves else "passes"


def _multiple(seen: Seen) -> str:
    return "passes" if seen.method.conserves else "times the factor"


def _maximum(seen: Seen) -> str:
    shares = {template.shares for template in seen.templates(PoolRoute)}
    words = {False: "winner", True: "in proportion"}
    return " or ".join(words[each] for each in sorted(shares, reverse=True))


def _layer_norm(seen: Seen) -> str:
    detached = {template.detached for template in seen.templates(NormaliseBack)}
    return "ε, deviation constant" if detached == {True} else "derivative"


def _local_response(seen: Seen) -> str:
    return "derivative" if seen.templates(Slope) else "bypassed"


def _embedding(seen: Seen) -> str:
    return "summed over its dimensions"


def _recurrent(seen: Seen) -> str:
    return "step by step"


def _moves(seen: Seen) -> str:
    return "follows the element"


def _stopped(seen: Seen) -> str:
    return "stops" if seen.method.detach == "stop" else "passes"


def _batch_norm(seen: Seen) -> str:
    return "part of the linear node" if seen.method.conserves else "times the factor"


def _hidden(m: Any, x: Tensor) -> Tensor:
    return m.first(x)


def _units(m: Any, x: Tensor) -> Tensor:
    return torch.relu(m.first(x))


def _channels(h: Tensor) -> Tensor:
    return h.transpose(1, 2)


def _branches(*functions: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Apply each function to pre-activations, side by side."""
    return lambda m, x: torch.cat([function(_hidden(m, x)) for function in functions], 2)


def _every_layer(m: Any, x: Tensor) -> Tensor:
    layers = (m.lstm, m.gru, m.tanh_rnn, m.relu_rnn)
    return torch.cat([layer(x)[0] for layer in layers], 2)


def _recurrent_parts() -> dict[str, Callable[[], nn.Module]]:
    def maker(kind: type[nn.Module], **options: Any) -> Callable[[], nn.Module]:
        return lambda: kind(FEATURES, WIDTH, batch_first=True, **options)

    return {
        "lstm": maker(nn.LSTM),
        "gru": maker(nn.GRU),
        "tanh_rnn": maker(nn.RNN),
        "relu_rnn": maker(nn.RNN, nonlinearity="relu"),
    }


ROWS = (
    Row("linear layers", "linear", lambda m, x: torch.relu(m.second(x)), _linear),
    Row(
        "convolutions",
        "convolution",
        lambda m, x: torch.relu(m.conv(_channels(x))),
        _linear,
        {"conv": lambda: nn.Conv1d(FEATURES, WIDTH, 3, padding=1)},
    ),
    Row(
        "recurrent layers and cells",
        "recurrent layer",
        _every_layer,
        _recurrent,
        _recurrent_parts(),
    ),
    Row(
        "embeddings",
        "embedding",
        lambda m, x: torch.relu(m.first(m.table(x))),
        _embedding,
        {"table": lambda: nn.Embedding(VOCABULARY, FEATURES)},
        tokens=True,
    ),
    Row("ReLU", "ReLU", _units, _relu),
    Row(
        "clamps, hard sigmoid and tanh",
        "clamp",
        lambda m, x: functional.relu6(_hidden(m, x)).clamp(0.1, 2.0),
        _clamp,
    ),
    Row(
        "sigmoid, tanh, softplus",
        "activation",
        _branches(torch.sigmoid, torch.tanh, functional.softplus),
        _activation,
        names=("sigmoid", "softplus", "tanh"),
    ),
    *(
        Row(
            f"{name.replace('_', ' ')}",
            "activation",
            _branches(getattr(functional, name)),
            _activation,
            names=(name,),
        )
        for name in ("celu", "elu", "gelu", "leaky_relu", "selu", "silu")
    ),
    Row(
        "log sigmoid",
        "activation",
        _branches(functional.logsigmoid),
        _activation,
        {},
        ("log_sigmoid",),
    ),
    Row(
        "prelu",
        "activation",
        lambda m, x: m.prelu(_hidden(m, x)),
        _activation,
        {"prelu": nn.PReLU},
        ("prelu",),
    ),
    Row(
        "exponentials, logarithms, powers and roots, sine, erf, magnitudes",
        "function",
        lambda m, x: torch.cat(
            [f(1 + _units(m, x)) for f in (torch.exp, torch.log, torch.sqrt)], 2
        ),
        _activation,
    ),
    Row("variances and norms", "deviation", lambda m, x: _units(m, x).std(2), _derivative),
    Row("sums and means of units", "sum", lambda m, x: _units(m, x).sum(1), _sum),
    Row(
        "a gate times a signal",
        "product",
        lambda m, x: torch.sigmoid(m.second(x)) * _units(m, x),
        _product,
        names=("addcdiv", "addcmul", "glu", "hardswish", "lerp", "mul", "multiply", "outer"),
    ),
    Row(
        "other products",
        "product",
        lambda m, x: torch.relu(m.second(x)) * _units(m, x),
        _product,
        names=("cumprod", "mish", "prod", "tan"),
    ),
    Row(
        "attention",
        "softmax",
        lambda m, x: _hidden(m, x).softmax(1) * _units(m, x),
        _product,
        names=("scaled_dot_product_attention",),
    ),
    Row(
        "softmax but for attention, cosine similarity",
        "softmax",
        lambda m, x: _hidden(m, x).softmax(2),
        _derivative,
    ),
    Row("multiples", "multiple", lambda m, x: _units(m, x) / 3, _multiple),
    Row(
        "maxima of units ≥ 0",
        "maximum",
        lambda m, x: functional.max_pool1d(_channels(_units(m, x)), 2),
        _maximum,
    ),
    Row(
        "maxima of other values",
        "maximum",
        lambda m, x: functional.max_pool1d(_channels(torch.tanh(_hidden(m, x))), 2),
        _maximum,
    ),
    Row(
        "comparisons of values, and what they choose",
        "comparison",
        lambda m, x: torch.where(_hidden(m, x) > 0, _hidden(m, x), _units(m, x)),
        _derivative,
    ),
    Row("minima", "minimum", lambda m, x: torch.tanh(_hidden(m, x)).amin(2), _maximum),
    Row(
        "average pooling",
        "average",
        lambda m, x: functional.avg_pool1d(_channels(_units(m, x)), 2),
        _sum,
    ),
    Row(
        "Fourier transforms of a fixed size",
        "Fourier transform",
        lambda m, x: torch.view_as_real(torch.fft.rfft(_units(m, x))),
        _linear,
    ),
    Row(
        "parts and magnitudes of complex values",
        "complex value",
        lambda m, x: torch.fft.rfft(_units(m, x)).abs(),
        _derivative,
    ),
    Row(
        "sorted values, the largest few",
        "sorted value",
        lambda m, x: _units(m, x).topk(2, dim=1).values,
        lambda seen: "winner",
    ),
    Row(
        "linear interpolation",
        "interpolation",
        lambda m, x: functional.interpolate(_channels(_units(m, x)), size=7, mode="linear"),
        _linear,
    ),
    Row(
        "batch norm, after a linear node",
        "batch norm",
        lambda m, x: torch.relu(m.norm(_channels(_hidden(m, x)))),
        _batch_norm,
        {"norm": lambda: nn.BatchNorm1d(WIDTH)},
    ),
    Row(
        "layer norm",
        "layer norm",
        lambda m, x: m.norm(_units(m, x)),
        _layer_norm,
        {"norm": lambda: nn.LayerNorm(WIDTH)},
    ),
    Row(
        "root mean square norm",
        "root mean square norm",
        lambda m, x: functional.rms_norm(_units(m, x), (WIDTH,)),
        _norm,
    ),
    Row(
        "local response norm",
        "local response norm",
        lambda m, x: functional.local_response_norm(_channels(_units(m, x)), 3),
        _local_response,
    ),
    Row("what moves elements", "move", lambda m, x: _units(m, x).flip(1)[:, 1:], _moves),
    Row(
        "nothing, while explaining",
        "nothing",
        lambda m, x: functional.dropout(_units(m, x), 0.5, False),
        _moves,
    ),
    Row(
        "detach, and operators under no_grad",
        "stopped gradient",
        lambda m, x: _units(m, x).detach(),
        _stopped,
    ),
)


# The presets differ from lrp_epsilon in convolutions only; patterns are gradients otherwise, and
# those that run changed copies run the program of another.
_TABLED = tuple(
    name
    for name in methods.names()
    if not name.startswith(("epsilon_", "pattern_"))
    and not isinstance(methods.get(name), methods.Perturbation)
)
_RULES: dict[type[LinearRule], str] = {
    rules.PlainGradient: "derivative",
    rules.WSquared: "w²",
    rules.Epsilon: "ε",
    rules.AlphaBeta: "αβ",
    rules.ZPlus: "z⁺",
    rules.Gamma: "γ",
}


@contextmanager
def _watched(seen: Seen) -> Iterator[None]:
    """Note the rules that a method chooses for linear nodes."""

    def noting(rule: type[LinearRule]) -> Callable[..., Any]:
        function = rule.propagation

        def chosen(self: LinearRule, node: LinearNode) -> Any:
            if type(self) is rule and rule is not rules.ZBeta:
                seen.linear_rules.add(_RULES[rule])
            elif rule is rules.ZBeta:
                domain = node.domain
                nonneg = (domain.nonneg | domain.zero | domain.constant).all(axis=0)
                seen.linear_rules |= {"z⁺"} if nonneg.any() else set()
                seen.linear_rules |= {"z^β"} if not nonneg.all() else set()
            return function(self, node)

        return chosen

    with ExitStack() as stack:
        for rule in (*_RULES, rules.ZBeta):
            stack.enter_context(mock.patch.object(rule, "propagation", noting(rule)))
        yield


def entry(row: Row, graph: Graph, name: str) -> str:
    """Say what a method does with a row's operators."""
    seen = Seen(methods.get(name))
    low, high = np.full(graph.input_size, -1.0), np.full(graph.input_size, 1.0)
    try:
        with _watched(seen):
            seen.programs.append(lower(graph, seen.method, low, high))
    except UnsupportedModelError:
        return REFUSED
    if row.says is _linear and not seen.method.needs_bounds:
        with _watched(seen):  # with inputs of which nothing is known
            seen.programs.append(
                lower(graph, seen.method, np.full_like(low, -np.inf), np.full_like(low, np.inf))
            )
    return row.says(seen)


def operators_of(row: Row) -> tuple[str, ...]:
    """Names of a row's operators."""
    if row.names:
        return row.names
    others = {name for other in ROWS for name in other.names if other.family == row.family}
    return tuple(name for name in operators.families()[row.family] if name not in others)


def entries() -> dict[str, dict[str, str]]:
    """Make all entries, by title and method."""
    graphs = {row.title: capture(row.model(), row.example()) for row in ROWS}
    return {
        row.title: {name: entry(row, graphs[row.title], name) for name in _TABLED} for row in ROWS
    }


def table() -> str:
    """Make the table; methods with the same entries share a column."""
    all_entries = entries()
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in _TABLED:
        columns.setdefault(tuple(each[name] for each in all_entries.values()), []).append(name)
    heads = [", ".join(f"`{name}`" for name in names) for names in columns.values()]
    lines = [
        f"| operators | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
        *(
            f"| {title} | {' | '.join(column[number] for column in columns)} |"
            for number, title in enumerate(all_entries)
        ),
        "",
        "The operators of each row, by their names in ATen:",
        "",
        *(f"- {row.title}: {_listed(row)}" for row in ROWS),
        f"- constants, of the input's shape at most: {_names(operators.families()['constant'])}",
    ]
    return "\n".join(lines)


def _listed(row: Row) -> str:
    first = next(each for each in ROWS if operators_of(each) == operators_of(row))
    names = _names(operators_of(row))
    for name, only in ONLY.items():
        names = names.replace(f"`{name}`", f"`{name}` ({only})")
    return names if first is row else f"as “{first.title}”"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def written(page: str) -> str:
    """Return the page with the table as it should be."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    check = parser.parse_args().check
    page = PAGE.read_text()
    new = written(page)
    if check:
        if new != page:
            print(f"{PAGE.name}: the table is not what the compiler does; write it anew")
        return int(new != page)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
