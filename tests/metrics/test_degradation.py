# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from metrics.erasing import EPS, score_of, small_model, sorted_regions, without

from pyrel import metrics

SHAPE = (3, 4, 2)  # steps, height, width


@pytest.fixture
def case():
    rng = np.random.default_rng(1)
    x = rng.random((5, *SHAPE))
    return small_model(24), x, rng.normal(size=x.shape), rng.integers(0, 3, 5)


REGIONS = {
    "pixels": metrics.pixel_regions(SHAPE),
    "patches": metrics.patch_regions(SHAPE, 2),
    "patches over steps": metrics.patch_regions(SHAPE, 3),
    "patches in channels": metrics.patch_regions(SHAPE, 2, layout="channels"),
    "steps": metrics.step_regions(SHAPE),
}


@pytest.mark.parametrize("order", ["most_relevant", "least_relevant"])
@pytest.mark.parametrize("score", ["probability", "log_probability", "log_odds", "output"])
@pytest.mark.parametrize("name", REGIONS)
def test_curves_are_those_of_one_region_after_the_other(case, name, score, order):
    forward, x, relevance, target = case
    regions = REGIONS[name]
    replacement = 0.25 if name == "pixels" else "mean"
    how = metrics.Perturbation(regions, replacement, score)
    found = metrics.degradation(forward, x, relevance, target, how=how, order=order)
    assert found.removed.tolist() == list(range(regions.count + 1))
    for i, sample in enumerate(x):
        in_order = sorted_regions(relevance[i], regions, order == "most_relevant")
        copies = [without(sample, regions, in_order[:k], replacement) for k in found.removed]
        wanted = [score_of(z, target[i], score) for z in forward(np.stack(copies))]
        # 24 terms, then 8 of the outputs, which softmax passes on with at most their size.
        np.testing.assert_allclose(found.scores[i], wanted, rtol=0, atol=2000 * EPS)


def test_patches_stand_in_the_picture_of_the_steps_side_by_side():
    labels = metrics.patch_regions((3, 4, 2), 3).labels
    picture = np.concatenate(list(labels), axis=1)
    assert picture.tolist() == [[0] * 3 + [1] * 3] * 3 + [[2] * 3 + [3] * 3]
    assert metrics.patch_regions((12, 28, 7), 7).count == 48


def test_a_patch_goes_through_all_channels_and_has_a_mean_in_each():
    x = np.zeros((1, 2, 2, 2))
    x[0, 1] = 4.0
    x[0, :, 0, 0] += 4.0
    regions = metrics.patch_regions((2, 2, 2), 2, layout="channels")
    assert regions.count == 1
    filled = metrics.Perturbation(regions).fill(x)
    assert filled.tolist() == [[1.0] * 4 + [5.0] * 4]


def test_small_batches_give_the_same_curves_and_hold_the_bound(case):
    forward, x, relevance, target = case
    seen = []

    def watched(batch):
        seen.append(batch.nbytes)
        return forward(batch)

    how = [metrics.Perturbation(REGIONS["patches"], max_bytes=size) for size in (2**25, 700, 1)]
    curves = [metrics.degradation(watched, x, relevance, target, how=h) for h in how]
    assert max(seen) > 700
    for one in curves[1:]:
        np.testing.assert_allclose(one.scores, curves[0].scores, atol=200 * EPS)
    seen.clear()
    metrics.degradation(watched, x, relevance, target, how=how[1])
    assert max(seen) <= 700


def test_progress_counts_copies_to_their_end(case):
    forward, x, relevance, target = case
    told = []
    how = metrics.Perturbation(REGIONS["steps"], max_bytes=800)
    metrics.degradation(
        forward, x, relevance, target, how=how, progress=lambda *done: told.append(done)
    )
    assert told[-1] == (20, 20)
    assert told == sorted(told)
    told.clear()
    metrics.random_degradation(
        forward, x, target, how=how, draws=3, progress=lambda *done: told.append(done)
    )
    assert told[-1] == (60, 60)
    assert told == sorted(told)


def test_the_predicted_class_is_explained_where_none_is_given(case):
    forward, x, relevance, _ = case
    how = metrics.Perturbation(REGIONS["steps"])
    predicted = forward(x).argmax(axis=1)
    given = metrics.degradation(forward, x, relevance, predicted, how=how)
    alone = metrics.degradation(forward, x, relevance, how=how)
    np.testing.assert_array_equal(alone.scores, given.scores)


def test_tokens_are_replaced_by_a_token():
    x = np.array([[3, 1, 2], [5, 5, 4]])
    how = metrics.Perturbation(metrics.pixel_regions((3,)), replacement=0, score="output")
    seen = []

    def forward(ids):
        assert ids.dtype == x.dtype
        seen.append(ids)
        return ids.sum(axis=1).astype(float)

    found = metrics.degradation(forward, x, [[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]], how=how)
    assert found.scores.tolist() == [[6, 4, 3, 0], [14, 9, 5, 0]]
    with pytest.raises(TypeError, match="replacement: wanted a whole number"):
        steps = metrics.Perturbation(metrics.pixel_regions((3,)), replacement=0.5)
        metrics.degradation(forward, x, np.ones((2, 3)), how=steps)


def test_an_empty_map_is_left_out(case):
    forward, x, relevance, target = case
    relevance[2] = 0.0
    how = metrics.Perturbation(REGIONS["steps"])
    found = metrics.degradation(forward, x, relevance, target, how=how)
    assert np.isnan(found.scores[2]).all()
    assert found.used == 4
    area = metrics.Summary.of(found.area_under())
    assert (area.used, area.left_out) == (4, 1)
    kept = np.delete(found.scores, 2, axis=0)
    np.testing.assert_allclose(found.mean, kept.mean(axis=0), rtol=8 * EPS)
    np.testing.assert_allclose(found.standard_error, kept.std(axis=0, ddof=1) / 2, rtol=16 * EPS)


def test_the_band_holds_the_mean_and_widens_with_the_level():
    found = metrics.Degradation(np.arange(2), np.array([[1.0, 0.0], [3.0, 1.0]]))
    low, high = found.band(0.95)
    # Two values a, b: error |a - b| / 2; the quantile 0.975 of the normal distribution.
    np.testing.assert_allclose(high - found.mean, 1.959963984540054 * np.array([1.0, 0.5]))
    np.testing.assert_allclose(found.mean - low, high - found.mean)
    with pytest.raises(ValueError, match="level"):
        found.band(1.0)
    alone = metrics.Degradation(np.arange(2), np.array([[1.0, 0.0]]))
    assert np.isnan(alone.band()[0]).all()


def test_areas_by_hand():
    scores = np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 0.0], [np.nan] * 3])
    under = metrics.area_under_curve(scores, [0, 1, 4])
    # (0.75 + 3 * 0.25) / 4; (1 + 3 * 0.5) / 4.
    np.testing.assert_array_equal(under, [0.375, 0.625, np.nan])
    np.testing.assert_array_equal(metrics.area_over_curve(scores), [0.5, 1 / 3, np.nan])


def test_random_orders_average_to_the_expectation():
    """With an additive model, each region is replaced with the same chance at each point."""
    x = np.arange(1.0, 5.0)[None]
    how = metrics.Perturbation(metrics.pixel_regions((4,)), 0.0, "output")
    draws = 4000
    found = metrics.random_degradation(lambda x: x.sum(axis=1), x, how=how, draws=draws)
    wanted = 10 * (1 - np.arange(5) / 4)
    # One draw has a standard deviation of at most (4 - 1) / 2 * sqrt(4).
    assert (np.abs(found.scores[0] - wanted) < 5 * 3 / np.sqrt(draws)).all()
    assert found.scores[0, 0] == 10
    assert found.scores[0, -1] == 0


def test_random_orders_follow_the_seed_alone(case):
    forward, x, _, target = case
    how = [metrics.Perturbation(REGIONS["patches"], max_bytes=b) for b in (2**20, 900)]
    first, second = (metrics.random_degradation(forward, x, target, how=h, seed=3) for h in how)
    np.testing.assert_allclose(first.scores, second.scores, atol=200 * EPS)
    other = metrics.random_degradation(forward, x, target, how=how[0], seed=4)
    assert np.abs(other.scores - first.scores).max() > 1e-3


def test_no_sample_gives_no_curve(case):
    forward, x, relevance, _ = case
    how = metrics.Perturbation(REGIONS["patches"])
    found = metrics.degradation(forward, x[:0], relevance[:0], how=how)
    assert found.scores.shape == (0, 7)
    assert np.isnan(found.mean).all()


BAD = {
    "x NaN": (dict(x=np.full((5, *SHAPE), np.nan)), "x: NaN or infinity in sample 0"),
    "relevance NaN": (dict(relevance=np.full((5, *SHAPE), np.inf)), "relevance: NaN"),
    "x shape": (dict(x=np.ones((5, 3, 4, 3))), r"x: wanted samples of shape \(3, 4, 2\)"),
    "relevance shape": (dict(relevance=np.ones((5, 3, 4))), "relevance: wanted samples of shape"),
    "relevance count": (dict(relevance=np.ones((4, *SHAPE))), "relevance: wanted 5 samples"),
    "class": (dict(target=3), "target: wanted classes below 3, given 3"),
    "negative class": (dict(target=[0, 1, -1, 2, 0]), "target: wanted classes below 3, given -1"),
    "classes": (dict(target=[0, 1]), r"target: wanted a class or shape \(5,\)"),
    "counts too many": (dict(removed=range(9)), "removed: wanted ascending numbers from 0 to 6"),
    "counts fall": (dict(removed=[2, 1]), "removed: wanted ascending"),
    "counts floats": (dict(removed=[0.5]), "removed: wanted whole numbers"),
    "order": (dict(order="random"), "order: wanted 'most_relevant'"),
    "outputs": (dict(forward=lambda x: np.ones((len(x) + 1, 3))), "forward: wanted outputs of"),
    "outputs NaN": (dict(forward=lambda x: np.full((len(x), 3), np.nan)), "forward: wanted fin"),
    "one output": (dict(forward=lambda x: np.ones(len(x)), target=None), "score: 'probability'"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(case, change, message):
    forward, x, relevance, target = case
    given = dict(forward=forward, x=x, relevance=relevance, target=target) | change
    how = metrics.Perturbation(REGIONS["patches"])
    with pytest.raises(ValueError, match=message):
        metrics.degradation(how=how, **given)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ((REGIONS["pixels"], "mean"), ValueError, "the mean of one element"),
        ((REGIONS["steps"], "blur"), ValueError, "wanted 'mean' or a number, given 'blur'"),
        ((REGIONS["steps"], np.nan), ValueError, "replacement: wanted finite"),
        ((REGIONS["steps"], np.ones(3)), ValueError, r"that broadcasts to \(3, 4, 2\)"),
        ((REGIONS["steps"], True), TypeError, "replacement: wanted numbers"),
        ((REGIONS["steps"], 0.0, "logit"), ValueError, "score: wanted one of probability"),
        ((REGIONS["steps"], 0.0, "output", 0), ValueError, "max_bytes: wanted a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_are_named(settings, kind, message):
    with pytest.raises(kind, match=message):
        metrics.Perturbation(*settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.patch_regions((3, 4, 2), 0), "size: wanted a whole number of at least 1"),
        (lambda: metrics.patch_regions((4,), 2), "sample_shape: wanted two or three axes"),
        (lambda: metrics.patch_regions((4, 4), 2, layout="grey"), "layout: wanted 'sequence'"),
        (lambda: metrics.pixel_regions((0,)), "labels, averaged: wanted one shape"),
        (lambda: metrics.Regions(np.array([0, 2]), np.array([0, 1])), "labels: wanted all"),
        (lambda: metrics.Regions(np.array([0, 1]), np.array([0, 0])), "averaged: wanted elements"),
    ],
)
def test_bad_regions_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_curves_are_named():
    with pytest.raises(ValueError, match="scores: wanted shape"):
        metrics.area_over_curve([1.0, 2.0])
    with pytest.raises(ValueError, match="removed: wanted shape"):
        metrics.area_under_curve([[1.0, 2.0]], [0])
    with pytest.raises(ValueError, match="removed: wanted two ascending"):
        metrics.area_under_curve([[1.0, 2.0]], [1, 0])
