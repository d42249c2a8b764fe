# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrel import metrics

STEPS, HEIGHT, WIDTH = 12, 28, 7

# A share or cosine is a ratio of float64 sums of at most 2352 terms of one sign, and the reference
# sums in another order: each sum is off by less than 2352 eps, a ratio with a root by under four.
ROUNDING = 4 * 2352 * np.finfo(np.float64).eps


def majority_mask(n, seed=0):
    odd = np.random.default_rng(seed).integers(0, 3, size=n)
    return np.repeat(odd[:, None] != np.arange(3), STEPS // 3, axis=1)


def random_maps(n, seed=0, signed=True):
    maps = np.random.default_rng(seed).normal(size=(n, STEPS, HEIGHT, WIDTH)).astype(np.float32)
    return maps if signed else np.abs(maps)


def parts(relevance, relevant, groups):
    """Slow reference: relevance and relevance-indicator of each group of steps."""
    m, v = [0.0] * groups, [0.0] * groups
    for t in range(STEPS):
        group = t * groups // STEPS
        v[group] = float(relevant[t])
        m[group] += sum(max(0.0, float(r)) for r in relevance[t].ravel())
    return m, v


def cosine(m, v):
    dot = sum(a * b for a, b in zip(m, v, strict=True))
    return dot / (sum(a * a for a in m) * sum(b * b for b in v)) ** 0.5


@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
def test_share_and_cosine_equal_a_slow_reference(signed):
    relevance, relevant = random_maps(5, signed=signed), majority_mask(5)
    share = metrics.relevance_in_region(relevance, relevant)
    by_digit = metrics.cosine_similarity(relevance, relevant, level="digit")
    by_step = metrics.cosine_similarity(relevance, relevant, level="step")
    for i in range(5):
        m, v = parts(relevance[i], relevant[i], STEPS)
        inside = sum(a for a, b in zip(m, v, strict=True) if b)
        assert share[i] == pytest.approx(inside / sum(m), rel=ROUNDING)
        assert by_step[i] == pytest.approx(cosine(m, v), rel=ROUNDING)
        assert by_digit[i] == pytest.approx(
            cosine(*parts(relevance[i], relevant[i], 3)), rel=ROUNDING
        )
    assert share.dtype == by_digit.dtype == by_step.dtype == np.float64


def test_uniform_map_has_share_two_thirds_and_cosine_root_of_it():
    relevant = majority_mask(40)
    uniform = metrics.uniform_map(np.zeros((40, STEPS, HEIGHT, WIDTH)))
    np.testing.assert_allclose(metrics.relevance_in_region(uniform, relevant), 2 / 3, rtol=ROUNDING)
    for level in ("digit", "step"):
        cosines = metrics.cosine_similarity(uniform, relevant, level=level)
        np.testing.assert_allclose(cosines, np.sqrt(2 / 3), rtol=ROUNDING)


def test_levels_differ_where_relevance_is_uneven_inside_the_digits():
    relevant = majority_mask(1)
    relevance = np.zeros((1, STEPS, HEIGHT, WIDTH))
    first = np.flatnonzero(relevant[0])[[0, 4]]
    relevance[0, first] = 1.0
    assert metrics.cosine_similarity(relevance, relevant, "digit") == pytest.approx(
        1.0, rel=ROUNDING
    )
    # Two of eight relevant steps hold everything: 2 / (sqrt(2) sqrt(8)).
    assert metrics.cosine_similarity(relevance, relevant, "step") == pytest.approx(
        0.5, rel=ROUNDING
    )


def test_perfect_and_opposite_maps_are_the_ends_of_the_scales():
    relevant = majority_mask(9)
    perfect = np.broadcast_to(relevant[:, :, None, None], (9, STEPS, HEIGHT, WIDTH)).astype(float)
    for level in ("digit", "step"):
        cosines = metrics.cosine_similarity(perfect, relevant, level)
        np.testing.assert_allclose(cosines, 1.0, rtol=ROUNDING)
        assert cosines.max() <= 1.0
        assert (metrics.cosine_similarity(1 - perfect, relevant, level) == 0).all()
    np.testing.assert_allclose(metrics.relevance_in_region(perfect, relevant), 1.0, rtol=ROUNDING)
    assert (metrics.relevance_in_region(1 - perfect, relevant) == 0).all()


def test_cosine_of_a_perfect_map_is_not_rounded_above_one():
    # 21 shares of 1/21: their sum over the root of 21 times their squares rounds to 1 + 2 eps.
    cosine = metrics.cosine_similarity(np.ones((1, 21, 1)), np.ones((1, 21), bool), level="step")
    assert cosine == 1.0


def test_negative_relevance_counts_nowhere():
    relevant = majority_mask(6)
    relevance = random_maps(6)
    positive = np.maximum(relevance, 0)
    for measure in (metrics.relevance_in_region, metrics.cosine_similarity):
        np.testing.assert_array_equal(measure(relevance, relevant), measure(positive, relevant))


def test_an_empty_map_is_nan_and_leaves_the_others_alone():
    relevance, relevant = random_maps(4), majority_mask(4)
    alone = metrics.relevance_in_region(relevance, relevant)
    relevance[1] = 0.0
    relevance[2] = -np.abs(relevance[2])
    for measure in (metrics.relevance_in_region, metrics.cosine_similarity):
        assert np.isnan(measure(relevance, relevant)).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(
        metrics.relevance_in_region(relevance, relevant)[[0, 3]], alone[[0, 3]]
    )


# At 1e-42, a float32 denormal, squares of the sums would vanish even in float64.
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_scale_of_the_map_does_not_matter(scale):
    relevance, relevant = np.abs(random_maps(3)).astype(np.float64), majority_mask(3)
    for level in ("digit", "step"):
        plain = metrics.cosine_similarity(relevance, relevant, level)
        scaled = metrics.cosine_similarity(relevance * scale, relevant, level)
        np.testing.assert_allclose(scaled, plain, rtol=ROUNDING)


def test_smallest_positive_float32_is_not_an_empty_map():
    relevance = np.zeros((1, STEPS, HEIGHT, WIDTH), np.float32)
    relevance[0, 0, 0, 0] = np.finfo(np.float32).smallest_subnormal
    relevant = np.zeros((1, STEPS), dtype=bool)
    relevant[0, :4] = True
    assert metrics.relevance_in_region(relevance, relevant) == 1.0


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025], ids=lambda n: f"n={n}")
def test_any_number_of_samples_gives_what_single_samples_give(n):
    relevance = np.random.default_rng(n).normal(size=(n, STEPS, 2, 1)).astype(np.float32)
    relevant = majority_mask(n, seed=n)
    share = metrics.relevance_in_region(relevance, relevant)
    assert share.shape == (n,)
    for i in range(0, n, 256):
        single = metrics.relevance_in_region(relevance[i : i + 1], relevant[i : i + 1])
        np.testing.assert_array_equal(single, share[i : i + 1])


def test_memory_map_and_integers_are_taken(tmp_path):
    relevance, relevant = np.arange(24, dtype=np.int64).reshape(2, 12, 1, 1), majority_mask(2)
    np.save(tmp_path / "r.npy", relevance)
    mapped = np.load(tmp_path / "r.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        metrics.relevance_in_region(mapped, relevant),
        metrics.relevance_in_region(relevance.astype(np.float64), relevant),
    )


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=12, max_size=12),
    st.integers(0, 2),
    st.sampled_from(["digit", "step"]),
)
def test_measures_stay_in_their_range_and_bound_each_other(values, odd, level):
    relevance = np.array(values, dtype=np.float32).reshape(1, 12, 1, 1)
    relevant = np.repeat(np.arange(3) != odd, 4)[None]
    share = metrics.relevance_in_region(relevance, relevant)[0]
    cosine = metrics.cosine_similarity(relevance, relevant, level)[0]
    assert np.isnan(share) == np.isnan(cosine) == (max(values) == 0)
    if max(values) > 0:
        assert 0 <= share <= 1 + ROUNDING
        assert 0 <= cosine <= 1
        # Cauchy-Schwarz, m·v = share and |m| >= sum(m) / sqrt(groups).
        groups, ones = (3, 2) if level == "digit" else (12, 8)
        assert cosine <= share * np.sqrt(groups / ones) + ROUNDING


BAD = {
    "mask of another shape": (
        np.ones((2, 12, 1)),
        np.ones((2, 11), bool),
        ValueError,
        r"\(2, 11\)",
    ),
    "mask of other samples": (
        np.ones((2, 12, 1)),
        np.ones((3, 12), bool),
        ValueError,
        r"\(3, 12\)",
    ),
    "mask of integers": (np.ones((2, 12, 1)), np.ones((2, 12), int), TypeError, "int64"),
    "no relevant step": (np.ones((2, 12, 1)), np.zeros((2, 12), bool), ValueError, "none in 0"),
    "one axis": (np.ones(12), np.ones((1, 12), bool), ValueError, r"\(12,\)"),
    "no steps": (np.ones((2, 0, 3)), np.ones((2, 0), bool), ValueError, r"\(2, 0, 3\)"),
    "complex": (np.ones((2, 12, 1), complex), np.ones((2, 12), bool), TypeError, "complex128"),
    "NaN": (np.full((2, 12, 1), np.nan), np.ones((2, 12), bool), ValueError, "sample 0"),
    "infinity": (np.full((2, 12, 1), np.inf), np.ones((2, 12), bool), ValueError, "sample 0"),
}


@pytest.mark.parametrize(
    ("relevance", "relevant", "error", "message"), BAD.values(), ids=BAD.keys()
)
@pytest.mark.parametrize("measure", [metrics.relevance_in_region, metrics.cosine_similarity])
def test_bad_input_is_named(measure, relevance, relevant, error, message):
    with pytest.raises(error, match=message):
        measure(relevance, relevant)


def test_the_sample_with_nan_is_named_across_slabs():
    relevance = np.ones((2050, 3, 1))
    relevance[2049, 1] = np.nan
    with pytest.raises(ValueError, match="relevance: NaN or infinity in sample 2049"):
        metrics.relevance_in_region(relevance, np.ones((2050, 3), bool))


def test_digit_level_refuses_what_has_no_digits():
    with pytest.raises(ValueError, match="14 steps cannot be divided into 3"):
        metrics.cosine_similarity(np.ones((1, 14, 1)), np.ones((1, 14), bool))
    partly = np.zeros((1, 12), bool)
    partly[0, 2] = True
    with pytest.raises(ValueError, match="sample 0 marks part of a digit"):
        metrics.cosine_similarity(np.ones((1, 12, 1)), partly)
    assert metrics.cosine_similarity(np.ones((1, 12, 1)), partly, level="step") > 0
    with pytest.raises(ValueError, match="'pixel'"):
        metrics.cosine_similarity(np.ones((1, 12, 1)), partly, level="pixel")
