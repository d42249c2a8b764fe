# SPDX-License-Identifier: Apache-2.0
"""Compiles a model with a long loop for its number of steps, from graphs of few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pyrel.compiler.capture.long_loops import LoopCapture
from pyrel.compiler.lowering.rule_table import PlacedRule, placed_rules
from pyrel.compiler.program.generalise import NoPatternError
from pyrel.compiler.program.rows import slope_of
from pyrel.engine.compile import patterns_of
from pyrel.engine.compiled import Compiled
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Outputs
from pyrel.engine.plans.choose import goes_back_again
from pyrel.methods import Method


def compile_loop(
    capture: LoopCapture, method: Method, precision: str, inputs: Inputs, outputs: Outputs
) -> Compiled:
    """Compile for all steps of a loop.

    Raises
    ------
    NoPatternError
        If the programs of few steps follow none.
    UnsupportedModelError
        If there is no rule for the model with few steps.
    """
    if not inputs.same_at_all_steps:
        raise NoPatternError("low and high differ from step to step")
    steps = capture.steps
    of_any = replace(inputs, any_steps=True)
    graphs = {n: (graph, *of_any.domain(n)) for n, graph in capture.few.items()}
    keep = outputs.have_steps(outputs.shape, steps) and goes_back_again(method)
    patterns, placements = patterns_of(
        graphs, method, precision, moves_ids=inputs.moves_ids, keep_forward=keep
    )
    few = [placed_rules(each) if method.backward else () for each in placements.values()]
    rules = _rules_at(steps, list(placements), few)
    return replace(patterns.at(steps), patterns=None, rules=rules, outputs=outputs)


def shape_of_outputs(capture: LoopCapture) -> tuple[int, ...]:
    """Return the shape of a sample's outputs at all steps, where they have several dimensions."""
    few = list(capture.few)
    shapes = [capture.few[n].output_shape for n in few]
    if len({len(shape) for shape in shapes}) > 1:
        raise NoPatternError("the outputs have another number of dimensions with more steps")
    return tuple(_grown(capture.steps, few, sizes) for sizes in zip(*shapes, strict=True))


def _rules_at(
    steps: int, few: Sequence[int], rules: Sequence[tuple[PlacedRule, ...]]
) -> tuple[PlacedRule, ...]:
    """Return the rules at all steps, as those of few steps grow."""
    if len({tuple(each._replace(nodes=0) for each in listed) for listed in rules}) > 1:
        raise NoPatternError("rules depend on the number of steps")
    return tuple(
        row[0]._replace(nodes=_grown(steps, few, [each.nodes for each in row]))
        for row in zip(*rules, strict=True)
    )


def _grown(steps: int, few: Sequence[int], numbers: Sequence[int]) -> int:
    """Return a number at all steps, from what it is with few."""
    slope = slope_of(np.array(numbers), np.array(few))
    if slope is None:
        raise NoPatternError("numbers of nodes or outputs do not grow evenly with the steps")
    return numbers[0] + int(slope) * (steps - few[0])
