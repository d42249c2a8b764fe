# SPDX-License-Identifier: Apache-2.0
"""A small model, and replacements one sample and one region at a time."""

import numpy as np

EPS = np.finfo(np.float64).eps


def small_model(features, classes=3, seed=0):
    """Two layers of NumPy, smooth and nonlinear in every feature."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(features, 8)), rng.normal(size=(8, classes))

    def forward(x):
        return np.tanh(x.reshape(len(x), features) @ first) @ second

    return forward


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def score_of(z, target, score):
    """Score one row of outputs."""
    p = softmax(z)[target]
    match score:
        case "probability":
            return p
        case "log_probability":
            return np.log(p)
        case "log_odds":
            return np.log(p / (1 - p))
    return z[target]


def elements_of(regions, number):
    return regions.labels == number


def without(sample, regions, numbers, replacement):
    """Replace some regions of a sample, all by what is in the sample as it was."""
    copy = sample.copy()
    for number in numbers:
        where = elements_of(regions, number)
        if isinstance(replacement, str):
            for shared in np.unique(regions.averaged[where]):
                part = regions.averaged == shared
                copy[part] = sample[part].mean()
        else:
            copy[where] = np.broadcast_to(replacement, sample.shape)[where]
    return copy


def sorted_regions(relevance, regions, most=True):
    """Sort the regions of one sample by their relevance, the first of equal ones first."""
    sums = [relevance[elements_of(regions, i)].sum() for i in range(regions.count)]
    return sorted(range(regions.count), key=lambda i: -sums[i] if most else sums[i])
