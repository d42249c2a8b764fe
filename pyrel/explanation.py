# SPDX-License-Identifier: Apache-2.0
"""The result of an explainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Explanation:
    """Relevance of a batch, and facts about it. Arrays have the input's type: NumPy or torch.

    Attributes
    ----------
    relevance : float32, shape of the input
        How much each input element contributed; of token ids, how much each token did. Zero beyond
        the end of a sequence. Of several inputs a tuple or dictionary, as they were given; zero for
        those that are constant.
    output : float32, shape (n, classes)
        Raw outputs of the model, before any softmax. Where the model's have more dimensions, as
        (n, T, classes), they have that shape; zero beyond the end of a sequence.
    target : int64, shape (n,)
        The explained class. Of outputs of several dimensions the index, (n, dimensions).
    absorbed : float32, shape (n,)
        Relevance kept by biases, constants and stabilisers. Relevance and absorbed add up to what
        was put in.
    conservation : float32, shape (n,)
        Σ relevance − relevance put in, which what was absorbed and rounding make differ from zero.
        Of integrated gradients, Σ relevance − (f(x) − f(baseline)), the completeness error. NaN for
        other methods that do not propagate relevance.
    amplification : float32, shape (n,)
        The largest Σ |relevance| on the way, over |what was put in|: 1 or more, and 0 where nothing
        was put in. It is taken of what is put in, of the result, and, before the division, of what
        arrives at each node (a layer at one step) whose rule divides by a stabilised sum. What
        grows elsewhere arrives at such a node next. In float32 the relevance cannot add up to what
        was put in better than to 2⁻²³ · amplification of it; where that is 1 % or more, a logger
        ``pyrel`` warns, once for each explainer. Of gradients, it is the larger of 1 and
        Σ |relevance|, which says nothing of rounding.

    Notes
    -----
    With ``target="each step"`` every field but ``output`` has a dimension more, behind that of the
    samples: one entry for each step of the outputs, with zeros for those beyond the end of a
    sequence.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> e = pyrel.explain(model, torch.rand(5, 3), "lrp_epsilon")
    >>> score = e.output.gather(1, e.target[:, None])[:, 0]
    >>> torch.allclose(e.relevance.sum(1) + e.absorbed, score, atol=1e-5)
    True
    """

    relevance: Any
    output: Any
    target: Any
    absorbed: Any
    conservation: Any
    amplification: Any
