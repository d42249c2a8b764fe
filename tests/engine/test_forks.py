# SPDX-License-Identifier: Apache-2.0
"""Children forked while other threads compile or capture: none waits for what they held."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine.sequences import FEATURES, Last, batch, explainer
from torch import Tensor, nn
from torch.nn.utils import rnn

import pyrel
from pyrel.compiler.capture.forks import RenewedLock
from pyrel.engine.compile import Compiler
from pyrel.engine.stability import UNSTABLE, StabilityWarning

# Python 3.12 warns of any fork in a process with threads, which is what is tried here.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SECONDS = 30  # after which a child that hangs is killed


def in_child(do: Callable[[], bool]) -> bool:
    """Do something in a forked child, and return whether that was so before it was killed."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            os._exit(0 if do() else 3)
        finally:
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_compiles_while_another_thread_of_the_parent_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = explainer(Last, "deep_taylor")
    at, inside, go_on = Compiler.at, threading.Event(), threading.Event()

    def slow(self: Compiler, steps: int) -> object:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(SECONDS)
        return at(self, steps)

    x, other = batch(Last, 2, 19), batch(Last, 2, 20)
    wanted = explainer(Last, "deep_taylor")(x).relevance
    monkeypatch.setattr(Compiler, "at", slow)
    thread = threading.Thread(target=lambda: shared(other))
    thread.start()
    try:
        assert inside.wait(SECONDS)
        assert in_child(lambda: np.array_equal(shared(x).relevance, wanted))
    finally:
        go_on.set()
        thread.join()
    assert np.array_equal(shared(x).relevance, wanted)


def test_a_child_warns_while_another_thread_of_the_parent_did() -> None:
    def holding(lock: RenewedLock, held: threading.Event, let_go: threading.Event) -> None:
        with lock:
            held.set()
            assert let_go.wait(SECONDS)

    warning = StabilityWarning()
    held, let_go = threading.Event(), threading.Event()
    thread = threading.Thread(target=holding, args=(warning._lock, held, let_go))
    thread.start()
    assert held.wait(SECONDS)

    def warns() -> bool:
        warning.check(np.full(3, 2 * UNSTABLE, np.float32))
        return warning._warned

    try:
        assert in_child(warns)
    finally:
        let_go.set()
        thread.join()


def test_a_child_goes_on_to_hold_what_its_thread_held() -> None:
    lock = RenewedLock()

    def forks_within() -> bool:
        with lock:
            child = os.fork()
            held = lock._lock.locked()
        if child == 0:
            os._exit(0 if held else 3)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert in_child(forks_within)


class Waits(nn.Module):
    """A model whose capture another thread can look into."""

    def __init__(self, inside: threading.Event) -> None:
        super().__init__()
        self.core = nn.GRU(FEATURES, 3, batch_first=True)
        self.inside = [inside]

    def forward(self, x: Tensor) -> Tensor:
        if rnn.invert_permutation is not ORIGINAL:
            self.inside[0].set()
            threading.Event().wait(0.5)
        return self.core(x)[0][:, -1]


ORIGINAL = rnn.invert_permutation


def test_a_fork_waits_for_a_capture_which_patches_torch() -> None:
    inside = threading.Event()
    x = np.zeros((2, 5, FEATURES), np.float32)
    thread = threading.Thread(target=lambda: pyrel.capture(Waits(inside), x))
    thread.start()
    assert inside.wait(SECONDS)

    def captures() -> bool:
        return rnn.invert_permutation is ORIGINAL and pyrel.capture(nn.Flatten(), x) is not None

    try:
        assert in_child(captures)
    finally:
        thread.join()


def test_a_child_compiles_though_the_threads_of_torch_are_the_parents() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        large = torch.ones(1000, 1000)
        large.add(large).sum()  # starts threads, which a child's operators would wait for
        wide = nn.Sequential(nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 3)).eval()
        x = np.ones((2, 64), np.float32)
        wanted = pyrel.Explainer(wide, x, "gradient")(x).relevance

        def compiles() -> bool:
            found = pyrel.Explainer(wide, x, "gradient")(x).relevance
            return np.array_equal(found, wanted) and torch.get_num_threads() == 2

        assert in_child(compiles)
    finally:
        torch.set_num_threads(threads)
