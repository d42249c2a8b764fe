# SPDX-License-Identifier: Apache-2.0
"""What an explainer prints: node, module, rule."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import pyrel


class Mixed(nn.Module):
    """A convolution and pools, an LSTM over the columns, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(3, 4, 3, padding=1), nn.MaxPool1d(2)
        self.lstm, self.out = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pool(torch.relu(self.conv(x)))
        out: Tensor = self.out(self.lstm(maps.transpose(1, 2))[0][:, -1])
        return out


X = torch.rand(2, 3, 6)


def table(method: str | pyrel.methods.Method) -> list[list[str]]:
    """Return the rows of what is printed, the first line apart."""
    torch.manual_seed(0)
    explainer = pyrel.Explainer(Mixed().eval(), X, method, low=0.0, high=1.0)
    first, *rows = str(explainer).splitlines()
    assert first == repr(explainer)
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


def test_rules_from_the_input_to_the_output() -> None:
    assert table("epsilon_gamma_box") == [
        ["node", "module", "rule"],
        ["convolution", "conv", "ZBeta()"],
        ["max pool", "pool", "Winner()"],
        ["dense × 3", "lstm", "Epsilon(epsilon=1e-06)"],
        ["tanh × 6", "lstm", "Pass()"],
        ["product × 8", "lstm", "Signal()"],
        ["sum × 3", "lstm", "Proportional(epsilon=1e-06)"],
        ["dense", "out", "Epsilon(epsilon=1e-06)"],
    ]


def test_rules_are_shown_as_what_they_come_to() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    text = str(pyrel.Explainer(model, torch.rand(2, 4), low=0.0, high=1.0))
    assert text.splitlines()[2:] == ["  dense  0       ZBeta()", "  dense  2       ZPlus()"]
    pools = nn.Sequential(nn.MaxPool1d(2), nn.Linear(2, 2))
    for low, shown in ((-1.0, "Winner()"), (0.0, "InProportion(strict=False)")):
        text = str(pyrel.Explainer(pools, torch.rand(2, 4), low=low, high=1.0))
        assert shown in text.splitlines()[2]


def test_composites_name_what_they_placed() -> None:
    m = pyrel.methods
    composite = m.Composite(
        [m.Assign(m.Flat(), from_input=0), m.Assign(m.Gamma(0.5), module="ls*")], epsilon=1e-3
    )
    linear = [row for row in table(composite) if "dense" in row[0] or "conv" in row[0]]
    assert {row[1]: row[2] for row in linear} == {
        "conv": "Flat()",
        "lstm": "Gamma(gamma=0.5, epsilon=1e-06)",
        "out": "Epsilon(epsilon=0.001)",
    }


def test_a_loaded_program_has_no_names_of_rules(tmp_path: Path) -> None:
    pyrel.Explainer(nn.Linear(3, 2), torch.rand(2, 3), "gradient").save(tmp_path / "p")
    text = str(pyrel.Explainer.load(tmp_path / "p"))
    assert text.splitlines()[1:] == ["  (the rules are in the program, without names)"]
