# SPDX-License-Identifier: Apache-2.0
"""Texts for operators without a rule: why there is none, or what to write instead."""

from __future__ import annotations

from pyrel.errors import NO_RULE

_RAW_SCORES = (
    "explain the raw scores: leave out the softmax. Inside a model, as in attention, it has no rule"
)
_COMPARED = (
    "it compares values of the input; masks must be constant, or made from token ids or from the "
    "lengths of sequences (lengths=True)"
)
_HINTS = {
    "glu": "write it as a * torch.sigmoid(b), with a, b = x.chunk(2, dim)",
    **dict.fromkeys(["softmax", "log_softmax", "_softmax", "_log_softmax"], _RAW_SCORES),
    **dict.fromkeys(
        ["scaled_dot_product_attention", "_native_multi_head_attention"],
        "attention has no rule: its weights depend on the input, and are divided by their sum",
    ),
    **dict.fromkeys("eq ne gt ge lt le isnan sign argmax argmin topk nonzero".split(), _COMPARED),
    **dict.fromkeys(
        """conv3d max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d
        _adaptive_avg_pool3d adaptive_max_pool3d""".split(),
        "convolutions and pooling over one or two axes are supported; fold an axis into the batch",
    ),
    **dict.fromkeys(
        ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
        "convolutions are supported if they are not transposed",
    ),
    **dict.fromkeys(
        ["group_norm", "native_group_norm", "instance_norm", "rms_norm"],
        "batch_norm and layer_norm are supported",
    ),
    **dict.fromkeys(
        ["hardtanh", "relu6", "hardsigmoid", "hardswish", "mish", "prelu", "rrelu", "log_sigmoid"],
        "relu, leaky_relu, elu, gelu, silu, sigmoid, tanh and softplus are supported",
    ),
    **dict.fromkeys(
        ["ceil", "floor", "round", "trunc", "heaviside"],
        "it is a step function, which hands on neither gradients nor relevance",
    ),
    "square": "write it as x * x",
    "einsum": "write it with torch.matmul or torch.bmm",
    "pow": "write x ** 2 as x * x; other powers only within nn.LocalResponseNorm",
    "fmin": "write it as -torch.maximum(-a, -b)",
    **dict.fromkeys(["min", "amin"], "write it as -(-x).amax(dim)"),
    "fmax": "write it as torch.maximum(a, b)",
    "clamp_max": "write it as c - torch.relu(c - x)",
    **dict.fromkeys(["baddbmm", "addbmm"], "write it as a sum with torch.bmm"),
    "_embedding_bag": "embedding, and a sum or a mean of what it gives, are supported",
    "embedding_renorm": "an embedding with max_norm changes its table while it runs",
}


def hint(name: str) -> str:
    """Say what would help a user whose model holds the unsupported operator ``name``."""
    return _HINTS.get(name, NO_RULE)
