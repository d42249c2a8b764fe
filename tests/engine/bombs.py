# SPDX-License-Identifier: Apache-2.0
"""Program and model files whose numbers are made to take much time or memory.

Each is made from a saved file, with a checksum that is right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine.cases import by_name, compiled
from engine.sequences import Last, shared

import pyrel
from pyrel.files.tensors import dump_tensors, read_tensors
from pyrel.training import save_model

Content = dict[str, Any]
Tensors = dict[str, torch.Tensor]
Bomb = Callable[[Tensors, Content], Any]

ZERO = {"kind": "Map", "source": None, "columns": 1, "out": "arena"}
N = 30_000


def numbers(*values: Any) -> torch.Tensor:
    """Return integers, one after the other."""
    return torch.from_numpy(np.concatenate([np.ravel(v) for v in values]).astype(np.int64))


def unbounded(t: Tensors) -> None:
    """Leave the bounds of the input out."""
    t.pop("low", None), t.pop("high", None)


def vocabulary(size: int, shape: list[int]) -> Bomb:
    """Make samples of token ids of a shape."""

    def change(t: Tensors, c: Content) -> None:
        unbounded(t)
        c["explainer"].update(vocabulary=size, input_shape=shape)
        c["program"].update(input_size=int(np.prod(shape, dtype=object)))

    return change


def size(**sizes: int) -> Bomb:
    """Change sizes of a program."""
    return lambda t, c: (unbounded(t), c["program"].update(sizes))


def moved(kind: str, index: Any, source: Any, out: Any, arena: int) -> Bomb:
    """Put a gather or a scatter before all that a program does."""

    def change(t: Tensors, c: Content) -> None:
        t["index.0"] = numbers(index)
        span = int(np.max(index)) + 1
        template = {"kind": kind, "source": "arena", "span": span, "index": 0, "out": "arena"}
        entry = {"template": template | {"columns": len(index)}, "steps": len(source)}
        fill = {"template": ZERO, "steps": arena // 2}
        c["instructions"] = [fill, entry, *c["instructions"]]
        t["offsets"] = numbers(2 * np.arange(arena // 2), source, out, t["offsets"])
        c["program"].update(arena_size=arena + len(index))

    return change


def repeats(count: int) -> Bomb:
    """Put many copies of the first instruction before it."""

    def change(t: Tensors, c: Content) -> None:
        first = c["instructions"][0]
        steps = first["steps"]
        operands = len(first["template"].get("segments", [1])) + 1
        own = t["offsets"][: operands * steps]
        c["instructions"] = [first] * count + c["instructions"]
        t["offsets"] = torch.cat([own.repeat(count), t["offsets"]])

    return change


def zeros(rows: int, columns: int, arena: int, stride: int = 1) -> Bomb:
    """Let the first instruction write zeros to many rows."""

    def change(t: Tensors, c: Content) -> None:
        template = {"kind": "Map", "source": None, "columns": columns, "out": "arena"}
        c["instructions"].insert(0, {"template": template, "steps": rows})
        c["program"].update(arena_size=arena)
        t["offsets"] = numbers(stride * np.arange(rows), t["offsets"])

    return change


def scattered(rows: int) -> Bomb:
    """Write and read single floats, apart from each other and in no order."""

    def change(t: Tensors, c: Content) -> None:
        entries = [{"template": ZERO | {"source": s}, "steps": rows} for s in (None, "arena")]
        c["instructions"] = entries + c["instructions"]
        c["program"].update(arena_size=2 * rows)
        rng = np.random.default_rng(0)
        t["offsets"] = numbers(*(2 * rng.permutation(rows) for _ in range(3)), t["offsets"])

    return change


def loops(count: int, arena: int) -> Bomb:
    """Write zeros in many loops of one iteration."""

    def change(t: Tensors, c: Content) -> None:
        template = {"kind": "Map", "source": None, "columns": 1, "out": "arena"}
        loop = {"repeat": 1, "body": [{"template": template, "steps": 1}]}
        c["instructions"] = [loop] * count + c["instructions"]
        c["program"].update(arena_size=arena)
        t["offsets"] = numbers(2 * np.arange(count), t["offsets"])

    return change


def first_run(part: int, value: int) -> Bomb:
    """Change one of the first numbers of a pattern's runs."""
    return lambda t, c: t["offsets"].__setitem__(part, value)


def in_pattern(change: Callable[[Content], Any], kind: str = "Map") -> Bomb:
    """Change the templates of a kind in a pattern."""

    def all_of_kind(t: Tensors, c: Content) -> None:
        for item in c["items"]:
            for part in item.get("body", [item]):
                if part["template"]["kind"] == kind:
                    change(part["template"])

    return all_of_kind


def every_number(change: Callable[[int], int], first: int, step: int) -> Bomb:
    """Change every so many of the numbers of a pattern's rows."""

    def all_of_them(t: Tensors, c: Content) -> None:
        part = t["offsets"][first::step]
        t["offsets"][first::step] = torch.tensor([change(int(n)) for n in part])

    return all_of_them


def more_items(count: int, columns: int = 1, runs: int = 1) -> Bomb:
    """Put many instructions before those of a pattern, each with values of its own."""

    def change(t: Tensors, c: Content) -> None:
        template = {"kind": "Map", "source": None, "columns": columns, "out": "arena"}
        c["items"] = [{"template": template, "runs": runs}] * count + c["items"]
        lengths = np.tile([1, 0], (runs, 1))
        far = 10**9 + 64 * np.arange(count * runs).reshape(count, runs)
        mine = [
            numbers(lengths, np.stack([far[i], 0 * far[i]], 1), np.zeros((runs, 2)))
            for i in range(count)
        ]
        t["offsets"] = torch.cat([*mine, t["offsets"]])

    return change


def plain_runs(*growths: Any, repeat: list[int] | None = None, least: int = 0) -> Bomb:
    """Put instructions of one run each before those of a pattern, or loops of one instruction."""

    def change(t: Tensors, c: Content) -> None:
        one = {"template": ZERO, "runs": 1}
        item = one if repeat is None else {"repeat": repeat, "body": [one]}
        c["items"] = [item] * len(growths) + c["items"]
        mine = [numbers(growth, [10**9, 0], [64, 0]) for growth in growths]
        t["offsets"] = torch.cat([*mine, t["offsets"]])
        c["pattern"]["least"] = least or c["pattern"]["least"]

    return change


def more_loops(count: int, body: int) -> Bomb:
    """Put loops before those of a pattern, each with values that live until the next."""

    def change(t: Tensors, c: Content) -> None:
        template = {"kind": "Map", "source": "arena", "columns": 1, "out": "arena"}
        plain = {"kind": "Map", "source": None, "columns": 1, "out": "arena"}
        items, mine = [], []
        for n in range(count):
            first = n == 0
            one = {"template": plain if first else template, "runs": 1}
            items.append({"repeat": [4, 0], "body": [one] * body})
            for i in range(body):
                place = 10**9 + 64 * (n * body + i)
                starts = [[[place, 0]]] if first else [[[place - 64 * body, 0]], [[place, 0]]]
                mine.append(numbers([4, 0], starts, [[[16, 0]]] * len(starts)))
        c["items"] = items + c["items"]
        t["offsets"] = torch.cat([*mine, t["offsets"]])

    return change


def more_tensors(name: str, count: int, *shape: int) -> Bomb:
    """Put small tensors into the file."""
    return lambda t, c: t.update({name.format(i): torch.zeros(shape) for i in range(count)})


def turns(*growth: int) -> Bomb:
    """Change how often the loops of a pattern run."""

    def change(t: Tensors, c: Content) -> None:
        for item in c["items"]:
            if "body" in item:
                item["repeat"] = list(growth)

    return change


def steps_of_example(steps: int) -> Bomb:
    """Let an example of any number of steps have many."""

    def change(t: Tensors, c: Content) -> None:
        unbounded(t)
        c["explainer"]["input_shape"][0] = steps

    return change


def described(value: Any) -> Bomb:
    """Put something into the description."""
    return lambda t, c: c.update(options={"more": value})


FIXED: dict[str, Bomb] = {
    "vocabulary": vocabulary(2**24, [2**30]),
    "vocabulary of many": vocabulary(7, [2**15, 2**15]),
    "input": vocabulary(0, [2**31]),
    "arena": size(arena_size=2**31),
    "classes": size(classes=2**31, arena_size=2**31),
    "gather of N by N": moved("Gather", 2 * np.arange(N), [0] * N, [2 * N] * N, 2 * N),
    "scatter of N by N": moved("Scatter", 2 * np.arange(N), [2 * N] * N, [0] * N, 2 * N),
    "40,000 instructions": repeats(40_000),
    "15,000 instructions": repeats(15_000),
    "wide rows": zeros(100_000, 2**27, 2**28),
    "scattered rows": zeros(500_000, 1, 2**21, 2),
    "rows in no order": scattered(1_000_000),
    "many rows": zeros(4_000_000, 1, 2**22),
    "many loops": loops(30_000, 2**28),
    "some loops": loops(15_000, 2**28),
    "many tensors": more_tensors("vector.{}", 40_000, 1),
    "many matrices": more_tensors("matrix.{}", 9_000, 1, 1),
    "some matrices": more_tensors("matrix.{}", 8_000, 1, 1),
    "many entries": described([0] * 300_000),
    "many lists": described([[]] * 300_000),
    "many names": described({str(n): 0 for n in range(300_000)}),
    "long text": described("a" * 40_000_000),
    "deep": described([[[[[[[[]]]]]]]] * 40_000),
    "wide matrix": lambda t, c: t.update({"matrix.0": torch.zeros(2_000_000, 1)}),
}  # fmt: skip

PATTERNS: dict[str, Bomb] = {
    "run length": first_run(0, 2 * 10**8),
    "growth of a run": first_run(1, 2 * 10**8),
    "enormous run": first_run(0, 2**62),
    "negative run": first_run(0, -(2**62)),
    "runs that cancel": plain_runs([2 * 10**8, 0], [-2 * 10**8, 0]),
    "run that wraps": plain_runs([-(2**63), -(2**63) + 2 * 10**8]),
    "run that wraps in a loop": plain_runs(
        [-(2**63), -(2**63) + 2 * 10**8], repeat=[2 * 10**8, 0]
    ),
    "many steps at least": plain_runs([2_080_000, 0], least=64),
    "300 columns": in_pattern(lambda t: t.update(columns=300)),
    "300 columns of activations": in_pattern(lambda t: t.update(columns=300), "Activate"),
    "enormous columns": in_pattern(lambda t: t.update(columns=2**40)),
    "wide columns": in_pattern(lambda t: t.update(columns=2**20)),
    "count of loops": turns(2**40, 1),
    "growth of loops": turns(7, 2**30),
    "least": lambda t, c: c["pattern"].update(least=2**40),
    "example of many steps": steps_of_example(10**9),
    "growing input": lambda t, c: c["pattern"].update(input_size=[70, 2**40]),
    "growing classes": lambda t, c: c["pattern"].update(classes=[2**31, 2**40]),
    "apart by 2^40": every_number(lambda n: n * 2**40, 2, 3),
    "many values": more_items(16_000),
    "some values": more_items(7_000),
    "many runs": more_items(10, runs=20_000),
    "many loops": more_loops(100, 100),
    "wide loops": more_loops(4, 3_000),
    "many few": lambda t, c: c["explainer"].update(few=list(range(10**5))),
    "negative few": lambda t, c: c["explainer"].update(few=[-1]),
}  # fmt: skip

MODELS: dict[str, Content] = {
    "steps": {"steps": 10**8},
    "steps beyond all": {"steps": 10**400},
    "step shape": {"step_shape": [10**9, 1]},
    "enormous numbers": {"step_shape": [10**4000] * 1000, "steps": 2},
    "enormous product": {"step_shape": [10**4000, 10**4000], "steps": 2},
    "steps and shape": {"steps": 10**3, "step_shape": [10**3, 10**3]},
    "classes": {"classes": 2**62},
    "sizes": {"sizes": [10**9]},
    "many sizes": {"sizes": [1] * 300_000},
    "recurrent": {"recurrent": 10**9},
}


def write(folder: Path) -> None:
    """Write all of them."""
    compiled(by_name("Repeated"), "gradient").save(folder / "fixed")
    shared(Last, "deep_taylor").save(folder / "pattern")
    for base, bombs in (("fixed", FIXED), ("pattern", PATTERNS)):
        for name, change in bombs.items():
            tensors, content = read_tensors(folder / base, "program")
            change(tensors, content)
            forged = dump_tensors("program", tensors, content)
            (folder / f"{base} {name}.program").write_bytes(forged)
    save_model(folder / "model", pyrel.nn.Shallow(2, (3,), 2, (4,), 2))
    tensors, content = read_tensors(folder / "model", "model")
    for name, entries in MODELS.items():
        forged = dump_tensors("model", tensors, content | {"cell": content["cell"] | entries})
        (folder / f"model {name}.model").write_bytes(forged)
