# SPDX-License-Identifier: Apache-2.0
"""Graphs of whole models, through torch.export, compute what torch does, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.checks import captured_but_for_one_step
from graph_values import graph_outputs
from torch import Tensor, nn
from torch.nn.utils import rnn

import pyrel
from pyrel.compiler.capture.capture import capture_at
from pyrel.compiler.capture.export import export
from pyrel.compiler.graph.nodes import Graph, Linear, Node
from pyrel.compiler.graph.rewrites import same_graph

# Sums of a few hundred terms of order 1 in a row of a dozen layers: each rounds by 2.3e-16.
ALLOWED = 1e-12

STEPS, FEATURES, UNITS = 5, 6, 4


def inputs(*shape: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(3).normal(size=shape)


class Lambda(nn.Module):
    """A model from a function of its parts and the input."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class WithLengths(Lambda):
    """The same of the input and the lengths of its sequences."""

    def forward(self, x: Tensor, lengths: Tensor) -> Any:  # type: ignore[override]
        return self.function(self, x, lengths)


def wanted(model: nn.Module, x: npt.NDArray[Any], lengths: bool = False) -> Any:
    given = (torch.full(x.shape[:1], x.shape[1]),) if lengths else ()
    with torch.no_grad():
        return model(torch.from_numpy(x), *given).reshape(len(x), -1).numpy()


def check(model: nn.Module, x: npt.NDArray[Any], *, lengths: bool = False) -> Graph:
    torch.manual_seed(0)
    model = model.double().eval()
    graph = pyrel.capture(model, x, lengths=lengths)
    check_graph(graph, model, x, lengths)
    return graph


def check_graph(graph: Graph, model: nn.Module, x: npt.NDArray[Any], lengths: bool) -> None:
    outputs = wanted(model, x, lengths and isinstance(model, WithLengths))
    np.testing.assert_allclose(graph_outputs(graph, x), outputs, rtol=ALLOWED, atol=ALLOWED)


LAYERS = {
    "lstm": lambda **options: nn.LSTM(FEATURES, UNITS, **options),
    "gru": lambda **options: nn.GRU(FEATURES, UNITS, **options),
    "rnn": lambda **options: nn.RNN(FEATURES, UNITS, **options),
    "rnn-relu": lambda **options: nn.RNN(FEATURES, UNITS, nonlinearity="relu", **options),
    "lstm-projected": lambda **options: nn.LSTM(FEATURES, UNITS, proj_size=3, **options),
}


def all_of(output: tuple[Tensor, Any], batch_first: bool = True) -> Tensor:
    """Everything that a recurrent layer returns, as (n, ...)."""
    out, state = output
    states = state if isinstance(state, tuple) else (state,)
    out = out if batch_first else out.transpose(0, 1)
    return torch.cat([out.flatten(1), *(s.transpose(0, 1).flatten(1) for s in states)], 1)


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_layers(kind: str) -> None:
    """One layer, or three in two directions without biases; all outputs and the final states."""
    make = LAYERS[kind]
    one = make(batch_first=True)
    several = make(num_layers=3, bidirectional=True, bias=False, dropout=0.5)

    def forward(m: Any, x: Tensor) -> Tensor:
        by_step = m.several(x.transpose(0, 1))
        return torch.cat([all_of(m.one(x)), all_of(by_step, batch_first=False)], 1)

    check(Lambda(forward, one=one, several=several), inputs(3, STEPS, FEATURES))


@pytest.mark.parametrize("kind", LAYERS)
def test_initial_states(kind: str) -> None:
    """Parameters, and what is computed of the input."""
    layer = LAYERS[kind](batch_first=True)
    units = getattr(layer, "proj_size", 0) or UNITS
    first, cell = nn.Linear(FEATURES, units), nn.Parameter(torch.randn(1, 1, UNITS))

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x[:, 0])[None]
        c = m.cell.expand(1, x.shape[0], UNITS).contiguous()
        return all_of(m.layer(x, (h, c) if isinstance(m.layer, nn.LSTM) else h))

    check(Lambda(forward, layer=layer, first=first, cell=cell), inputs(3, STEPS, FEATURES))


def cell_loop(m: Any, x: Tensor) -> Tensor:
    state = None
    for t in range(x.shape[1]):
        state = m.cell(x[:, t], state)
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize(
    ("cell", "layer"),
    [
        (nn.LSTMCell, nn.LSTM),
        (nn.GRUCell, nn.GRU),
        (nn.RNNCell, nn.RNN),
    ],
)
def test_a_loop_of_cells_is_the_layer(cell: Any, layer: Any) -> None:
    """Node by node, so that explanations are the same too."""
    x = inputs(3, STEPS, FEATURES)
    looped = Lambda(cell_loop, cell=cell(FEATURES, UNITS))
    graph = check(looped, x)
    whole = layer(FEATURES, UNITS, batch_first=True).double()
    for name, value in looped.cell.state_dict().items():
        whole.state_dict()[f"{name}_l0"].copy_(value)
    other = check(Lambda(lambda m, x: m.layer(x)[0][:, -1], layer=whole), x)
    assert same_graph(unnamed(graph), unnamed(other))


def unnamed(graph: Graph) -> Graph:
    return replace(graph, nodes=tuple(map(without_names, graph.nodes)))


def without_names(node: Node) -> Node:
    """Return a node of no module, which nothing named was merged into."""
    node = replace(node, module="")
    return replace(node, merged=()) if isinstance(node, Linear) else node


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_programs_that_were_exported_without_markers() -> None:
    """They hold ATen's operators, which have the same form."""
    x = inputs(2, 3, FEATURES)

    def forward(m: Any, x: Tensor) -> Tensor:
        parts = [all_of(layer(x)) for layer in m.layers]
        return torch.cat([*parts, *(cell_loop(Lambda(cell_loop, cell=c), x) for c in m.cells)], 1)

    layers = nn.ModuleList([make(batch_first=True) for make in LAYERS.values()])
    cells = nn.ModuleList([c(FEATURES, UNITS) for c in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)])
    model = Lambda(forward, layers=layers, cells=cells).double().eval()
    example = (torch.from_numpy(x),)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(model, example, dynamic_shapes=batch)
    names = {str(node.target) for node in program.graph.nodes}
    assert {"aten.lstm.input", "aten.gru.input", "aten.lstm_cell.default"} <= names
    graph = pyrel.capture(program)
    np.testing.assert_allclose(graph_outputs(graph, x), wanted(model, x), atol=ALLOWED)


def test_steps_first_is_refused() -> None:
    """The recurrence would run over the samples."""
    model = Lambda(lambda m, x: m.memory(x)[0][:, -1], memory=nn.GRU(FEATURES, UNITS))
    with pytest.raises(pyrel.UnsupportedModelError, match="batch_first=True") as raised:
        pyrel.capture(model, inputs(2, STEPS, FEATURES))
    assert raised.value.module == "memory"


def packing(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    packed = rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    out, state = m.layer(packed)
    padded, sizes = rnn.pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
    mean = padded.sum(1) / sizes[:, None]
    return torch.cat([all_of((padded, state)), mean], 1)


def packing_by_steps(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    packed = rnn.pack_padded_sequence(x.transpose(0, 1), lengths.cpu())
    again = rnn.PackedSequence(torch.relu(packed.data), packed.batch_sizes)
    out, state = m.layer(again)
    return all_of((rnn.pad_packed_sequence(out)[0], state), batch_first=False)


def last_valid(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    out, _ = m.layer(x)
    mask = torch.arange(x.shape[1])[None] < lengths[:, None]
    mean = (out * mask[:, :, None]).sum(1) / lengths[:, None]
    place = (lengths - 1)[:, None, None].expand(-1, 1, out.shape[2])
    most = out.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    return torch.cat(
        [out[torch.arange(x.shape[0]), lengths - 1], out.gather(1, place)[:, 0], mean, most], 1
    )


@pytest.mark.parametrize(
    ("forward", "options"),
    [
        (packing, {"batch_first": True, "bidirectional": True, "num_layers": 2}),
        (packing_by_steps, {}),
        (last_valid, {"batch_first": True}),
    ],
)
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_models_that_take_lengths(
    forward: Callable[..., Any], options: dict[str, Any], layer: Any
) -> None:
    """All sequences are as long as the input: then packing changes nothing."""
    model = WithLengths(forward, layer=layer(FEATURES, UNITS, **options)).double().eval()
    x = inputs(3, STEPS, FEATURES)
    captured = captured_but_for_one_step(model, x, lengths=True)
    assert captured.dynamic
    check_graph(captured.graph(), model, x, lengths=True)
    longer = inputs(2, 2 * STEPS, FEATURES)
    graph = captured.graph(2 * STEPS)
    expected = wanted(model, longer, lengths=True)
    np.testing.assert_allclose(graph_outputs(graph, longer), expected, rtol=ALLOWED, atol=ALLOWED)


def test_what_is_swapped_for_the_export_is_put_back() -> None:
    layer = nn.LSTM(FEATURES, UNITS, batch_first=True)
    model = WithLengths(packing, layer=layer).eval()
    before = rnn.invert_permutation, nn.LSTM.forward, dict(layer.__dict__)
    pyrel.capture(model, inputs(2, STEPS, FEATURES).astype(np.float32), lengths=True)
    assert (rnn.invert_permutation, nn.LSTM.forward, dict(layer.__dict__)) == before
    x, lengths = torch.randn(2, STEPS, FEATURES), torch.tensor([STEPS, 2])
    assert model(x, lengths)[1, 2 * UNITS : STEPS * UNITS].abs().sum() == 0  # padded again


def test_lengths_for_a_model_of_one_input() -> None:
    model = Lambda(lambda m, x: m.layer(x)[0][:, -1], layer=LAYERS["gru"](batch_first=True))
    check(model, inputs(2, STEPS, FEATURES), lengths=True)


def test_lengths_as_numbers() -> None:
    def forward(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        last = torch.stack([x[i, n - 1] for i, n in enumerate(lengths.tolist())])
        return m.out(last + x[:, : lengths.max()].sum(1))

    check(
        WithLengths(forward, out=nn.Linear(FEATURES, 2)), inputs(2, STEPS, FEATURES), lengths=True
    )


def test_branches_on_lengths_are_refused() -> None:
    model = WithLengths(
        lambda m, x, lengths: m.out(x[:, 0] if lengths.min() < 3 else x[:, 1]), out=nn.Linear(6, 2)
    )
    with pytest.raises(pyrel.UnsupportedModelError, match="depend on the lengths"):
        pyrel.capture(model, inputs(2, STEPS, FEATURES).astype(np.float32), lengths=True)


def test_a_second_input_asks_for_lengths() -> None:
    model = WithLengths(last_valid, layer=LAYERS["lstm"](batch_first=True))
    with pytest.raises(pyrel.UnsupportedModelError, match="lengths=True"):
        pyrel.capture(model, inputs(2, STEPS, FEATURES).astype(np.float32))


# Other parts


class Residual(nn.Module):
    """A block of convolutions with batch normalisation, and a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.second = nn.Conv2d(4, 4, 3, padding="same", groups=2, padding_mode="circular")
        self.shortcut = nn.Conv2d(3, 4, 1, stride=2, bias=False)
        for norm in self.norms:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.weight)
        self.out = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.elu(self.norms[0](self.first(x)))
        h = self.norms[1](self.second(h)) + self.shortcut(x)
        return self.out(nn.functional.max_pool2d(nn.functional.relu(h, inplace=True), 3, 2, 1))


def test_a_residual_block() -> None:
    check(Residual(), inputs(2, 3, 9, 11))


def test_activations_in_place() -> None:
    parts = [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Dropout]
    layers = [layer for part in parts for layer in (nn.Linear(4, 4), part(inplace=True))]
    check(nn.Sequential(*layers), inputs(3, 4))


def test_a_front_end_that_is_shared_by_the_steps() -> None:
    """A convolution over (n · steps, ...), and its maps in their order for the recurrence."""
    front = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))

    def forward(m: Any, x: Tensor) -> Tensor:
        maps = m.front(x.flatten(0, 1).unsqueeze(1))
        return m.memory(maps.flatten(1).unflatten(0, x.shape[:2]))[0].amax(1)

    memory = nn.LSTM(3 * 3 * 2, UNITS, batch_first=True)
    model = Lambda(forward, front=front, memory=memory)
    graph = check(model, inputs(3, STEPS, 7, 6))
    rows = [len(node.inputs) for node in graph.nodes if isinstance(node, Linear)]
    assert rows.count(5 * 4) == STEPS  # the positions of the kernel, at every step
    shared = [node.weight for node in graph.nodes if isinstance(node, Linear)][:STEPS]
    assert all(weight is shared[0] for weight in shared)


class Words(nn.Module):
    """An embedding, a convolution over words, layer normalisation, and a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.memory = nn.GRU(8, 4, batch_first=True, bidirectional=True)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        ids = torch.cat([torch.full_like(ids[:, :1], 7), ids.flip(1)], 1)  # a word that starts all
        h = nn.functional.gelu(self.conv(self.table(ids).transpose(1, 2))).transpose(1, 2)
        return self.out(self.memory(self.norm(h))[0].mean(1))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_token_ids(dtype: Any) -> None:
    ids = np.random.default_rng(1).integers(0, 11, (3, STEPS)).astype(dtype)
    graph = check(Words(), ids)
    assert graph.vocabulary == 11
    assert graph.input_shape == (STEPS,)


def test_a_table_read_by_an_index() -> None:
    ids = np.random.default_rng(1).integers(0, 5, (3, STEPS))
    table = nn.Parameter(torch.randn(5, 3))
    graph = check(Lambda(lambda m, x: m.table[x].sum(1), table=table), ids)
    assert graph.vocabulary == 5


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda m, x: m.out(x.float()), "token ids that no embedding reads"),
        (lambda m, x: m.table(x + 1).sum(1), "a table is read at computed positions"),
        (lambda m, x: m.limited(x).sum(1), r"changes its parameters .*\(limited\.weight\)"),
        (lambda m, x: m.table(nn.functional.pad(x, (0, 1), value=9)).sum(1), "none of the table's"),
    ],
    ids=["numbers", "computed", "max-norm", "too-large"],
)
def test_refused_uses_of_token_ids(forward: Callable[..., Any], words: str) -> None:
    parts = {
        "table": nn.Embedding(9, 3),
        "out": nn.Linear(STEPS, 2),
        "limited": nn.Embedding(9, 3, max_norm=1.0),
    }
    with pytest.raises(pyrel.UnsupportedModelError, match=words):
        pyrel.capture(Lambda(forward, **parts), np.zeros((2, STEPS), np.int64))


# Other numbers of steps


def recurrent(**options: Any) -> nn.Module:
    layer = nn.LSTM(FEATURES, UNITS, batch_first=True, **options)
    return Lambda(lambda m, x: m.out(m.layer(x)[0][:, -1]), layer=layer, out=nn.Linear(UNITS, 3))


DYNAMIC: dict[str, Callable[[], nn.Module]] = {
    "last": recurrent,
    "mean": lambda: Lambda(lambda m, x: m.out(torch.relu(m.out(x)).mean(1)), out=nn.Linear(6, 6)),
    "half": lambda: Lambda(lambda m, x: m.out(x[:, : x.shape[1] // 2].sum(1)), out=nn.Linear(6, 2)),
    "conv": lambda: Lambda(lambda m, x: m.conv(x.mT).amax(2), conv=nn.Conv1d(6, 2, 3, padding=1)),
    "in-place": lambda: Lambda(lambda m, x: m.out(x).relu_().mean(1), out=nn.Linear(6, 2)),
    "folded": lambda: Lambda(
        lambda m, x: m.out(x.reshape(-1, 6)).reshape(x.shape[0], -1, 2)[:, 1], out=nn.Linear(6, 2)
    ),
}


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("steps", [2, 8])
def test_any_number_of_steps(name: str, steps: int) -> None:
    """One export makes the graph for every number; what it was exported with makes no odds."""
    torch.manual_seed(0)
    model = DYNAMIC[name]().double().eval()
    captured = captured_but_for_one_step(model, inputs(2, steps, FEATURES))
    assert captured.dynamic
    assert captured.steps == steps
    for other in (steps, 11, 40):
        if not captured.holds(other):  # two are like one to some guards
            assert steps == 2
            continue
        x = inputs(2, other, FEATURES)
        graph = captured.graph(other)
        np.testing.assert_allclose(graph_outputs(graph, x), wanted(model, x), rtol=0, atol=ALLOWED)


@pytest.mark.parametrize(
    ("forward", "held"),
    [
        (lambda m, x: m.out(sum(x.unbind(1))), []),
        (lambda m, x: m.out(x[:, 4]), [5, 7, 20]),
        (lambda m, x: m.out(x.sum(1) if x.shape[1] > 3 else x[:, 0]), [4, 5, 7, 20]),
        (lambda m, x: m.out(x.sum(1) if x.shape[1] % 2 else x[:, 0]), [3, 5, 7]),
        (lambda m, x: m.out(x.flatten(1)[:, : 2 * 3]) if x.shape[1] == 5 else m.out(x[:, 0]), []),
    ],
    ids=["unrolled", "fifth", "longer", "odd", "five"],
)
def test_numbers_of_steps_that_the_model_asks_about(
    forward: Callable[..., Any], held: list[int]
) -> None:
    model = Lambda(forward, out=nn.Linear(FEATURES, 2))
    captured = captured_but_for_one_step(model, inputs(2, 5, FEATURES).astype(np.float32))
    assert [n for n in (3, 4, 7, 20) if captured.holds(n)] == [n for n in held if n != 5]
    assert captured.holds(5)
    assert captured.dynamic == bool(held)
    with pytest.raises(ValueError, match="captured with 5 steps"):
        captured.graph(2)


def test_a_saved_program_keeps_its_guards(tmp_path: Any) -> None:
    model = Lambda(lambda m, x: m.out(x.sum(1) if x.shape[1] % 2 else x[:, 0]), out=nn.Linear(6, 2))
    free = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (torch.zeros(2, 5, 6),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "model.pt2")
    captured = capture_at(torch.export.load(tmp_path / "model.pt2"))
    assert captured.dynamic
    assert captured.steps == 5
    assert [captured.holds(n) for n in (4, 7)] == [False, True]


def test_later_changes_of_weights_do_not_show() -> None:
    model = recurrent()
    captured = capture_at(model, inputs(2, 3, FEATURES).astype(np.float32))
    before = captured.graph(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert same_graph(captured.graph(4), before)
    assert not same_graph(pyrel.capture(model, inputs(2, 4, FEATURES).astype(np.float32)), before)


def test_layers_are_opaque_to_the_export() -> None:
    """Or torch.export would run them step by step: half a minute for 1000."""
    for program in export(recurrent(), inputs(2, 1000, FEATURES).astype(np.float32)):
        names = {str(node.target) for node in program.graph.nodes}
        assert "pyrel.lstm.default" in names
        assert not any(name.startswith("aten.lstm") for name in names)
