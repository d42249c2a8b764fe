# SPDX-License-Identifier: Apache-2.0
"""All measures of one method on one cell, per sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.axioms import conservation_error, positivity, total_relevance
from pyrel.metrics.maps import FloatArray, as_per_sample, pixel_mass_map, uniform_map
from pyrel.metrics.region import cosine_to_region, share_in_region
from pyrel.metrics.steps import step_shares
from pyrel.metrics.summary import Summary


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The measures of one set of relevance maps.

    Attributes
    ----------
    share
        Share of relevance in the relevant steps, see `relevance_in_region`.
    cosine_digit, cosine_step
        `cosine_similarity` by digit and by step.
    positivity
        See `positivity`.
    conservation
        `conservation_error` against the relevance put in, or against the output where the method
        is not a propagation method; None where neither is known (baselines).
    propagates
        Whether the method is a propagation method, which ought to conserve.
    step_shares
        (n, steps), see `step_shares`.
    total
        (n,) signed sum of relevance.
    output
        (n,) output of the explained class, or None where no model is behind the map.
    """

    share: Summary
    cosine_digit: Summary
    cosine_step: Summary
    positivity: Summary
    conservation: Summary | None
    propagates: bool
    step_shares: FloatArray
    total: FloatArray
    output: FloatArray | None

    def summaries(self) -> dict[str, Summary | None]:
        """Return the summaries by name, in the order of tables."""
        return {
            "share": self.share,
            "cosine_digit": self.cosine_digit,
            "cosine_step": self.cosine_step,
            "conservation": self.conservation,
            "positivity": self.positivity,
        }


def evaluate(
    relevance: ArrayLike,
    relevant: ArrayLike,
    *,
    output: ArrayLike | None = None,
    start: ArrayLike | None = None,
    absorbed: ArrayLike | None = None,
    digits: int = 3,
) -> Evaluation:
    """Judge the relevance maps of one method.

    Parameters
    ----------
    relevance
        (n, steps, ...).
    relevant
        (n, steps) boolean, the steps of the majority digits.
    output
        (n,) model output of the explained class.
    start
        (n,) relevance put in, for propagation methods (deep Taylor: max(0, output)); None for
        others, whose sums are then compared with `output`.
    absorbed
        (n,) relevance kept on the way; needs `start`.
    digits
        Number of digits in a sequence, for the cosine by digit.

    Raises
    ------
    ValueError
        For mismatched shapes, NaN or infinity, `absorbed` without `start`.
    TypeError
        If `relevance` is not real or `relevant` not boolean.
    """
    if absorbed is not None and start is None:
        raise ValueError("absorbed: given without start; wanted both, or neither")
    shares = step_shares(relevance)
    reference = output if start is None else start
    error = None if reference is None else conservation_error(relevance, reference, absorbed)
    return Evaluation(
        share=Summary.of(share_in_region(shares, relevant)),
        cosine_digit=Summary.of(cosine_to_region(shares, relevant, "digit", digits)),
        cosine_step=Summary.of(cosine_to_region(shares, relevant, "step")),
        positivity=Summary.of(positivity(relevance)),
        conservation=None if error is None else Summary.of(error),
        propagates=start is not None,
        step_shares=shares,
        total=total_relevance(relevance),
        output=None if output is None else as_per_sample(output, len(shares), "output"),
    )


def evaluate_baselines(
    x: ArrayLike, relevant: ArrayLike, *, low: float = 0.0, digits: int = 3
) -> dict[str, Evaluation]:
    """Judge the two maps that need no model: "uniform" and "pixel_mass".

    Parameters
    ----------
    x
        (n, steps, ...) inputs.
    relevant
        (n, steps) boolean.
    low
        The value of an empty pixel.
    digits
        Number of digits in a sequence.

    Raises
    ------
    ValueError
        As `evaluate`, and if an input lies below `low`.
    """
    maps = {"uniform": uniform_map(x), "pixel_mass": pixel_mass_map(x, low)}
    return {name: evaluate(np.asarray(m), relevant, digits=digits) for name, m in maps.items()}
