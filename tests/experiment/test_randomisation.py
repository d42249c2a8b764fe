# SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.experiment import randomisation_check, randomise_weights
from pyrel.experiment.randomisation import layers_with_weights

X = np.zeros((1, 12), dtype=np.float32)


def make(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))


@pytest.fixture
def model():
    return make(0).eval()


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_layers_are_randomised_from_the_output_down(model):
    before = copy.deepcopy(model)
    untrained = make(1)
    assert layers_with_weights(model, X) == ["4", "2", "0"]
    changed = dict(randomise_weights(model, lambda: untrained, X))
    assert list(changed) == ["4", "2", "0"]
    for i, copied in enumerate(changed.values()):
        for j, name in enumerate(changed):
            source = untrained if j <= i else before
            assert same(copied.get_submodule(name), source.get_submodule(name))
    assert same(model, before)


# Modules are registered in another order than they are used in.
@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("RLSTM", ["output", "candidate", "gates", "encoder"]),
        ("Shallow", ["output", "cell", "feedback"]),
        ("Deep", ["output", "decision", "cell", "feedback", "encoder"]),
        ("DeepV2", ["output", "decision", "cell", "feedback", "encoder_2", "encoder"]),
        (
            "ConvDeep",
            ["output", "decision", "cell", "feedback", "encoder.conv_2", "encoder.conv_1"],
        ),
    ],
)
def test_the_order_is_that_of_use(cell, wanted):
    model = pyrel.nn.cell_type(cell)(3, (8, 4)).eval()
    found = layers_with_weights(model, np.zeros((2, 3, 8, 4), np.float32))
    assert found == wanted


def test_what_a_run_does_not_use_comes_last_and_all_of_a_module_counts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(5, 2)
            self.unused = nn.Linear(2, 2)
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.first = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.output(self.lstm(x * self.first)[0][:, -1])

    assert layers_with_weights(Net(), torch.zeros(1, 3, 4)) == ["output", "lstm", "", "unused"]


def test_what_is_made_of_weights_is_read_where_it_is_used():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.output, self.recurrent = nn.Linear(5, 2), nn.Linear(5, 5)
            self.encoder = nn.Linear(4, 5)

        def forward(self, x):
            weight, bias = self.recurrent.weight.abs().t(), 2 * self.recurrent.bias
            state = torch.zeros(len(x), 5)
            for step in range(3):
                state = torch.relu(self.encoder(x[:, step]) + state @ weight + bias)
            return self.output(state)

    assert layers_with_weights(Net(), torch.zeros(1, 3, 4)) == ["output", "recurrent", "encoder"]


def test_weights_that_two_modules_share_are_used_by_both():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.middle = nn.Embedding(7, 5), nn.Linear(5, 5)
            self.output = nn.Linear(5, 7, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, x):
            return self.output(self.middle(self.embedding(x)).mean(1))

    found = layers_with_weights(Net(), torch.zeros(1, 3, dtype=torch.long))
    assert found == ["output", "embedding", "middle"]


def test_layers_of_attention_are_not_taken_for_one():
    fast = torch.backends.mha.get_fastpath_enabled()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = layers_with_weights(layer, torch.zeros(1, 3, 8))
    wanted = ["norm2", "linear2", "linear1", "norm1", "self_attn.out_proj", "self_attn"]
    assert found == wanted
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_means_of_a_batch_norm_are_randomised_too():
    def net():
        return nn.Sequential(
            nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6, affine=False)
        )

    model = net()
    model(torch.randn(20, 12))  # in training mode: the means move
    changed = dict(randomise_weights(model.eval(), net, X))
    assert list(changed)[-1] == "0"
    for name in ("1", "3"):
        norm = changed["0"].get_submodule(name)
        assert torch.equal(norm.running_mean, torch.zeros(6))
        assert torch.equal(norm.running_var, torch.ones(6))
        assert not torch.equal(model.get_submodule(name).running_mean, torch.zeros(6))


class Two(nn.Module):
    """Two inputs, and a batch norm that learns as long as the model trains."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.read, self.scale = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.read(self.norm(x)) + self.scale(y)


def test_the_model_stays_as_it_is_and_inputs_are_what_an_explainer_takes() -> None:
    """float64 and several inputs; a copy runs, in eval mode."""
    model = Two().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(0)
    inputs = rng.random((5, 3)), rng.random((5, 2))

    def explainer(of: nn.Module) -> pyrel.Explainer:
        example = tuple(torch.from_numpy(each[:1]).float() for each in inputs)
        return pyrel.Explainer(of.eval(), example, "gradient_x_input")

    assert layers_with_weights(model, inputs) == ["scale", "read", "norm"]
    assert model.training
    target = np.zeros(5, np.int64)
    found = randomisation_check(model, lambda: Two(1), explainer, inputs, target)
    assert [layer.name for layer in found] == ["scale", "read", "norm"]
    assert all(layer.cosine.used == 5 and layer.cosine.mean < 1 for layer in found)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_layers_are_randomised_alone(model):
    untrained = make(1)
    for name, copied in randomise_weights(model, lambda: untrained, X, ["0", "4"], cascade=False):
        for other in ("0", "2", "4"):
            source = untrained if other == name else model
            assert same(copied.get_submodule(other), source.get_submodule(other))


def test_a_method_that_looks_at_the_weights_changes_and_pixels_do_not(model):
    x = np.random.default_rng(0).random((30, 12), dtype=np.float32)
    target = np.zeros(30, dtype=np.int64)
    told = []
    found = randomisation_check(
        model,
        lambda: make(1),
        lambda m: pyrel.Explainer(m, x[:1], "gradient_x_input", check=None),
        x,
        target,
        progress=told.append,
    )
    assert [layer.name for layer in found] == told == ["4", "2", "0"]
    assert all(abs(layer.rank.mean) < 0.9 for layer in found)
    # Two independent maps of 12 numbers: correlations of a standard deviation of 0.3.
    assert abs(found[-1].cosine.mean) < 0.9
    pixels = randomisation_check(
        model, lambda: make(1), lambda m: lambda x, target: x, x, target, layers=["4"]
    )
    assert pixels[0].rank.mean == pytest.approx(1.0)
    assert pixels[0].absolute_rank.mean == pytest.approx(1.0)


def test_empty_maps_are_left_out(model):
    x = np.random.default_rng(0).random((4, 12), dtype=np.float32)
    x[1] = 0.0
    (layer,) = randomisation_check(
        model, lambda: make(1), lambda m: lambda x, target: x, x, np.zeros(4, int), layers=["0"]
    )
    assert (layer.cosine.used, layer.cosine.left_out, layer.rank.left_out) == (3, 1, 1)


def test_bad_layers_and_models_are_named(model):
    with pytest.raises(ValueError, match="layers: wanted some of 4, 2, 0, given '1'"):
        next(randomise_weights(model, lambda: make(1), X, ["1"]))
    with pytest.raises(ValueError, match="fresh: wanted a model with the parameters of '4'"):
        next(randomise_weights(model, lambda: nn.Linear(12, 2), X))
