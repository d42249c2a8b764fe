# SPDX-License-Identifier: Apache-2.0
"""Texts for operators without a rule: why there is none, or what to write instead."""

from __future__ import annotations

from pyrel.errors import NO_RULE

_COMPARED = (
    "it compares values of the input; masks must be constant, or made from token ids or from the "
    "lengths of sequences (lengths=True)"
)
_HINTS = {
    "_native_multi_head_attention": (
        "the fast path of nn.MultiheadAttention; torch.backends.mha.set_fastpath_enabled(False) "
        "before capturing"
    ),
    **dict.fromkeys("isnan argmax argmin nonzero".split(), _COMPARED),
    "im2col": "the windows of nn.Unfold; Tensor.unfold and convolutions are supported",
    "native_group_norm": "group_norm is supported",
    **dict.fromkeys(
        ["ceil", "floor", "round", "trunc", "heaviside"],
        "it is a step function, which hands on neither gradients nor relevance",
    ),
    "fmin": "write it as torch.minimum(a, b)",
    "fmax": "write it as torch.maximum(a, b)",
    "addbmm": "write it as a sum with torch.bmm",
    "_embedding_bag": "embedding, and a sum or a mean of what it gives, are supported",
    "embedding_renorm": "an embedding with max_norm changes its table while it runs",
}


def hint(name: str) -> str:
    """Say what would help a user whose model holds the unsupported operator ``name``."""
    return _HINTS.get(name, NO_RULE)
