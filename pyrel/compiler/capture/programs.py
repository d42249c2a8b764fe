# SPDX-License-Identifier: Apache-2.0
"""Copies of exported programs, whose operators are rewritten."""

from __future__ import annotations

import copy

import torch
from torch.export import ExportedProgram


def copied_module(exported: ExportedProgram) -> torch.fx.GraphModule:
    """Copy the operators of a program; each keeps its name."""
    module: torch.fx.GraphModule = copy.deepcopy(exported.graph_module)
    for node, original in zip(module.graph.nodes, exported.graph.nodes, strict=True):
        node.name = original.name  # that of an input may not be one that torch.fx would give
    return module


def with_module(exported: ExportedProgram, module: torch.fx.GraphModule) -> ExportedProgram:
    """Return a program with other operators, whose guards are those of the first."""
    module.graph.lint()
    module.recompile()
    program = exported._update(module, exported.graph_signature)
    if hasattr(exported, "_guards_code"):
        program._guards_code = exported._guards_code
    return program
