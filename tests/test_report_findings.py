# SPDX-License-Identifier: Apache-2.0
import itertools
from dataclasses import replace

import numpy as np
import pytest
from studies import make_study

from pyrel import metrics
from pyrel.report.findings import findings


@pytest.fixture(scope="module")
def study():
    return make_study()


def with_measure(study, cell, method, values, name="share"):
    result = study.cells[cell]
    evaluation = replace(result.evaluations[method], **{name: metrics.Summary.of(values)})
    result = replace(result, evaluations=result.evaluations | {method: evaluation})
    return replace(study, cells=study.cells | {cell: result})


def test_findings_name_the_best_and_who_is_ahead(study):
    n = len(study.relevant)
    wave = np.resize([-0.01, 0.01], n)
    study = with_measure(study, "Deep", "deep_taylor", 0.9 + wave)
    study = with_measure(study, "Shallow", "deep_taylor", 0.8 - wave)
    study = with_measure(study, "Deep", "sensitivity", 0.6 + wave)
    study = with_measure(study, "Shallow", "sensitivity", 0.6 - wave)
    found = [f.replace("\u00a0", " ") for f in findings(study)]
    assert found[0].startswith(
        "The largest share of relevance in the steps of the majority: Deep Taylor on Deep, "
        "0.900 ± 0.002. All others have clearly less."
    )
    assert "an even map has 0.667 there" in found[0]
    # Alternating ±0.02 around 0.1: standard error 0.02 / sqrt(29).
    assert (
        "Deep has clearly more relevance there than Shallow, with Deep Taylor (by 0.100 ± 0.004)."
    ) in found
    assert any(
        f.startswith("Deep and Shallow do not differ clearly, with Sensitivity") for f in found
    )


def test_findings_name_no_best_where_others_are_as_good_sample_by_sample(study):
    """Means alike, and errors of them: what decides is the difference in the same samples."""
    spread = np.linspace(-0.2, 0.2, len(study.relevant))
    wave = np.resize([-0.01, 0.01], len(study.relevant))
    study = with_measure(study, "Deep", "deep_taylor", 0.7 + spread)
    # The standard error of wave is 0.01 / sqrt(29) = 0.0019.
    study = with_measure(study, "Deep", "sensitivity", 0.7 - 0.0037 + spread + wave)
    study = with_measure(study, "Shallow", "deep_taylor", 0.7 - 0.0038 + spread + wave)
    # Lower than the others by far more than 0.004, but at random with them.
    study = with_measure(study, "Shallow", "sensitivity", 0.7 - 0.02 - spread)
    best = findings(study)[0].replace("\u00a0", " ")
    assert "majority: Deep Taylor on Deep, 0.700 ±" in best
    assert "Not clearly less: Sensitivity on Shallow and Deep. Without any model" in best


def test_findings_say_who_is_above_and_below_the_pixels(study):
    mass = study.baselines["pixel_mass"]
    # Over pixel mass by ±0.01 in turn, of mean 0 and of standard error 0.01 / sqrt(29) = 0.0019:
    # a shift by 0.0037 is not clear, one by 0.0038 is.
    wave = np.resize([-0.01, 0.01], len(study.relevant))
    shifts = {
        ("Shallow", "sensitivity"): 0.0037,
        ("Shallow", "deep_taylor"): -0.0038,
        ("Deep", "sensitivity"): -0.0037,
        ("Deep", "deep_taylor"): 0.0038,
    }
    for (cell, method), shift in shifts.items():
        study = with_measure(study, cell, method, mass.share.values + wave + shift)
    assert (
        "Clearly more relevance there than pixel mass: Deep Taylor on Deep. Clearly less relevance "
        "there than pixel mass: Deep Taylor on Shallow. Not clearly more or less relevance there "
        "than pixel mass: Sensitivity on Shallow and Deep."
    ) in findings(study)


def test_findings_say_when_all_are_above_the_pixels(study):
    mass = study.baselines["pixel_mass"].share
    for cell, method, _ in study.evaluations():
        if cell:
            study = with_measure(study, cell, method, mass.values + 0.01)
    every = "Clearly more relevance there than pixel mass: every method on every model."
    assert every in findings(study)


def with_scores(study, cell, method, scores):
    """Put other degradation curves in the place of those of one method."""
    result = study.cells[cell]
    curve = metrics.Degradation(result.degradation.random.removed, scores)
    made = replace(result.degradation, curves=result.degradation.curves | {method: curve})
    return replace(study, cells=study.cells | {cell: replace(result, degradation=made)})


def test_findings_say_whose_curves_fall_fastest(study):
    wave = np.resize([-0.1, 0.1], len(study.relevant))[:, None]
    for cell, method in itertools.product(study.cells, study.methods()):
        below = 0.3 if (cell, method) == ("Deep", "deep_taylor") else 0.1
        random = study.cells[cell].degradation.random.scores
        study = with_scores(study, cell, method, random - below)
    for cell in study.cells:
        # Between the two methods of Deep.
        random = study.cells[cell].degradation.random.scores
        study = with_scores(study, cell, "pixel_mass", random - 0.2)
    fastest, against_random, against_mass = degradation_of(study)
    area = metrics.Summary.of(study.cells["Deep"].degradation.curves["deep_taylor"].area_under())
    told = f"{area.mean:.3f} ± {area.standard_error:.3f}".replace("-", "−")
    assert (
        f"On Deep it falls fastest with Deep Taylor (area under the curve {told}); clearly slower "
        "with all others."
    ) in fastest
    # The two methods of Shallow have one curve.
    assert "On Shallow it falls fastest with Sensitivity" in fastest
    assert "; not clearly slower with Deep Taylor." in fastest
    assert against_random == (
        "Degradation against random order. Clearly faster: every method on every model."
    )
    assert against_mass == (
        "Degradation against the brightest patches first (pixel mass). Clearly faster: Deep Taylor "
        "on Deep. Clearly slower: Sensitivity on Shallow and Deep; Deep Taylor on Shallow. Slower: "
        "bright patches matter more to the model than those named."
    )
    # In turn above and below random order, which is no difference, and so of pixel mass.
    random = study.cells["Deep"].degradation.random.scores
    study = with_scores(study, "Deep", "sensitivity", random + wave)
    study = with_scores(study, "Deep", "pixel_mass", random)
    study = with_scores(
        study, "Shallow", "pixel_mass", study.cells["Shallow"].degradation.random.scores
    )
    _, against_random, against_mass = degradation_of(study)
    unclear = "Not clearly faster or slower: Sensitivity on Deep."
    assert against_random.endswith(unclear)
    assert against_mass.endswith(unclear)


def degradation_of(study):
    return [f.replace("\u00a0", " ") for f in findings(study) if f.startswith("Degradation")]


def test_findings_warn_of_what_is_not_to_be_trusted(study):
    deep = study.cells["Deep"]
    lost = metrics.Summary.of(np.resize([1e-7, 3e-4], len(study.relevant)))
    evaluations = deep.evaluations | {
        "deep_taylor": replace(deep.evaluations["deep_taylor"], conservation=lost)
    }
    guess = metrics.Summary.of(np.resize([True, False], len(study.relevant)))
    worse = replace(deep, evaluations=evaluations, accuracy=guess)
    found = findings(replace(study, cells=study.cells | {"Deep": worse}))
    assert any(
        f.startswith("Deep Taylor on Deep does not conserve relevance: up to 3.0 × 10⁻⁴")
        for f in found
    )
    assert any(
        f.startswith("Relevance is conserved by Deep Taylor on Shallow: with") for f in found
    )
    assert any(f.startswith("Deep classifies only 0.500") for f in found)
    assert not any(f.startswith("Shallow classifies") for f in found)
    assert any("at most 1 of 30: Sensitivity on Shallow and Deep." in f for f in found)
