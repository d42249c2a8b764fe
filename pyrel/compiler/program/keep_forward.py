# SPDX-License-Identifier: Apache-2.0
"""Programs whose way back can run again, for other targets, after the same forward pass.

What does not depend on the target runs before the `Seed`, and the memory plan keeps what the way
back reads of it (`pyrel.compiler.program.memory.plan`). Then an engine runs the instructions from
the seed on once for each target of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Operand, Seed

_Places = npt.NDArray[np.int64]


def forward_first(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Put instructions that do not depend on the target before the seed.

    Parameters
    ----------
    instructions : sequence of Instruction
        In an order in which they run, with a place of its own for every value.

    Returns
    -------
    tuple of Instruction
        The same: first those whose results are the same for each target, then the seed, then the
        others. Both parts are in the order given. An instruction whose rows are of both, such as
        zeros for sums of the forward pass and of relevance, becomes two.
    """
    touched = [list(_touched(instruction)) for instruction in instructions]
    back = [_of_the_way_back(instruction) for instruction in instructions]
    written: dict[Space, npt.NDArray[np.bool_]] = {}
    for operands in touched:
        for operand, places in operands:
            end = int(places.max()) + 1
            if operand.space not in written or written[operand.space].size < end:
                written[operand.space] = np.zeros(end, np.bool_)
    # What reads a place that the way back writes belongs to it; and what writes one, such as the
    # zeros that relevance is added to, which must be written anew each time. That may be before.
    known, rows = -1, 0
    while rows > known:
        _spread(touched, back, written)
        known, rows = rows, sum(int(own.sum()) for own in back)
    seed = [i for i in instructions if isinstance(i.template, Seed)]
    pairs = list(zip(instructions, back, strict=True))
    forward = [_rows(i, ~own) for i, own in pairs if not own.all()]
    rest = [_rows(i, own) for i, own in pairs if own.any() and not isinstance(i.template, Seed)]
    return *forward, *seed, *rest


def _of_the_way_back(instruction: Instruction) -> npt.NDArray[np.bool_]:
    """Mark all rows of the seed, and of what writes relevance."""
    template = instruction.template
    certain = isinstance(template, Seed) or any(
        o.written and o.space == Space.relevance for o in template.operands()
    )
    return np.full(instruction.offsets.shape[1], certain)


def _spread(
    touched: Sequence[Sequence[tuple[Operand, _Places]]],
    back: Sequence[npt.NDArray[np.bool_]],
    written: dict[Space, npt.NDArray[np.bool_]],
) -> None:
    """Add to the way back the rows that touch a place which it writes."""
    for operands, own in zip(touched, back, strict=True):
        for operand, places in operands:
            own |= written[operand.space][places].any(axis=1)
        for operand, places in operands:
            if operand.written and own.any():
                written[operand.space][places[own]] = True


def _touched(instruction: Instruction) -> Iterator[tuple[Operand, _Places]]:
    """Yield operands beside the input, with the places of each row."""
    for operand, offsets in zip(instruction.template.operands(), instruction.offsets, strict=True):
        if operand.space != Space.input:
            yield operand, offsets[:, None] + np.arange(operand.size)


def _rows(instruction: Instruction, some: npt.NDArray[np.bool_]) -> Instruction:
    """Return the instruction for some of its rows."""
    if some.all():
        return instruction
    return replace(instruction, offsets=instruction.offsets[:, some])
