# SPDX-License-Identifier: Apache-2.0
"""What training does to a model, and what it reports."""

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrel.training import (
    TrainingConfig,
    TrainingDivergedError,
    TrainingInterrupted,
    evaluate,
    predict,
    train,
)

if TYPE_CHECKING:
    from conftest import Problem

FAST = TrainingConfig(epochs=12, batch_size=20, learning_rate=0.01, device="cpu")


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def test_a_cell_learns(problem: "Problem") -> None:
    model = problem.model()
    result = train(model, problem.x, problem.y, config=FAST, validation=problem.validation)
    assert result.kept.validation_accuracy == 1.0
    assert result.history[0].loss > 5 * result.history[-1].loss
    assert [record.epoch for record in result.history] == list(range(1, 13))
    assert result.stopped == "epochs" and result.checkpoint is None
    assert result.seconds == sum(record.seconds for record in result.history) > 0
    assert json.loads(json.dumps(result.summary()))["epochs"] == 12
    assert not model.training


def test_records_are_what_evaluate_says(problem: "Problem") -> None:
    model = problem.model()
    result = train(model, problem.x, problem.y, config=FAST, validation=problem.validation)
    loss, accuracy = evaluate(model, *problem.validation)
    assert (result.kept.validation_loss, result.kept.validation_accuracy) == (loss, accuracy)
    scores = predict(model, problem.validation[0], batch_size=7)
    expected = F.cross_entropy(scores, problem.validation[1])
    # Two fp32 means of 60 terms of one sign.
    assert loss == pytest.approx(expected.item(), rel=60 * 2**-23)
    assert accuracy == (scores.argmax(1) == problem.validation[1]).double().mean().item()


def test_steps_are_those_of_adam(problem: "Problem") -> None:
    config = TrainingConfig(
        epochs=5, batch_size=200, learning_rate=0.01, schedule="constant", device="cpu"
    )
    model, twin = problem.model(dropout=0.0), problem.model(dropout=0.0)
    train(model, problem.x, problem.y, config=config, progress=False)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01, foreach=False, fused=False)
    for _ in range(5):
        adam.zero_grad()
        torch.autograd.backward(F.cross_entropy(twin(problem.x), problem.y))
        adam.step()
    # A gradient sums 120 samples in another order: relative error below 1e-4 where the terms
    # cancel to a hundredth. Adam normalises gradients, so five steps of 0.01 differ by 5e-6.
    assert (weights(model) - weights(twin)).abs().max() <= 5e-6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_gradient_descent(problem: "Problem", momentum: float) -> None:
    """w ← w − η v with v ← μ v + ∂L/∂w, v from 0 (torch's form of momentum)."""
    config = TrainingConfig(
        epochs=4,
        batch_size=200,
        learning_rate=0.1,
        optimizer="sgd",
        momentum=momentum,
        schedule="constant",
        device="cpu",
    )
    model, twin = problem.model(dropout=0.0), problem.model(dropout=0.0).double()
    train(model, problem.x, problem.y, config=config, progress=False)
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for _ in range(4):
        loss = F.cross_entropy(twin(problem.x.double()), problem.y)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for p, v, g in zip(twin.parameters(), velocity, gradients, strict=True):
                v.mul_(momentum).add_(g)
                p.sub_(0.1 * v)
    # Four steps of 0.1 whose gradients, below 1 in size, are right to 1e-5 (sums of 120 terms that
    # cancel to a hundredth); momentum adds up to four of them.
    assert (weights(model) - weights(twin).float()).abs().max() <= 4 * 4 * 0.1 * 1e-5


def test_equal_calls_give_equal_weights_and_seeds_matter(problem: "Problem") -> None:
    def run(seed: int, spoil: int) -> Tensor:
        torch.manual_seed(spoil)
        model = problem.model()
        config = TrainingConfig(epochs=2, batch_size=7, seed=seed, device="cpu")
        train(model, problem.x, problem.y, config=config, progress=False)
        return weights(model)

    assert torch.equal(run(1, 5), run(1, 6))
    assert not torch.equal(run(1, 5), run(2, 5))


def test_the_random_state_of_torch_is_left_alone(problem: "Problem") -> None:
    before = torch.random.get_rng_state()
    train(problem.model(), problem.x, problem.y, config=FAST, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_threads_asked_for_are_used_and_given_back(problem: "Problem") -> None:
    before = torch.get_num_threads()
    seen: set[int] = set()
    model = problem.model()
    model.register_forward_pre_hook(lambda module, args: seen.add(torch.get_num_threads()))
    config = TrainingConfig(epochs=1, threads=before + 1, device="cpu")
    train(model, problem.x, problem.y, config=config, progress=False)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


def test_every_sample_is_seen_once_an_epoch(problem: "Problem") -> None:
    seen: list[Tensor] = []
    model = problem.model()
    model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone()) if module.training else None
    )
    config = TrainingConfig(epochs=2, batch_size=50, device="cpu")
    train(model, problem.x, problem.y, config=config, progress=False)
    assert [len(batch) for batch in seen] == [50, 50, 20] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        rows = sorted(map(tuple, epoch.flatten(1).tolist()))
        assert rows == sorted(map(tuple, problem.x.flatten(1).tolist()))


def test_any_module_can_be_trained_from_numpy(problem: "Problem") -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    x, y = problem.x.numpy().astype(np.float64), problem.y.numpy().astype(np.int32)
    x.setflags(write=False)
    result = train(model, x, y, config=FAST, progress=False)
    assert result.kept.accuracy > 0.9
    assert result.kept.validation_accuracy is None and result.best_epoch is None


def test_training_stops_at_the_target(problem: "Problem") -> None:
    config = TrainingConfig(
        epochs=50, batch_size=20, learning_rate=0.01, target_accuracy=0.9, device="cpu"
    )
    result = train(
        problem.model(), problem.x, problem.y, config=config, validation=problem.validation
    )
    accuracies = [record.validation_accuracy or 0.0 for record in result.history]
    assert result.stopped == "target" and len(accuracies) < 50
    assert accuracies[-1] >= 0.9 > max(accuracies[:-1])


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_model_keeps_the_weights_asked_for(problem: "Problem", keep: Any) -> None:
    model = problem.model()
    train(model, problem.x, problem.y, config=FAST, progress=False)
    # Wrong labels spoil a good model: it is best after the first epoch and worst after the last.
    wrong = (problem.y + 1) % 3
    config = TrainingConfig(epochs=12, batch_size=20, learning_rate=0.01, keep=keep, device="cpu")
    result = train(model, problem.x, wrong, config=config, validation=problem.validation)
    accuracies = [record.validation_accuracy for record in result.history]
    assert result.best_epoch == 1 + accuracies.index(max(a for a in accuracies if a is not None))
    assert result.best_epoch < 12
    assert result.kept_epoch == (12 if keep == "last" else result.best_epoch)
    assert evaluate(model, *problem.validation).accuracy == result.kept.validation_accuracy


def test_a_loss_that_is_not_finite_stops_with_an_error(problem: "Problem", tmp_path: Path) -> None:
    class Bursts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 3)
            self.calls = itertools.count()

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.layer(x.flatten(1))
            if self.training and next(self.calls) == 8:
                scores = scores * math.nan
            return scores

    with pytest.raises(TrainingDivergedError, match="became nan in epoch 2, by batch 3, .* lower"):
        train(Bursts(), problem.x, problem.y, config=FAST, out=tmp_path, progress=False)
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("1,")


def interrupted(problem: "Problem", call: int, out: Path | None) -> TrainingInterrupted:
    model = problem.model()
    calls = itertools.count()

    def interrupt(module: nn.Module, args: Any) -> None:
        if module.training and next(calls) == call:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(model, problem.x, problem.y, config=FAST, out=out, progress=False)
    assert isinstance(caught.value, TrainingInterrupted)
    return caught.value


def test_ctrl_c_says_how_to_go_on(problem: "Problem", tmp_path: Path) -> None:
    error = interrupted(problem, 15, tmp_path)
    assert (error.epoch, error.checkpoint) == (3, tmp_path / "checkpoint.safetensors")
    assert f"{error.checkpoint} holds everything up to the end of epoch 2" in str(error)
    assert "resume=True" in str(error)
    result = train(problem.model(), problem.x, problem.y, config=FAST, out=tmp_path, resume=True)
    assert len(result.history) == 12


def test_ctrl_c_without_a_checkpoint_says_that_nothing_is_saved(
    problem: "Problem", tmp_path: Path
) -> None:
    assert "no folder was given" in str(interrupted(problem, 15, None))
    early = interrupted(problem, 2, tmp_path)
    assert early.checkpoint is None
    assert "nothing is saved yet" in str(early)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [[1.0]]}, TypeError, "x must be an array or tensor, not list"),
        ({"x": torch.ones(120, 4, 3, 1).int()}, TypeError, "x must hold floating-point numbers"),
        ({"x": torch.ones(120)}, ValueError, r"x must have shape \(n, …\) .* not \(120,\)"),
        ({"x": torch.ones(0, 4, 3, 1)}, ValueError, r"n >= 1, not \(0, 4, 3, 1\)"),
        ({"x": torch.full((120, 4, 3, 1), math.nan)}, ValueError, "x holds NaN or infinity"),
        ({"x": torch.ones(120, 4, 3)}, ValueError, r"x must have shape \(n, 4, 3, 1\)"),
        (
            {"y": torch.zeros(119).long()},
            ValueError,
            r"y must have shape \(120,\), .* not \(119,\)",
        ),
        ({"y": torch.zeros(120)}, TypeError, "y must hold integers, not torch.float32"),
        ({"y": torch.zeros(120).bool()}, TypeError, "y must hold integers, not torch.bool"),
        ({"y": [0] * 120}, TypeError, "y must be an array or tensor, not list"),
        ({"y": torch.full((120,), -1)}, ValueError, "y must hold classes from 0, not -1"),
        ({"y": torch.full((120,), 3)}, ValueError, "y has class 3; the model knows 0 to 2"),
        ({"model": nn.Identity()}, ValueError, r"model must have parameters"),
        ({"model": nn.Linear(1, 5)}, ValueError, r"scores of shape \(n, classes\), not \(2, 4, 3"),
        ({"resume": True}, ValueError, "resume and tensorboard need the folder of the run"),
        ({"tensorboard": True}, ValueError, "resume and tensorboard need the folder of the run"),
        (
            {"config": TrainingConfig(target_accuracy=0.5)},
            ValueError,
            "need validation data: give validation",
        ),
        ({"config": TrainingConfig(keep="best")}, ValueError, "keep='best' need validation data"),
        (
            {"validation": (torch.ones(3, 4, 3, 1), torch.ones(2).long())},
            ValueError,
            r"validation\[1\] must have shape \(3,\), one class for each of validation\[0\]",
        ),
    ],
)
def test_arguments_are_refused_by_name(
    problem: "Problem", change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {"model": problem.model(), "x": problem.x, "y": problem.y}
    with pytest.raises(error, match=message):
        train(**(given | change))


def test_evaluating_leaves_the_mode_and_the_gradients(problem: "Problem") -> None:
    model = problem.model(dropout=0.5).train()
    first = predict(model, problem.x)
    assert torch.equal(first, predict(model, problem.x))
    assert model.training and not first.requires_grad
