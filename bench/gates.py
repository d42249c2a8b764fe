# SPDX-License-Identifier: Apache-2.0
"""What gates get, measured: ``python bench/gates.py --models runs/gates``.

Trains LSTMs and GRUs on two tasks, explains them by LRP-ε with each choice of ``gates`` and by
gradient × input, and prints, as tables of Markdown, how large the relevance is, whether it is
conserved, and how fast the probability of the explained class falls when what a map calls most
relevant is set to zero. Trained weights are kept in the folder ``--models``, so that a second run
only explains. docs/results/gates.md has the tables of the defaults.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import pyrel

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]

_MARKED, _LENGTH = 4, 24
_BATCH = 100


class Classifier(nn.Module):
    """A recurrent layer and a linear layer over its last step."""

    def __init__(self, kind: str, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.core = getattr(nn, kind)(features, width, batch_first=True)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.core(x)
        return self.out(steps[:, -1])


@dataclass(frozen=True)
class Task:
    """Sequences (n, T, features) and their classes, and how maps of them are judged.

    ``by_step`` removes whole steps, most relevant first, else single elements; ``stride`` at once,
    up to ``most``.
    """

    name: str
    train: tuple[Array, Labels]
    test: tuple[Array, Labels]
    classes: int
    epochs: int
    by_step: bool
    stride: int
    most: int


def digits(count: int) -> Task:
    """Rows of MNIST digits from the top to the bottom, 28 steps of 28 pixels."""
    parts = []
    for split, wanted in (("train", 12_000), ("test", count)):
        images, labels = pyrel.data.load_images("mnist", split)
        chosen = np.random.default_rng(0).permutation(len(images))[:wanted]
        x = (images[chosen] / np.float32(255)).astype(np.float32)
        parts.append((x, labels[chosen].astype(np.int64)))
    return Task("digits", parts[0], parts[1], 10, 4, by_step=False, stride=8, most=128)


def marked_values(count: int) -> Task:
    """Is the sum of the four marked values of 24 above zero? Steps are (value, mark)."""
    parts = []
    for seed, wanted in ((1, 40_000), (2, count)):
        rng = np.random.default_rng(seed)
        x = np.zeros((wanted, _LENGTH, 2), np.float32)
        x[:, :, 0] = rng.uniform(-1, 1, (wanted, _LENGTH))
        marked = rng.random((wanted, _LENGTH)).argsort(axis=1)[:, :_MARKED]
        np.put_along_axis(x[:, :, 1], marked, 1.0, axis=1)
        parts.append((x, ((x[:, :, 0] * x[:, :, 1]).sum(axis=1) > 0).astype(np.int64)))
    return Task("marked values", parts[0], parts[1], 2, 3, by_step=True, stride=1, most=12)


def train(task: Task, kind: str, width: int, seed: int, rate: float) -> Classifier:
    """Train by Adam, one cycle of the learning rate up to ``rate``."""
    torch.manual_seed(seed)
    x, y = (torch.from_numpy(part) for part in task.train)
    model = Classifier(kind, x.shape[2], width, task.classes)
    steps = task.epochs * (len(x) // _BATCH)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(task.epochs):
        for chosen in torch.randperm(len(x)).split(_BATCH):
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def trained(
    task: Task, kind: str, width: int, seed: int, rate: float, folder: Path | None
) -> Classifier:
    """Load the weights of a model that was trained before, or train it."""
    model = Classifier(kind, task.train[0].shape[2], width, task.classes)
    name = f"{task.name.replace(' ', '-')}-{kind}-{width}-{seed}-{rate}.pt"
    path = folder and folder / name
    if path and path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    begun = time.perf_counter()
    model = train(task, kind, width, seed, rate)
    print(
        f"trained {task.name} {kind} {width} {seed}: {time.perf_counter() - begun:.0f} s",
        file=sys.stderr,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model


def probability(model: Classifier, x: Array, target: Labels) -> Sums:
    """Softmax of the target's output."""
    with torch.no_grad():
        scores = torch.cat([model(part) for part in torch.from_numpy(x).split(500)])
    chosen = scores.softmax(1).gather(1, torch.from_numpy(target)[:, None])
    return chosen[:, 0].double().numpy()


def deletion_curve(
    task: Task, model: Classifier, x: Array, target: Labels, relevance: Array
) -> Sums:
    """Probability (n, points) of the target as what is most relevant is set to zero."""
    n = len(x)
    parts = relevance.sum(axis=2) if task.by_step else relevance.reshape(n, -1)
    order = np.argsort(-parts, axis=1, kind="stable")
    rest = x.copy()
    view = rest if task.by_step else rest.reshape(n, -1)
    curve = [probability(model, rest, target)]
    for first in range(0, task.most, task.stride):
        chosen = order[:, first : first + task.stride]
        view[np.arange(n)[:, None], chosen] = 0
        curve.append(probability(model, rest, target))
    return np.stack(curve, axis=1)


@dataclass(frozen=True)
class Judged:
    """What is measured of one model: by sample (n,), curves (n, points) by order of removal."""

    accuracy: float
    score: Sums
    sizes: dict[str, Sums]
    errors: dict[str, float]
    curves: dict[str, Sums]


ORDERS = ("signal", "half", "gradient × input", "random")


def judge(task: Task, model: Classifier, seed: int) -> Judged:
    """Explain the test samples' predicted classes and measure the maps."""
    x, labels = task.test
    graph = pyrel.capture(model, x[:2])
    explainers = {
        "signal": pyrel.Explainer(graph, x[:2], method="lrp_epsilon", gates="signal"),
        "half": pyrel.Explainer(graph, x[:2], method="lrp_epsilon", gates="half"),
        "gradient × input": pyrel.Explainer(graph, x[:2], method="gradient_x_input"),
    }
    target = explainers["signal"](x).target
    sizes, errors, curves = {}, {}, {}
    for name, explainer in explainers.items():
        e = explainer(x, target=target)
        relevance = e.relevance.astype(np.float64).reshape(len(x), -1)
        score = e.output[np.arange(len(x)), target].astype(np.float64)
        sizes[name] = np.abs(relevance).sum(axis=1)
        error = np.abs(relevance.sum(axis=1) + e.absorbed - score)
        errors[name] = float((error / np.maximum(np.abs(score), sizes[name])).max())
        curves[name] = deletion_curve(task, model, x, target, e.relevance)
    # At random: what is not zero anyway, first.
    draws = np.random.default_rng(seed).random(x.shape).astype(np.float32) * (x != 0)
    curves["random"] = deletion_curve(task, model, x, target, draws)
    return Judged(float((target == labels).mean()), score, sizes, errors, curves)


Key = tuple[str, str, int]  # task, kind, width


def print_sizes(found: dict[Key, list[Judged]]) -> None:
    """Print how large maps are, the seeds of a model together."""
    columns = ["task", "model", "accuracy"]
    columns += [f"Σ\\|R\\| / \\|f\\|: {ORDERS[0]}", *ORDERS[1:3]]
    columns += [f"Σ\\|R\\| / Σ\\|{ORDERS[2]}\\|: {ORDERS[0]}", ORDERS[1]]
    columns += [f"conservation: {ORDERS[0]}", ORDERS[1]]
    print("\n| " + " | ".join(columns) + " |")
    print("|" + "---|" * 10)
    for (task, kind, width), models in found.items():

        def joined(get: Callable[[Judged], Sums], models: list[Judged] = models) -> str:
            values = np.concatenate([get(model) for model in models])
            return f"{np.median(values):.3g}, {np.quantile(values, 0.99):.3g}"

        cells = [task, f"{kind} {width}", f"{np.mean([m.accuracy for m in models]):.3f}"]
        cells += [joined(lambda m, k=k: m.sizes[k] / np.abs(m.score)) for k in ORDERS[:3]]
        cells += [joined(lambda m, k=k: m.sizes[k] / m.sizes[ORDERS[2]]) for k in ORDERS[:2]]
        cells += [f"{max(m.errors[k] for m in models):.0e}" for k in ORDERS[:2]]
        print("| " + " | ".join(cells) + " |")


def _with_error(values: list[float], digits: int = 3) -> str:
    array = np.array(values)
    return f"{array.mean():.{digits}f} ± {array.std(ddof=1) / len(array) ** 0.5:.{digits}f}"


def print_areas(found: dict[Key, list[Judged]]) -> None:
    """Print areas under the deletion curves by model, standard errors over samples of all seeds."""
    print("\n| task | model | " + " | ".join(ORDERS) + " | half − signal |")
    print("|" + "---|" * 7)
    for (task, kind, width), models in found.items():
        areas = {k: np.concatenate([m.curves[k].mean(axis=1) for m in models]) for k in ORDERS}
        areas["difference"] = areas["half"] - areas["signal"]
        cells = [_with_error(list(values)) for values in areas.values()]
        print(f"| {task} | {kind} {width} | " + " | ".join(cells) + " |")


def print_summary(found: dict[Key, list[Judged]]) -> None:
    """Print areas by task and kind: means over widths and seeds, standard errors over models."""
    print(
        "\n| task | kind | " + " | ".join(ORDERS) + " | half − signal | half − gradient × input |"
    )
    print("|" + "---|" * 8)
    for (task, kind), models in _by_kind(found):
        areas = {k: [float(m.curves[k].mean()) for m in models] for k in ORDERS}
        differences = [
            [h - o for h, o in zip(areas["half"], areas[other], strict=True)]
            for other in ("signal", "gradient × input")
        ]
        cells = [_with_error(values) for values in (*areas.values(), *differences)]
        print(f"| {task} | {kind} | " + " | ".join(cells) + " |")


def print_curves(found: dict[Key, list[Judged]], tasks: dict[str, Task]) -> None:
    """Print points of the curves, means over widths and seeds, standard errors over models."""
    for (task, kind), models in _by_kind(found):
        stride, points = tasks[task].stride, models[0].curves["random"].shape[1]
        shown = [0, *(2**i for i in range(points.bit_length()) if 2**i < points)]
        shown = sorted({*shown, points - 1})
        print(f"\n{task}, {kind}; removed:\n")
        print("| | " + " | ".join(str(stride * i) for i in shown) + " |")
        print("|" + "---|" * (1 + len(shown)))
        for order in ORDERS:
            curves = np.stack([m.curves[order].mean(axis=0) for m in models])
            cells = [_with_error(list(curves[:, i]), 2) for i in shown]
            print(f"| {order} | " + " | ".join(cells) + " |")


def _by_kind(found: dict[Key, list[Judged]]) -> Iterator[tuple[tuple[str, str], list[Judged]]]:
    groups: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for (task, kind, _), models in found.items():
        groups[task, kind] += models
    yield from groups.items()


def main() -> None:
    """Train, explain, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder of trained weights, to keep or to use")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--seeds", type=int, default=3, help="models of each size (default 3)")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate (default 0.01)")
    parser.add_argument("--samples", type=int, default=500, help="test samples (default 500)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {task.name: task for task in (digits(options.samples), marked_values(options.samples))}
    found: dict[Key, list[Judged]] = {}
    for task, kind, width in itertools.product(tasks.values(), ("LSTM", "GRU"), options.widths):
        found[task.name, kind, width] = [
            judge(task, trained(task, kind, width, seed, options.rate, options.models), seed)
            for seed in range(options.seeds)
        ]
    print_sizes(found)
    print_summary(found)
    print_areas(found)
    print_curves(found, tasks)


if __name__ == "__main__":
    main()
