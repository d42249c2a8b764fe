# SPDX-License-Identifier: Apache-2.0
"""Which instructions a function runs through: its own, and of all functions that it may call."""

from __future__ import annotations

import bisect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


@dataclass(frozen=True)
class Function:
    name: str
    instructions: tuple[Instruction, ...]


class Symbol(NamedTuple):
    address: int
    size: int
    kind: str  # FUNC, OBJECT, …
    name: str


def _read(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


class Binary:
    """A linked file with symbols, disassembled by `objdump` and `readelf` of a tool chain."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        symbols = [self._symbol(line) for line in _read(f"{prefix}readelf", "-sW", path)]
        self.symbols = sorted({symbol for symbol in symbols if symbol})
        self._starts = [symbol.address for symbol in self.symbols]
        self._pointers: dict[int, int] = {}  # where the loader puts addresses of this file
        for line in _read(f"{prefix}readelf", "-rW", path):
            if found := re.match(r"([0-9a-f]+)\s+[0-9a-f]+\s+R_\w+_RELATIV\w*\s+([0-9a-f]+)", line):
                self._pointers[int(found[1], 16)] = int(found[2], 16)
        self._code = [
            Instruction(int(found[1], 16), found[2], found[3].strip())
            for line in _read(f"{prefix}objdump", "-dw", "--no-show-raw-insn", path)
            if (found := re.match(r"\s+([0-9a-f]+):\s+(?:bnd |notrack )?([\w.]+)\s*(.*)", line))
        ]
        self._addresses = [instruction.address for instruction in self._code]

    @staticmethod
    def _symbol(line: str) -> Symbol | None:
        pattern = (
            r"\s*\d+:\s+([0-9a-f]+)\s+(\w+)\s+(FUNC|OBJECT)\s+\w+\s+\w+\s+(?:\[.*\]\s+)?\d+\s+(\S+)"
        )
        found = re.match(pattern, line)
        if not found or int(found[2], 0) == 0:
            return None
        return Symbol(int(found[1], 16), int(found[2], 0), found[3], found[4])

    def symbol_at(self, address: int) -> Symbol | None:
        """Find the function or object that `address` lies in."""
        place = bisect.bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        symbol = self.symbols[place]
        return symbol if address < symbol.address + symbol.size else None

    def reachable(self, address: int) -> list[Function]:
        """List the function at `address` and all that it may call: directly or through a table."""
        first = self.symbol_at(address)
        if first is None or first.kind != "FUNC":
            raise ValueError(f"no function at {address:#x}")
        seen, waiting, found = {first}, [first], []
        while waiting:
            symbol = waiting.pop()
            if symbol.kind == "FUNC":
                function = self._function(symbol)
                found.append(function)
                targets = self._mentioned(function)
            else:  # a table: what it points to
                places = range(symbol.address, symbol.address + symbol.size, 8)
                targets = {self._pointers[place] for place in places if place in self._pointers}
            others = {other for target in targets if (other := self.symbol_at(target))}
            waiting.extend(others - seen)
            seen |= others
        return found

    def _function(self, symbol: Symbol) -> Function:
        begin = bisect.bisect_left(self._addresses, symbol.address)
        end = bisect.bisect_left(self._addresses, symbol.address + symbol.size)
        return Function(symbol.name, tuple(self._code[begin:end]))

    @staticmethod
    def _mentioned(function: Function) -> set[int]:
        """Addresses that the instructions call, jump to or load."""
        targets = set()
        known: dict[str, int] = {}  # on ARM, registers that hold a page, or an address in one
        for _, name, operands in function.instructions:
            if found := re.search(r"(?:# |^|, )([0-9a-f]+) <", operands):
                targets.add(int(found[1], 16))
            written = operands.split(",", 1)[0]
            page = re.match(r"\w+, ([0-9a-f]+) <", operands) if name == "adrp" else None
            sum_of = re.match(r"\w+, (\w+), #(0x[0-9a-f]+)$", operands) if name == "add" else None
            if page:
                known[written] = int(page[1], 16)
            elif sum_of and sum_of[1] in known:
                known[written] = known[sum_of[1]] + int(sum_of[2], 16)
                targets.add(known[written])
            elif not re.match("st|cmp|tst", name):
                known.pop(written, None)
        return targets


def innermost_loops(function: Function) -> list[tuple[Instruction, ...]]:
    """List the loops of a function that have no loop inside, as their instructions."""
    code = function.instructions
    places = {instruction.address: place for place, instruction in enumerate(code)}
    spans = []
    for place, (_, name, operands) in enumerate(code):
        target = re.match(r"(?:[wx]\w+, )?(?:#\d+, )?([0-9a-f]+)\b", operands)
        if re.match(r"j|b(\.|$)|cb|tb", name) and target:
            start = places.get(int(target[1], 16))
            if start is not None and start <= place:
                spans.append((start, place))
    return [
        code[start : end + 1]
        for start, end in spans
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in spans)
    ]
