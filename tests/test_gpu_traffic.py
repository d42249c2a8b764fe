# SPDX-License-Identifier: Apache-2.0
"""What a walk moves through a cache is counted from the image that the device reads."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated as cuda
from engine.test_cuda_stretches import conv_deep

import pyrel
from pyrel.engine.loaded import checked

TOOLS = Path(__file__).parents[1] / "tools" / "gpu"
MODELS = {
    "Deep": lambda: pyrel.nn.Deep(4, (12, 12), 5, sizes=(12, 10, 9), recurrent=11),
    "RLSTM": lambda: pyrel.nn.RLSTM(4, (12, 12), 5, sizes=(12, 10)),
    "ConvDeep": conv_deep,
}


@pytest.fixture(scope="module")
def traffic() -> Any:
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("traffic")
    finally:
        sys.path.remove(str(TOOLS))


def compiled(name: str) -> Any:
    torch.manual_seed(0)
    example = np.zeros((2, 4, 12, 12), np.float32)
    explainer = pyrel.Explainer(
        MODELS[name]().eval(), example, "deep_taylor", low=0.0, high=1.0, check=None
    )
    return cuda.compiled_program(explainer)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_image_touches_what_instructions_do(traffic: Any, name: str, in_parts: bool) -> None:
    program = compiled(name)
    image = traffic.Image(checked(program))
    steps = image.steps(in_parts)
    assert len(steps) > 0 or (in_parts and name != "ConvDeep")
    found = sum(
        touch.count
        for step in steps
        for row in range(step["first_row"], step["first_row"] + step["rows"])
        for number in range(step["operation"], step["operation"] + step["products"])
        for touch in image.touches(number, row)
    )
    wanted = sum(
        operand.size * instruction.offsets.shape[1] * (operand.read + operand.written)
        for instruction in program.every_instruction()
        for operand in instruction.template.operands()
    )
    assert found == (wanted if len(steps) else 0)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_large_cache_moves_input_and_relevance_alone(traffic: Any, in_parts: bool) -> None:
    image = traffic.Image(checked(compiled("ConvDeep")))
    large, small = (traffic.traffic(image, in_parts, 3, size) for size in (1e9, 1e5))
    size = 4.0 * 4 * 12 * 12  # bytes of a sample
    assert (large.read, large.written) == (size, size)
    assert small.read > size
    assert small.written > size
    assert large.touched == small.touched >= small.read


def test_parts_move_less(traffic: Any) -> None:
    """Each stretch keeps in the cache what a step of the model writes and reads again."""
    image = traffic.Image(checked(compiled("ConvDeep")))
    whole, in_parts = (traffic.traffic(image, each, 8, 2e5) for each in (False, True))
    assert in_parts.touched == whole.touched
    assert in_parts.read < whole.read
    assert in_parts.written < whole.written


@pytest.mark.parametrize("order", [1, 2], ids=["whole", "in parts"])
def test_barriers_are_those_that_a_block_comes_to(traffic: Any, order: int) -> None:
    program = checked(compiled("ConvDeep"))
    x = np.random.default_rng(0).random((32, 4, 12, 12), np.float32)
    cuda.explain(program, x, groups=4, in_parts=order)
    assert traffic.traffic(traffic.Image(program), order == 2, 4).barriers == cuda.barriers()
