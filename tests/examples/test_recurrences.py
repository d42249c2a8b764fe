# SPDX-License-Identifier: Apache-2.0
"""The example of recurrences, tiny."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from example_modules import example_module
from torch import nn

STEPS = 18  # a keyword and two distractors fill them


@pytest.fixture(scope="module")
def recurrences() -> ModuleType:
    return example_module("recurrences")


def test_the_order_of_pulses_tells_the_keyword_from_distractors(recurrences: Any) -> None:
    series = recurrences.make_series(60, 30, 3)
    again = recurrences.make_series(60, 30, 3)
    np.testing.assert_array_equal(series.x, again.x)
    assert series.x.shape == (60, 30, 4)
    assert (series.keyword.sum(axis=1) == 6).all()
    assert (series.distractors.sum(axis=1) == 12).all()
    assert not (series.keyword & series.distractors).any()
    assert set(series.label) == {0, 1, 2, 3}
    for x, label, keyword in zip(series.x, series.label, series.keyword, strict=True):
        # Pulses of 0.8 or more, means of two steps with a noise of 0.2 / √2: 5 deviations apart.
        loudest = x[keyword].reshape(3, 2, 4).mean(axis=1).argmax(axis=1)
        assert list(loudest) == [label, (label + 1) % 4, (label + 2) % 4]


class Place(nn.Module):
    """The score of a class is the sum of its channel over the steps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


def test_deletion_and_shares_are_those_of_known_relevance(
    recurrences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrences, "METHODS", ("lrp_epsilon", "gradient_x_input"))
    x = np.zeros((2, 4, 4), np.float32)
    x[0, 1, 2], x[0, 3, 2], x[0, 2, 0] = 3, 1, 1
    x[1, 0, 3] = 1  # of class 3, labelled as class 0: left out
    keyword, distractors = np.zeros((2, 2, 4), bool)
    keyword[:, 1], distractors[:, 3] = True, True
    series = recurrences.Series(x, np.array([2, 0]), keyword, distractors)
    judged = recurrences.judge(Place(), series, draws=2)
    assert judged.right == 0.5
    np.testing.assert_array_equal(judged.series.x, x[:1])
    wanted = np.zeros((4, 4))
    wanted[1, 2], wanted[3, 2] = 3, 1
    # Steps 1, 3, 0 and 2 are deleted; then classes 2 and 0 have these scores, the others 0.
    own, other = np.exp([4, 1, 0, 0, 0]), np.exp([1, 1, 1, 1, 0])
    for method in ("lrp_epsilon", "gradient_x_input"):
        np.testing.assert_allclose(judged.relevance[method][0], wanted, rtol=1e-5)
        scores = judged.curves.curves[method].scores[0]
        np.testing.assert_allclose(scores, own / (own + other + 2), rtol=1e-5)
    _, _, lrp, *_ = recurrences.table_of(judged)
    assert [cell.split(" ±")[0] for cell in lrp.split(" | ")[3:]] == ["0.750", "0.250", "1.000"]


def test_states_go_forward_in_time(recurrences: Any) -> None:
    torch.manual_seed(0)
    for layer in (recurrences.MinGruLayer(4, 5), recurrences.MambaBlock(4, inner=5, states=3)):
        x = torch.randn(1, 12, 4, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer.double()(x)[0, 8].sum(), x)
        reached = gradient[0].abs().sum(dim=1) > 0
        assert reached.tolist() == [True] * 9 + [False] * 3


def test_example_writes_pictures(
    recurrences: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one_layer() -> nn.Module:
        model = recurrences.MinGru(4)
        model.layers = model.layers[:1]
        return model

    monkeypatch.setattr(recurrences, "METHODS", ("lrp_epsilon",))
    monkeypatch.setattr(recurrences, "MODELS", {"minGRU": one_layer})
    state = torch.random.get_rng_state()
    recurrences.main(
        ["--out", str(tmp_path), "--series", "100", "--tested", "40", "--epochs", "1",
         "--steps", str(STEPS)]
    )  # fmt: skip
    torch.random.set_rng_state(state)
    said = capsys.readouterr().out
    assert "of 40 series are classified rightly" in said
    assert said.count("| lrp_epsilon |") == 1
    for name in ("minGRU-curves.png", "minGRU-series.png"):
        assert (tmp_path / name).stat().st_size > 1000
