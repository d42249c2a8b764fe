# SPDX-License-Identifier: Apache-2.0
"""Machine code of GPUs as `nvdisasm -c` writes it: instructions by function, and their loops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_SECTION = re.compile(r"\s*\.section\s+\.text\.([^,\s]+)")
_LABEL = re.compile(r"([.$\w]+):\s*$")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(@\S+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\(([^)]+)\)")


class Instruction(NamedTuple):
    name: str  # with its modifiers: LDG.E.128.CONSTANT
    operands: str
    predicated: bool

    @property
    def called(self) -> str | None:
        """The function that is called, or None; sm_80 also calls labels, which are jumps."""
        target = _TARGET.search(self.operands)
        if not self.name.startswith("CALL") or (target and target[1].startswith(".L")):
            return None
        return target[1] if target else self.operands


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel, with those of functions that the compiler put behind it."""

    name: str
    instructions: list[Instruction]
    labels: dict[str, int]  # the number of the instruction behind each

    def matching(self, pattern: str) -> list[int]:
        """List the numbers of the instructions whose name matches from its beginning."""
        wanted = re.compile(pattern)
        return [n for n, one in enumerate(self.instructions) if wanted.match(one.name)]

    def after(self, number: int) -> Iterator[int]:
        """List what may run after an instruction; a call returns."""
        name, operands, predicated = self.instructions[number]
        jump = re.match(r"BRA|JMP|BRX|JMX", name)
        if jump or (name.startswith("CALL") and not self.instructions[number].called):
            table = re.search(r'BRANCH_TARGETS ([^"]*)', operands)
            targets = table[1].split(",") if table else _TARGET.findall(operands)
            if not targets:
                raise ValueError(f"{self.name}: a jump without targets: {name} {operands}")
            yield from (self.labels[target.strip()] for target in targets)
        # A jump's condition is a predicate before it, or an operand before its target.
        always = not predicated and (operands.startswith("`") or name[2] == "X")
        stops = re.match(r"EXIT|RET|KILL", name) and not predicated
        if not (stops or (jump and always)) and number + 1 < len(self.instructions):
            yield number + 1


def parse(text: str) -> list[Code]:
    """Read a disassembly: the code of each of its sections, in their order."""
    found: list[Code] = []
    for line in text.splitlines():
        if section := _SECTION.match(line):
            found.append(Code(section[1], [], {}))
        elif found and (label := _LABEL.match(line)):
            found[-1].labels[label[1]] = len(found[-1].instructions)
        elif found and (one := _INSTRUCTION.match(line)):
            found[-1].instructions.append(Instruction(one[2], one[3], bool(one[1])))
    return found


def loops(code: Code) -> list[frozenset[int]]:
    """List the natural loops of a kernel, each as the numbers of its instructions.

    A loop has one way in, its head, which every way to the rest leads through. Blocks that the
    compiler has moved behind the kernel belong to the loops that they jump back into.
    """
    starts, following = _blocks(code)
    order = _reverse_postorder(following)
    place = {block: n for n, block in enumerate(order)}
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for other in following[block]:
            before[other].append(block)
    above = _dominators(order, place, before)
    bodies: dict[int, set[int]] = {}
    for block in order:
        for head in following[block]:
            if _dominates(head, block, above, place):
                bodies.setdefault(head, {head}).update(_reaching(block, head, before))
    ends = dict(zip(starts, [*starts[1:], len(code.instructions)], strict=True))
    return [frozenset(n for b in body for n in range(b, ends[b])) for body in bodies.values()]


def _blocks(code: Code) -> tuple[list[int], dict[int, list[int]]]:
    """Give where blocks begin, and the blocks that may follow each; a block is its beginning."""
    count = len(code.instructions)
    after = [list(code.after(n)) for n in range(count)]
    starts = {0, *(n for n in code.labels.values() if n < count)}
    for n, targets in enumerate(after):
        if targets != [n + 1]:
            starts.update(targets, [n + 1] if n + 1 < count else [])
    ordered = sorted(starts)
    ends = [*ordered[1:], count]
    return ordered, {s: after[e - 1] for s, e in zip(ordered, ends, strict=True)}


def _reverse_postorder(following: dict[int, list[int]]) -> list[int]:
    seen, done, waiting = {0}, [], [(0, iter(following[0]))]
    while waiting:
        block, others = waiting[-1]
        new = next((other for other in others if other not in seen), None)
        if new is None:
            done.append(block)
            waiting.pop()
        else:
            seen.add(new)
            waiting.append((new, iter(following[new])))
    return done[::-1]


def _dominators(
    order: list[int], place: dict[int, int], before: dict[int, list[int]]
) -> dict[int, int]:
    """Give the nearest block that every way to a block leads through.

    Cooper, Harvey and Kennedy (2001): A Simple, Fast Dominance Algorithm.
    """
    above = {0: 0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [other for other in before[block] if other in above]
            nearest = known[0]
            for other in known[1:]:
                while nearest != other:
                    if place[nearest] > place[other]:
                        nearest = above[nearest]
                    else:
                        other = above[other]
            if above.get(block) != nearest:
                above[block], changed = nearest, True
    return above


def _dominates(head: int, block: int, above: dict[int, int], place: dict[int, int]) -> bool:
    while place[block] > place[head]:
        block = above[block]
    return block == head


def _reaching(block: int, head: int, before: dict[int, list[int]]) -> set[int]:
    """Collect the blocks from which `block` is reached without passing `head`."""
    seen, waiting = {head}, [block]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting.extend(before[one])
    return seen
