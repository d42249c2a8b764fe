# SPDX-License-Identifier: Apache-2.0
"""Embeddings, tables of numbers by token id, and what is done with the relevance of inputs."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.intervals import apart
from pyrel.compiler.graph.nodes import Embedding
from pyrel.compiler.lowering.cache import Matrix
from pyrel.compiler.lowering.emitter import Emitter
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.program.enums import Post
from pyrel.compiler.program.instructions import Embed, Epilogue
from pyrel.methods import AtInput

_AT_INPUT = {
    AtInput.keep: Post.none,
    AtInput.square: Post.square,
    AtInput.multiply: Post.multiply,
}


def forward_embedding(node: Embedding, emitter: Emitter, _: Placement | None) -> None:
    """Look up rows of the table."""
    width = node.table.shape[1]
    source = emitter.value(node.inputs)
    out = emitter.value(node.start + np.arange(node.inputs.size) * width)
    template = Embed(source[0], emitter.program.table(node.table), width, out[0])
    emitter.emit(template, source[1], out[1])


def back_embedding(node: Embedding, relevance: Relevance, placement: Placement) -> None:
    """Add up over the dimensions what arrives at an embedding."""
    finish_input(node.start, node.size, relevance, placement)
    emitter = relevance.emitter
    width = node.table.shape[1]
    ones = Matrix(("ones", width), 1, lambda: np.ones((width, 1)))
    rows = node.start + np.arange(node.inputs.size) * width
    for some in apart(node.inputs, 1):
        addresses = node.inputs[some]
        epilogue = Epilogue(accumulate=relevance.accumulates(addresses, 1))
        out = relevance.place(addresses)
        op = emitter.gemm([(relevance.place(rows[some]), width)], ones, out, epilogue)
        relevance.record(op, addresses, 1)


def finish_input(start: int, size: int, relevance: Relevance, placement: Placement) -> None:
    """Do what the method does with what arrives at the input, or at embeddings."""
    post = _AT_INPUT[placement.method.finish]
    if post != Post.none:
        relevance.finish(start, size, post, start if post == Post.multiply else None)
