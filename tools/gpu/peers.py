# SPDX-License-Identifier: Apache-2.0
"""The same explanations by torch on the device, and torch's forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from machine import Machine
from models import Answered
from torch import Tensor

from pyrel.benchmark.contestants import GATED
from pyrel.benchmark.peers.runners import torch_by_hand
from pyrel.benchmark.peers.with_torch import TorchLibrary

Explain = Callable[[Tensor], Tensor]

LARGEST = 16_384  # samples at once: what the peers keep of more does not fit the memory


class Peer(NamedTuple):
    """A way to explain, or with ``forward`` only to compute outputs.

    ``make`` takes a part of a batch and returns a function that explains this part again.
    """

    name: str
    make: Callable[[Tensor], Callable[[], Tensor]]
    tf32: bool = False
    forward: bool = False


class DeviceLibrary(TorchLibrary):
    """torch's operations on the device."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._place = machine.place

    def array(self, values: npt.NDArray[Any]) -> Tensor:
        """Return a tensor of the values there."""
        return super().array(values).to(self._place)


def peers_of(case: Answered, machine: Machine, compiled: bool) -> Iterator[Peer]:
    """List the peers for a cell and a method; ``compiled`` for those that take long to make."""
    if case.job.method == "gradient":
        yield Peer("torch autograd", _autograd(case, machine))
        yield Peer("torch autograd, TF32", _autograd(case, machine), tf32=True)
    else:
        explain = _without_gradients(torch_by_hand(case.job, DeviceLibrary(machine)))
        if compiled:
            yield Peer("torch.compile", _compiled(explain, machine))
            yield Peer("torch.compile, TF32", _compiled(explain, machine), tf32=True)
            return
        for tf32, ending in ((False, ""), (True, ", TF32")):
            yield Peer(f"torch{ending}", lambda x: lambda: explain(x), tf32)
            yield Peer(f"torch, CUDA graph{ending}", _graph(explain, machine), tf32)
    if case.job.config["cell"] in GATED and not compiled:
        yield Peer("cuDNN forward", _forward(case, machine), forward=True)
        yield Peer("cuDNN forward, TF32", _forward(case, machine), tf32=True, forward=True)


def whole(peer: Peer, x: Tensor) -> Callable[[], Tensor]:
    """Return a function that explains a batch by a peer, in equal parts where it is large."""
    count = 1
    while len(x) > count * LARGEST or len(x) % count:
        count += 1
    if count == 1:
        return peer.make(x)
    result: list[Tensor] = []
    part = x[: len(x) // count].clone()
    explain = peer.make(part)

    def run() -> Tensor:
        found = None
        for n, each in enumerate(x.split(len(part))):
            part.copy_(each)
            answer = explain()
            if not result:
                result.append(answer.new_empty((len(x), *answer.shape[1:])))
            found = result[0]
            found[n * len(part) : (n + 1) * len(part)] = answer
        assert found is not None
        return found

    return run


def _without_gradients(explain: Explain) -> Explain:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return explain(x)

    return run


def _graph(explain: Explain, machine: Machine) -> Callable[[Tensor], Callable[[], Tensor]]:
    return lambda x: machine.captured(lambda: explain(x))


def _compiled(explain: Explain, machine: Machine) -> Callable[[Tensor], Callable[[], Tensor]]:
    def make(x: Tensor) -> Callable[[], Tensor]:
        torch.compiler.reset()
        backend = "eager" if machine.emulated else "inductor"
        run: Explain = torch.compile(explain, dynamic=False, backend=backend)
        return lambda: run(x)

    return make


def _autograd(case: Answered, machine: Machine) -> Callable[[Tensor], Callable[[], Tensor]]:
    # cuDNN's way back asks for layers in training mode, which without dropout compute the same.
    cell = copy.deepcopy(case.cell).to(machine.place).train()
    shape = (cell.steps, *cell.step_shape)

    def make(x: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            given = x.reshape(len(x), *shape).detach().requires_grad_()
            return torch.autograd.grad(cell(given).max(1).values.sum(), given)[0]

        return run

    return make


def _forward(case: Answered, machine: Machine) -> Callable[[Tensor], Callable[[], Tensor]]:
    layers = copy.deepcopy(case.cell).to(machine.place).layers
    return lambda x: lambda: _without_gradients(lambda given: layers(given)[0][:, -1])(x)
