# SPDX-License-Identifier: Apache-2.0
"""Compares what a device explains with the CPU's engine and with float64.

In float32 the device has the bits of the CPU's engine with AVX2, whatever the division of a batch.
A row is right where that holds; with TF32, where the error is within what such products may make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from direct import IN_PARTS, PRECISIONS, WHOLE, Choice, Direct
from machine import Machine, Rows, options_of
from models import MODELS, Answered, answered, made, samples, tiny_cell

import pyrel
from pyrel.errors import CudaError

KEYS = (
    "check",
    "case",
    "precision",
    "right",
    "same_bits",
    "difference",
    "allowed",
    "note",
    "failure",
)
FIELDS = ("relevance", "output", "target", "absorbed", "conservation", "amplification")
Row = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Row]]]  # what a case is, and what runs it


def pair(name: str, method: str) -> tuple[Any, Any]:
    """Compile a model for the device, and for the CPU."""
    model, example = made(MODELS[name].make), samples(MODELS[name].shape, 2)
    there, here = (
        pyrel.Explainer(model, example, method, low=0.0, high=1.0, device=device, check=None)
        for device in ("cuda", "cpu")
    )
    return there, here


def compared(found: Any, wanted: Any) -> Row:
    """Compare explanations: all bits, and the largest difference of R relative to ‖R‖.

    ValueError if all relevance is zero, which shows nothing.
    """

    def array(values: Any) -> Any:
        return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)

    one, other = ([array(getattr(e, name)) for name in FIELDS] for e in (found, wanted))
    same = all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
    r, right = (each[0].reshape(len(each[0]), -1).astype(np.float64) for each in (one, other))
    norm = np.sqrt((right**2).sum(1, keepdims=True))
    if not norm.any():
        raise ValueError("all relevance is zero")
    difference = np.abs(r - right) / np.where(norm > 0, norm, 1)
    return {"same_bits": same, "difference": float(np.nan_to_num(difference, nan=np.inf).max())}


def judged(found: Any, wanted: Any) -> Row:
    """Compare explanations that must have the same bits."""
    row = compared(found, wanted)
    return {"right": row["same_bits"], **row}


def beside_cpu(machine: Machine) -> Cases:
    """Explain all models with their methods on both."""
    count = 9 if machine.emulated else 300

    def explained(name: str, method: str) -> Row:
        there, here = pair(name, method)
        x = samples(MODELS[name].shape, count, seed=1)
        return judged(there(x), here(x))

    for name, model in MODELS.items():
        for method in model.methods[: 1 if machine.emulated else None]:
            yield f"{name}, {method}", partial(explained, name, method)


def beside_float64(machine: Machine) -> Cases:
    """Explain cells in each precision, and compare with the right answers."""
    wanted = (("Deep", "deep_taylor"), ("ConvDeep", "deep_taylor"), ("LSTM", "lrp_epsilon"))

    @cache
    def prepared(name: str, method: str) -> tuple[Answered, Direct]:
        case = answered(tiny_cell(name), method, 8 if machine.emulated else 64)
        return case, Direct(case.explainer(), machine.place)

    def explained(name: str, method: str, precision: str) -> Row:
        case, direct = prepared(name, method)
        x = torch.from_numpy(case.x).to(machine.place)
        worst, excess = case.worst(direct(x, precision).relevance, precision == "tf32")
        allowed = worst / excess if excess > 0 else None
        named = {"precision": precision, "allowed": allowed}
        return {"right": excess <= 1, "difference": worst, **named}

    for name, method in wanted if machine.emulated else (*wanted, ("GRU", "lrp_epsilon")):
        for precision in PRECISIONS:
            yield f"{name}, {method}", partial(explained, name, method, precision)


def divisions(machine: Machine) -> Cases:
    """Divide batches in every way: the bits are those of one group and one block."""
    groups, blocks, teams = (1, 2, 4, 8, 16), (1, 2, 4, 8), (0, 1, 3)
    batches = (1, 7, 8, 9, 63, 65, 1000)
    every = [*product(groups, blocks, teams, (False, True))]
    if machine.emulated:
        every, batches = [(0, 0, 0, False), (2, 1, 1, False), (1, 2, 1, True)], (1, 9)
    there, _ = pair("Deep", "deep_taylor")
    direct = Direct(there, machine.place)

    def divided(n: int, precision: str) -> Row:
        x = torch.from_numpy(samples(MODELS["Deep"].shape, n)).to(machine.place)
        wanted = direct(x, precision, Choice(1, 1, 1))
        wrong, refused = [], []
        for given in every:
            try:
                if not direct(x, precision, Choice(*given)).same(wanted):
                    wrong.append(f"{given} differs")
            except CudaError as error:
                refused.append(f"{given}: {error}")
        note = "; ".join([f"{len(every) - len(refused)} divisions ran", *wrong, *refused])
        right = not wrong and len(refused) < len(every)
        named = {"precision": precision, "note": note[:400]}
        return {"right": right, "same_bits": not wrong, **named}

    for n, precision in product(batches, PRECISIONS):
        yield f"batch {n}", partial(divided, n, precision)


def orders(machine: Machine) -> Cases:
    """Walk stretches of convolutions part by part: the bits are those of whole instructions."""
    cell = pyrel.nn.ConvDeep(4, (12, 12), 5, sizes=(6, 8, 12, 10), recurrent=11).eval()
    shape = 4, 12, 12
    explainer = pyrel.Explainer(cell, samples(shape, 2), "gradient", device="cuda", check=None)
    direct = Direct(explainer, machine.place)

    def walked(groups: int, blocks: int, precision: str) -> Row:
        x = torch.from_numpy(samples(shape, 9 if machine.emulated else 1000)).to(machine.place)
        whole, in_parts = (
            direct(x, precision, Choice(groups, blocks, 0, False, order))
            for order in (WHOLE, IN_PARTS)
        )
        same = in_parts.same(whole)
        return {"precision": precision, "right": same, "same_bits": same}

    some = ((2, 1),) if machine.emulated else ((1, 1), (4, 2), (16, 1))
    for (groups, blocks), precision in product(some, PRECISIONS):
        yield f"{groups} groups, {blocks} blocks", partial(walked, groups, blocks, precision)


def batches(machine: Machine) -> Cases:
    """Explain parts of a batch: the bits are those of the whole."""
    there, here = pair("LSTM", "lrp_epsilon")
    n = 11 if machine.emulated else 2050
    x = samples(MODELS["LSTM"].shape, n)
    whole = here(x)

    def part(size: int) -> Row:
        found, wanted = there(x[-size:]).relevance, whole.relevance[-size:]
        same = found.tobytes() == wanted.tobytes()
        return {"right": same, "same_bits": same}

    for size in (1, 8) if machine.emulated else (1, 7, 8, 9, 64, 1023, 2050):
        yield f"last {size} of {n}", partial(part, size)


def pointers(machine: Machine) -> Cases:
    """Explain a tensor where it lies, and the same values from the host."""
    count = 9 if machine.emulated else 1000

    def explained(name: str, step: int) -> Row:
        there, _ = pair(name, "lrp_epsilon")
        x = samples(MODELS[name].shape, count)
        on_device = torch.from_numpy(np.repeat(x, step, axis=0)).to(machine.place)
        return judged(there(on_device[::step]), there(x))

    for name in ("Deep", "GRU"):
        yield f"{name}, contiguous", partial(explained, name, 1)
        yield f"{name}, every second", partial(explained, name, 2)


def streams(machine: Machine) -> Cases:
    """Explain on streams of several threads, behind work that makes the input there."""
    there, here = pair("Deep", "deep_taylor")
    shape, n = MODELS["Deep"].shape, 9 if machine.emulated else 500
    wide = 32 if machine.emulated else 4096

    def explained(seed: int) -> Row:
        x = samples(shape, n, seed)
        copied = torch.from_numpy(x).to(machine.place)
        machine.wait()
        with machine.using(machine.stream()):
            ready = torch.ones(wide, wide, device=machine.place)
            for _ in range(4):  # the input is ready late, so that a call on another stream shows
                ready = ready @ ready / wide
            found = there(copied * ready[0, 0])
            machine.wait()
        return judged(found, here(x))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(explained, seed) for seed in range(4)]
        for seed, each in enumerate(running):
            yield f"thread {seed}", each.result


def memory(machine: Machine) -> Cases:
    """Explain where the device is full: in smaller parts or refused, and well afterwards."""
    there, here = pair("Deep", "deep_taylor")
    x = samples(MODELS["Deep"].shape, 40 if machine.emulated else 200_000)
    there(x[:0])  # which loads the program
    wanted = here(x)

    def explained(spare: int) -> Row:
        with machine.full(spare):
            try:
                return {**judged(there(x), wanted), "note": "explained"}
            except MemoryError as error:
                return {"right": True, "note": f"refused: {error}"[:200]}

    for spare in (500, 100_000) if machine.emulated else (0, 1 << 24, 1 << 28):
        yield f"{spare} bytes unused", partial(explained, spare)
    yield "memory again", lambda: judged(there(x), wanted)


CHECKS: tuple[Callable[[Machine], Cases], ...] = (
    *(beside_cpu, beside_float64, divisions, orders, batches, pointers, streams, memory),
)


def results(check: Callable[[Machine], Cases], machine: Machine) -> Iterator[Row]:
    """Run the cases of a check; one that fails says so, and the others still tell something."""
    try:
        for case, run in check(machine):
            try:
                yield {"case": case, **run()}
            except Exception as error:
                yield {"case": case, "failure": f"{type(error).__name__}: {error}"[:400]}
    except Exception as error:
        yield {"failure": f"{type(error).__name__}: {error}"[:400]}


def main() -> None:
    """Run all checks; exit status 1 if a row is not right."""
    options = options_of(__doc__)
    machine, rows = Machine(options.emulated), Rows(options.out, KEYS)
    for check in CHECKS:
        for row in results(check, machine):
            rows.add(check=check.__name__, **row)
    raise SystemExit(1 if rows.wrong else 0)


if __name__ == "__main__":
    main()
