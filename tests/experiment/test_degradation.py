# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel import metrics
from pyrel.experiment import degradation_study

METHODS = ("gradient_x_input", "deep_taylor")


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = np.random.default_rng(0).random((300, 3, 4, 2), dtype=np.float32)
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    return model, x, y


@pytest.fixture(scope="module")
def how():
    return metrics.Perturbation(metrics.patch_regions((3, 4, 2), 2))


@pytest.fixture(scope="module")
def study(case, how):
    told = []
    model, x, y = case
    made = degradation_study(
        model, x, y, METHODS, how, removed=range(4), progress=lambda *done: told.append(done)
    )
    assert told[-1] == ("degrading: random order", 6000, 6000)
    assert {what for what, *_ in told} >= {f"explaining: {m}" for m in METHODS}
    return made


def test_curves_are_those_of_the_torch_model(case, how, study):
    model, x, y = case
    assert list(study.curves) == [*METHODS, "pixel_mass"]

    def forward(batch):
        with torch.no_grad():
            return model(torch.from_numpy(batch)).numpy()

    for name in METHODS:
        relevance = pyrel.explain(model, x, method=name, target=y, low=0.0, high=1.0).relevance
        wanted = metrics.degradation(forward, x, relevance, y, how=how, removed=range(4))
        # Outputs below 10 from float32 sums of 24 and of 16 terms: 40 roundings.
        np.testing.assert_allclose(study.curves[name].scores, wanted.scores, atol=10 * 40 * 2**-24)
        assert study.curves[name].scores.shape == (300, 4)


def test_comparisons_are_paired(study):
    area = {name: study.area(name).mean for name in study.curves}
    assert study.in_order() == sorted(area, key=area.get)
    random = metrics.Summary.of(study.random.area_under())
    for name in study.curves:
        difference = random.values - study.area(name).values
        difference = difference[~np.isnan(difference)]
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        wanted = difference.mean() / error
        assert study.standard_errors_below(name) == pytest.approx(wanted, rel=1e-9)
    # Of deep Taylor, samples whose output is below 0 have no map.
    assert 0 < study.area("deep_taylor").left_out < 300
    # What the model adds up is taken away first.
    assert study.standard_errors_below("gradient_x_input") > 3
    pair = ("gradient_x_input", "deep_taylor")
    assert list(study.rank_agreement) == list(study.cosine_agreement) == [pair]
    assert study.cosine_agreement[pair].used == study.area("deep_taylor").used


def test_methods_are_wanted(case, how):
    model, x, y = case
    with pytest.raises(ValueError, match="methods: wanted at least one"):
        degradation_study(model, x, y, [], how)


def test_explainers_are_taken_as_models(case):
    model, x, y = case
    explainer = pyrel.Explainer(model, x[:1], "gradient_x_input", low=0.0, high=1.0, check=None)
    noise = metrics.Noise(0.05, draws=3, low=0.0, high=1.0)
    moved = metrics.noise_sensitivity(explainer, x[:20], y[:20], noise)

    def gradient_times_input(batch, target):
        tensor = torch.from_numpy(batch).requires_grad_()
        chosen = model(tensor)[torch.arange(len(batch)), torch.from_numpy(target)]
        return torch.autograd.grad(chosen.sum(), tensor)[0].numpy() * batch

    wanted = metrics.noise_sensitivity(gradient_times_input, x[:20], y[:20], noise)
    # Of 60 noisy copies none may switch a ReLU in one and not in the other: 24 terms in float32.
    np.testing.assert_allclose(moved, wanted, rtol=1e-4)
    assert (moved > 0).all()


def test_tokens_are_replaced_in_a_model_with_an_embedding():
    torch.manual_seed(1)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids):
            return self.linear(self.table(ids).mean(dim=1))

    model = Bag().eval()
    ids = np.random.default_rng(0).integers(1, 9, (10, 5))
    explainer = pyrel.Explainer(model, ids[:2], "gradient_x_input", check=None)
    target = explainer.forward(ids).argmax(axis=1)
    how = metrics.Perturbation(metrics.pixel_regions((5,)), replacement=0, score="output")
    relevance = explainer(ids, target).relevance
    falls = metrics.comprehensiveness(
        explainer.forward, ids, relevance, target, how=how, fractions=[0.2]
    )
    most = relevance.argmax(axis=1)
    rows = np.arange(10)
    without = ids.copy()
    without[rows, most] = 0
    with torch.no_grad():
        before, after = model(torch.from_numpy(ids)), model(torch.from_numpy(without))
    wanted = (before - after).numpy()[rows, target]
    np.testing.assert_allclose(falls, wanted, atol=20 * 2**-24 * np.abs(before.numpy()).max())
