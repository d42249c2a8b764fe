# SPDX-License-Identifier: Apache-2.0
"""The runs of `signal`: the linear model, VGG with its patterns and maps, patterns of Deep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.capture.capture import capture
from pyrel.experiment.degradation import PIXEL_MASS, relevance_of
from pyrel.experiment.linear_model import LinearModel, root_mean_square_angles
from pyrel.experiment.problem import HIGH, LOW, Images, Problem
from pyrel.experiment.reproduce.experiment import Settings
from pyrel.experiment.reproduce.pictures import in_bytes, scaled
from pyrel.experiment.reproduce.runs import Found, Run
from pyrel.experiment.reproduce.trained import (
    first_of_each_class,
    images_of,
    train_to_minimum,
    training_config,
)
from pyrel.experiment.training import new_cell
from pyrel.explainer import Explainer
from pyrel.methods import Method, get
from pyrel.metrics import (
    Degradation,
    Perturbation,
    Summary,
    degradation,
    paired_difference,
    patch_regions,
    pixel_mass_map,
    random_degradation,
)
from pyrel.patterns import ESTIMATORS, LayerQuality, Patterns, fit, quality
from pyrel.training import TrainingConfig

DISTRACTORS = ((1.0, 1.0), (0.0, 1.0), (-1.0, 2.0), (3.0, 0.5))  # the first is the seminar's
COUNTS = (100, 1_000, 10_000)  # samples that the linear model is fitted to
PATCH = 4  # side of a patch in pixels: 49 of an image
REMOVED = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 49)
SHOWN = (1, 2, 5, 8, 9)  # classes of the panels
STEPS = 7  # of the sequences that Deep reads

# Label -> method and options. The estimators of the signal, as the seminar orders them.
ATTRIBUTIONS = {
    "S_x": ("pattern_attribution", {"estimator": "identity"}),
    "S_w": ("pattern_attribution", {"estimator": "filter"}),
    "S_a": ("pattern_attribution", {"estimator": "linear"}),
    "S_a+−": ("pattern_attribution", {"estimator": "two_component"}),
    "S_random": ("pattern_attribution", {"estimator": "random"}),
}
SIGNALS = {
    "S_w": ("pattern_net", {"estimator": "filter"}),
    "S_a": ("pattern_net", {"estimator": "linear"}),
    "S_a+−": ("pattern_net", {"estimator": "two_component"}),
    "S_random": ("pattern_net", {"estimator": "random"}),
}
# The methods without patterns, by what the figures group them by, with their options.
BY_GRADIENT: dict[str, dict[str, Any]] = {
    **{"gradient": {}, "smoothgrad": {}, "sensitivity": {}, "deconvnet": {}, "guided_backprop": {}},
    **{"gradient_x_input": {}, "integrated_gradients": {}, "occlusion": {"patch": PATCH}},
}
BY_RELEVANCE: dict[str, dict[str, Any]] = {
    **{"deep_taylor": {}, "lrp_epsilon": {}, "lrp_alpha_beta": {}, "lrp_gamma": {}},
    **{"epsilon_plus": {}, "epsilon_alpha2_beta1": {}, "epsilon_gamma_box": {}},
}
OTHERS = {**BY_GRADIENT, **BY_RELEVANCE}

DEGRADED = (*(f"attribution {label}" for label in ATTRIBUTIONS), "signal S_a+−", *OTHERS)

LABELS = {  # of estimators
    "identity": "S_x",
    "filter": "S_w",
    "linear": "S_a",
    "two_component": "S_a+−",
    "random": "S_random",
}
RANDOM = "random order"

_EPOCHS = 2  # convolutions of these sizes pass the minimum of table 4.3 by then
_QUICK_SIZES = (8, 8, 16)  # with fewer maps the first weights leave all units silent

_Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How many samples take part.

    Attributes
    ----------
    half : int
        Training images that patterns of VGG are fitted to, and as many others that ρ is measured
        on. Its first layers have 784 rows an image, so that all images would take hours; with these
        the bound of ρ is above 0 in each layer.
    half_of_sequences : int
        The same of Deep: half of the training images.
    explained : int
        Test images whose maps are judged by degradation.
    random_orders : int
        Of each of these.
    draws : int
        Of the linear model.
    """

    half: int = 10_000
    half_of_sequences: int = 30_000
    explained: int = 500
    random_orders: int = 5
    draws: int = 200


def amounts(settings: Settings) -> Amounts:
    """Return those of the full or the quick way."""
    return Amounts(10, 10, 20, 1, 10) if settings.quick else Amounts()


def dataset(settings: Settings) -> str:
    """Return the data that stand in for ImageNet, or those of the quick way."""
    return "mnist-mini" if settings.quick else "fashion-mnist"


def linear_name(seed: int) -> str:
    """Return the name of a run of the linear model."""
    return f"linear-model-seed-{seed}"


def net_name(settings: Settings, seed: int) -> str:
    """Return the name of a run of the network."""
    return f"{dataset(settings)}-VGG-seed-{seed}"


def deep_name(settings: Settings, seed: int) -> str:
    """Return the name of a run of the recurrent cell."""
    return f"{dataset(settings)}-Deep-{STEPS}-seed-{seed}"


def runs(settings: Settings) -> list[Run]:
    """Return a run of the linear model, one of the network and one of the cell for each seed."""
    kinds = (_linear_run, _net_run, _deep_run)
    return [kind(seed, settings) for seed in range(settings.seeds) for kind in kinds]


def _linear_run(seed: int, settings: Settings) -> Run:
    draws = amounts(settings).draws
    told = {"counts": COUNTS, "distractors": DISTRACTORS, "draws": draws, "seed": seed}
    return Run(linear_name(seed), told, partial(_linear_work, seed, draws))


def _linear_work(seed: int, draws: int, folder: Path) -> Found:
    """Measure angles: for the seminar's model by samples, for the others with the middle number."""
    del folder
    by_count = {str(n): root_mean_square_angles(LinearModel(), n, draws, seed) for n in COUNTS}
    by_distractor = {
        str(i): root_mean_square_angles(LinearModel(distractor=each), COUNTS[1], draws, seed)
        for i, each in enumerate(DISTRACTORS)
    }
    return Found({"by count": by_count, "by distractor": by_distractor}, {})


def _net_run(seed: int, settings: Settings) -> Run:
    problem = Problem(dataset(settings), "sequence", 1)
    usual = training_config(problem, seed, settings.quick)
    config = dataclasses.replace(usual, epochs=usual.epochs if settings.quick else _EPOCHS)
    how_many = amounts(settings)
    told = {
        **{"cell": "VGG", "data": vars(problem), "training": config.to_dict()},
        **{"half": how_many.half, "explained": how_many.explained},
        **{"random orders": how_many.random_orders, "patch": PATCH, "removed": REMOVED},
        **{"methods": _told_methods(), "quick": settings.quick},
    }
    return Run(net_name(settings, seed), told, partial(_net_work, problem, config, settings))


def _told_methods() -> list[str]:
    told = [f"{name} {options['estimator']}" for name, options in ATTRIBUTIONS.values()]
    told += [f"{name} {options['estimator']}" for name, options in SIGNALS.values()]
    return [*told, *(repr(get(name, **options)) for name, options in OTHERS.items())]


def _net_work(problem: Problem, config: TrainingConfig, settings: Settings, folder: Path) -> Found:
    how_many = amounts(settings)
    train, test = images_of(problem, settings, 2 * how_many.half)
    sizes = _QUICK_SIZES if settings.quick else None
    make = partial(new_cell, "VGG", problem, seed=config.seed, sizes=sizes)
    trained = train_to_minimum(make, problem, (train, test), config, folder)
    model = trained.cell.model
    x, y, _ = problem.samples(test)
    graph = capture(model, x[:1])
    patterns, measured = _quality(graph, train, problem, how_many.half, config.seed)
    methods = _methods(patterns, config.seed)
    explained = slice(how_many.explained)
    chosen = first_of_each_class(y, SHOWN)
    maps: dict[str, _Floats] = {}
    pictures: dict[str, npt.NDArray[Any]] = {"x": in_bytes(x[chosen])}
    for name, method in methods.items():
        explainer = Explainer(graph, method=method, low=LOW, high=HIGH)
        pictures[f"map {name}"] = scaled(explainer(x[chosen], y[chosen]).relevance)
        if name in DEGRADED:
            maps[name] = relevance_of(explainer, x[explained], y[explained])
    curves = _curves(explainer, x[explained], y[explained], maps, how_many, config.seed)
    numbers = trained.numbers() | {
        "quality": measured,
        "degradation": _degradation_numbers(curves),
    }
    scores = {f"scores {name}": each.scores.astype(np.float16) for name, each in curves.items()}
    return Found(numbers, pictures | scores if config.seed == 0 else {})


def _deep_run(seed: int, settings: Settings) -> Run:
    problem = Problem(dataset(settings), "sequence", STEPS)
    config, half = (
        training_config(problem, seed, settings.quick),
        amounts(settings).half_of_sequences,
    )
    told = {
        **{"cell": "Deep", "data": vars(problem), "training": config.to_dict(), "half": half},
        "quick": settings.quick,
    }
    work = partial(_deep_work, problem, config, settings)
    return Run(deep_name(settings, seed), told, work)


def _deep_work(problem: Problem, config: TrainingConfig, settings: Settings, folder: Path) -> Found:
    half = amounts(settings).half_of_sequences
    train, test = images_of(problem, settings, 2 * half)
    make = partial(new_cell, "Deep", problem, seed=config.seed)
    trained = train_to_minimum(make, problem, (train, test), config, folder)
    graph = capture(trained.cell.model, problem.samples(test)[0][:1])
    _, measured = _quality(graph, train, problem, half, config.seed)
    return Found(trained.numbers() | {"quality": measured}, {})


def _quality(
    graph: Any, images: Images, problem: Problem, half: int, seed: int
) -> tuple[Patterns, list[dict[str, Any]]]:
    """Fit patterns to one half of training images, and measure ρ on the other."""
    seen, held_out = _halves(images, problem, half, seed)
    patterns = fit(graph, seen)
    layers = quality(graph, patterns, held_out, seed=seed)
    return patterns, [_layer_numbers(each, len(held_out)) for each in layers]


def _halves(images: Images, problem: Problem, half: int, seed: int) -> tuple[_Floats, _Floats]:
    """Return two parts of the training images without an image in common, drawn by the seed."""
    drawn = np.random.default_rng([seed, half]).permutation(len(images[1]))[: 2 * half]
    x, _, _ = problem.samples((images[0][drawn], images[1][drawn]))
    return x[:half], x[half:]


def _methods(patterns: Patterns, seed: int) -> dict[str, Method]:
    """Make the methods: "attribution" or "signal" and the estimator, or the name of another."""
    made: dict[str, Method] = {}
    for kind, labels in (("attribution", ATTRIBUTIONS), ("signal", SIGNALS)):
        for label, (name, options) in labels.items():
            given: dict[str, Any] = dict(options)
            if options["estimator"] in ("linear", "two_component"):
                given["patterns"] = patterns
            if options["estimator"] == "random":
                given["seed"] = seed
            made[f"{kind} {label}"] = get(name, **given)
    return made | {name: get(name, **options) for name, options in OTHERS.items()}


def _layer_numbers(layer: LayerQuality, images: int) -> dict[str, Any]:
    """Return what is kept of ρ; the bound is 1 − 1.2 √(2 d / n), n being images, not rows."""
    return {
        "module": layer.module,
        "rows": layer.rows,
        "rank": layer.rank,
        "bound": 1 - 1.2 * float(np.sqrt(2 * layer.rank / images)),
        "values": {name: layer.mean(name) for name in ESTIMATORS},
        "without": int(np.isnan(layer.values["linear"]).sum()),
    }


def _curves(
    explainer: Explainer,
    x: _Floats,
    y: npt.NDArray[np.int64],
    maps: Mapping[str, _Floats],
    how_many: Amounts,
    seed: int,
) -> dict[str, Degradation]:
    """Degrade images in the order of each map, of pixel mass, and at random."""
    how = Perturbation(patch_regions(x.shape[1:], PATCH))
    ordered = {**maps, PIXEL_MASS: pixel_mass_map(x, LOW)}
    forward = explainer.forward
    curves = {
        name: degradation(forward, x, relevance, y, how=how, removed=REMOVED)
        for name, relevance in ordered.items()
    }
    curves[RANDOM] = random_degradation(
        forward, x, y, how=how, removed=REMOVED, draws=how_many.random_orders, seed=seed
    )
    return curves


def _degradation_numbers(curves: Mapping[str, Degradation]) -> dict[str, Any]:
    """Return curves and areas by map, and how far each lies below random order."""
    areas = {name: Summary.of(curve.area_under()) for name, curve in curves.items()}
    return {
        "samples": len(curves[RANDOM].scores),
        "removed": list(REMOVED),
        "curves": {name: np.round(curve.mean, 6).tolist() for name, curve in curves.items()},
        "area": {name: area.mean for name, area in areas.items()},
        "empty": {name: area.left_out for name, area in areas.items()},
        "below random order": {
            name: paired_difference(areas[RANDOM], area).to_dict() for name, area in areas.items()
        },
    }
