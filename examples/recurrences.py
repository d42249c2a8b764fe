# SPDX-License-Identifier: Apache-2.0
"""Explain two recurrences of today, a minGRU and a Mamba, that find a keyword among distractors.

A series of four channels holds one keyword, pulses on three channels in ascending order (after the
fourth comes the first again), and two distractors, pulses in descending order; the class is the
channel on which the keyword begins. So the steps that decide are known, and nothing but the order
of their pulses tells them from the others. A minGRU of two layers and two Mamba blocks, both with
loops over the steps, learn it. Then it is measured how the probability of the class falls where
steps are replaced by zeros, the most relevant ones first, and how much relevance is in the keyword.
Needs the extra ``report``:

    python examples/recurrences.py --out recurrences
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel
from pyrel import metrics

CHANNELS = 4  # and classes: where the keyword begins
PULSES, PULSE = 3, 2  # of a keyword, steps of a pulse
MOTIF = PULSES * PULSE  # steps
DISTRACTORS = 2
NOISE = 0.2
METHODS = (
    "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta", "gradient_x_input", "integrated_gradients",
)  # fmt: skip

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Series:
    """Series (n, steps, channels), their classes (n,), and which steps are the keyword's.

    Attributes
    ----------
    keyword, distractors
        (n, steps) truth values.
    """

    x: Floats
    label: npt.NDArray[np.int64]
    keyword: npt.NDArray[np.bool_]
    distractors: npt.NDArray[np.bool_]


def make_series(count: int, steps: int, seed: int) -> Series:
    """Return series with a keyword and two distractors; the same arguments give the same ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=NOISE, size=(count, steps, CHANNELS))
    label = rng.integers(CHANNELS, size=count)
    keyword, distractors = (np.zeros((count, steps), bool) for _ in range(2))
    for row in range(count):
        # Starts of motifs that do not overlap: places in what the motifs leave, and the motifs.
        free = steps - (1 + DISTRACTORS) * MOTIF
        starts = np.sort(rng.integers(free + 1, size=1 + DISTRACTORS))
        starts += MOTIF * np.arange(1 + DISTRACTORS)
        for number, start in enumerate(rng.permutation(starts)):
            first = label[row] if number == 0 else rng.integers(CHANNELS)
            (keyword if number == 0 else distractors)[row, start : start + MOTIF] = True
            for pulse in range(PULSES):
                channel = (first + (pulse if number == 0 else -pulse)) % CHANNELS
                at = start + pulse * PULSE
                x[row, at : at + PULSE, channel] += rng.uniform(0.8, 1.2)
    return Series(x.astype(np.float32), label, keyword, distractors)


class MinGruLayer(nn.Module):
    """h ← (1 − z) h + z h̃, where z and h̃ do not read h (Feng et al. 2024)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(inputs, units), nn.Linear(inputs, units)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states (n, steps, units)."""
        z, candidate = torch.sigmoid(self.gate(x)), self.candidate(x)
        h = torch.zeros_like(z[:, 0])
        states = []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * candidate[:, t]
            states.append(h)
        return torch.stack(states, dim=1)


class MinGru(nn.Module):
    """Two layers, and a linear layer on the last state."""

    def __init__(self, units: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(MinGruLayer(CHANNELS, units), MinGruLayer(units, units))
        self.output = nn.Linear(units, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, classes) of series (n, steps, channels)."""
        scores: Tensor = self.output(self.layers(x)[:, -1])
        return scores


class MambaBlock(nn.Module):
    """A selective scan and what is around it (Gu and Dao 2023)."""

    def __init__(self, width: int, inner: int, states: int, kernel: int = 4) -> None:
        super().__init__()
        self.states = states
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.select = nn.Linear(inner, 1 + 2 * states, bias=False)
        self.step = nn.Linear(1, inner)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, states + 1).repeat(inner, 1)))
        self.through = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, steps, width) of the same."""
        steps = x.shape[1]
        u, gate = self.enter(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :steps].transpose(1, 2))
        delta, b, c = self.select(u).split([1, self.states, self.states], dim=-1)
        delta = F.softplus(self.step(delta)).unsqueeze(-1)
        decay = torch.exp(delta * -torch.exp(self.log_a))
        entering = delta * b.unsqueeze(2) * u.unsqueeze(-1)
        h = torch.zeros_like(entering[:, 0])
        found = []
        for t in range(steps):
            h = decay[:, t] * h + entering[:, t]
            found.append((h * c[:, t].unsqueeze(1)).sum(dim=-1))
        y = torch.stack(found, dim=1) + u * self.through
        out: Tensor = x + self.leave(y * F.silu(gate))
        return out


class Mamba(nn.Module):
    """Two blocks between linear layers, of which the second reads the last step."""

    def __init__(self, width: int = 16, inner: int = 16, states: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(CHANNELS, width)
        self.blocks = nn.Sequential(*[MambaBlock(width, inner, states) for _ in range(2)])
        self.output = nn.Linear(width, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, classes) of series (n, steps, channels)."""
        scores: Tensor = self.output(self.blocks(self.enter(x))[:, -1])
        return scores


MODELS: dict[str, Callable[[], nn.Module]] = {"minGRU": MinGru, "Mamba": Mamba}


def train(
    model: nn.Module, series: Series, *, epochs: int, rate: float, seed: int, size: int = 100
) -> None:
    """Train with Adam on the cross-entropy, in batches drawn anew for each epoch."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    batches = -(-len(series.x) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    x, label = torch.from_numpy(series.x), torch.from_numpy(series.label)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for some in np.array_split(rng.permutation(len(x)), batches):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[some]), label[some])
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"Epoch {epoch} of {epochs}: loss {total / batches:.4f}", file=sys.stderr)
    model.eval()


@dataclass(frozen=True)
class Judged:
    """What the explanations of series that the model classifies rightly are like, by method.

    Attributes
    ----------
    right
        Share of the series that are classified rightly.
    series
        These series.
    relevance
        (n, steps, channels) for the score of the class.
    curves
        Probability of the class where steps are replaced by zeros.
    """

    right: float
    series: Series
    relevance: dict[str, Floats]
    curves: metrics.DegradationCurves


def judge(model: nn.Module, series: Series, *, draws: int = 5) -> Judged:
    """Explain the class of each series, and replace steps in the order of their relevance."""
    explainers = {method: pyrel.Explainer(model, series.x[:2], method) for method in METHODS}
    forward = explainers[METHODS[0]].forward
    right = np.asarray(forward(series.x)).argmax(axis=1) == series.label
    kept = Series(*(values[right] for values in vars(series).values()))
    how = metrics.Perturbation(metrics.step_regions(series.x.shape[1:]), replacement=0.0)
    relevance, curves = {}, {}
    for method, explainer in explainers.items():
        relevance[method] = explainer(kept.x, target=kept.label).relevance
        curves[method] = metrics.degradation(
            forward, kept.x, relevance[method], kept.label, how=how
        )
    random = metrics.random_degradation(forward, kept.x, kept.label, how=how, draws=draws)
    return Judged(float(right.mean()), kept, relevance, metrics.DegradationCurves(curves, random))


HEADINGS = (
    "method", "area", "area above that of LRP-ε", "keyword's share", "distractors' share",
    "rank accuracy",
)  # fmt: skip


def table_of(judged: Judged) -> list[str]:
    """Return the rows of a table in Markdown: means over the series, and standard errors."""
    lrp = judged.curves.area(METHODS[0])
    rows = [HEADINGS, tuple("---" for _ in HEADINGS)]
    for method in [*METHODS, "random"]:
        drawn = method == "random"
        area = judged.curves.random_area() if drawn else judged.curves.area(method)
        more = metrics.paired_difference(area, lrp)
        above = "" if method == METHODS[0] else f"{more.mean:+.3f} ± {more.standard_error:.3f}"
        where = ["", "", ""]
        if not drawn:
            steps = judged.relevance[method].sum(axis=2)
            found = (
                metrics.relevance_mass_accuracy(steps, judged.series.keyword),
                metrics.relevance_mass_accuracy(steps, judged.series.distractors),
                metrics.relevance_rank_accuracy(steps, judged.series.keyword),
            )
            where = [str(metrics.Summary.of(values)) for values in found]
        rows.append((method, str(area), above, *where))
    return ["| " + " | ".join(row) + " |" for row in rows]


def pictures(name: str, judged: Judged, out: Path) -> list[Path]:
    """Draw the curves of all methods, and the relevance of the first series; return the files."""
    from pyrel import plots

    curves = plots.degradation_curves(
        {method.replace("_", " "): curve for method, curve in judged.curves.curves.items()},
        judged.curves.random,
        regions="steps set to zero, most relevant first",
        title=f"{name}: steps of {len(judged.series.x)} series are deleted",
    )
    start = int(judged.series.keyword[0].argmax()) + 1
    series = plots.series(
        judged.series.x[0],
        judged.relevance[METHODS[0]][0],
        features=[f"channel {channel}" for channel in range(CHANNELS)],
        title=f"{name}, LRP-ε; the keyword is in steps {start} to {start + MOTIF - 1}",
    )
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}-curves.png", out / f"{name}-series.png"]
    for figure, path in zip((curves, series), paths, strict=True):
        figure.savefig(path, dpi=110)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both, explain, delete steps, print and draw what comes out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("recurrences"), help="folder of the pictures"
    )
    parser.add_argument("--series", type=int, default=6000, help="to train on")
    parser.add_argument("--tested", type=int, default=300, help="to explain")
    parser.add_argument("--steps", type=int, default=48, help="of a series")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    training = make_series(options.series, options.steps, options.seed)
    tested = make_series(options.tested, options.steps, options.seed + 1_000_000)
    for name, make in MODELS.items():
        torch.manual_seed(options.seed)
        model = make()
        train(model, training, epochs=options.epochs, rate=0.01, seed=options.seed)
        judged = judge(model, tested)
        print(
            f"{name}: {100 * judged.right:.1f} % of {len(tested.x)} series are classified rightly"
        )
        print("\n".join(table_of(judged)))
        for path in pictures(name, judged, options.out):
            print(f"Wrote {path}")


if __name__ == "__main__":
    main()
