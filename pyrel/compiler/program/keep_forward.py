# SPDX-License-Identifier: Apache-2.0
"""Programs whose way back can run again, for other targets, after the same forward pass.

What does not depend on the target runs before the `Seed`, and the memory plan keeps what the way
back reads of it (`pyrel.compiler.program.memory.plan`). Then an engine runs the instructions from
the seed on once for each target of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Operand, Seed

_Places = npt.NDArray[np.int64]


def seed_last(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Move instructions before the seed that do not depend on it.

    Parameters
    ----------
    instructions : sequence of Instruction
        In an order in which they run, with a place of its own for every value.

    Returns
    -------
    tuple of Instruction
        The same: first those whose results are the same for each target, then the seed, then the
        others. Both parts are in the order given.
    """
    touched = [list(_touched(instruction)) for instruction in instructions]
    back = [isinstance(i.template, Seed) or _writes_relevance(i) for i in instructions]
    written: dict[Space, npt.NDArray[np.bool_]] = {}
    for operands in touched:
        for operand, places in operands:
            end = int(places.max()) + 1
            if operand.space not in written or written[operand.space].size < end:
                written[operand.space] = np.zeros(end, np.bool_)
    # What reads a place that the way back writes belongs to it; and what writes one, such as the
    # zeros that relevance is added to, which must be written anew each time. That may be before.
    known = 0
    while sum(back) > known:
        known = sum(back)
        _spread(touched, back, written)
    forward = [i for i, later in zip(instructions, back, strict=True) if not later]
    seed = [i for i in instructions if isinstance(i.template, Seed)]
    rest = [i for i, later in zip(instructions, back, strict=True) if later and i not in seed]
    return *forward, *seed, *rest


def _writes_relevance(instruction: Instruction) -> bool:
    operands = instruction.template.operands()
    return any(o.written and o.space == Space.relevance for o in operands)


def _spread(
    touched: Sequence[Sequence[tuple[Operand, _Places]]],
    back: list[bool],
    written: dict[Space, npt.NDArray[np.bool_]],
) -> None:
    """Add to the way back what touches a place that it writes."""
    for number, operands in enumerate(touched):
        back[number] |= any(written[o.space][places].any() for o, places in operands)
        if back[number]:
            for operand, places in operands:
                if operand.written:
                    written[operand.space][places] = True


def _touched(instruction: Instruction) -> Iterator[tuple[Operand, _Places]]:
    for operand, offsets in zip(instruction.template.operands(), instruction.offsets, strict=True):
        if operand.space != Space.input:
            yield operand, (offsets[:, None] + np.arange(operand.size)).reshape(-1)
