# SPDX-License-Identifier: Apache-2.0
"""The contestants: pyrel in its variants, and its peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyrel._core import has_bf16, instruction_sets
from pyrel.engine import config as runtime

PROPAGATION, GRADIENTS = ("deep_taylor",), ("sensitivity", "guided_backprop")
METHODS = (*PROPAGATION, *GRADIENTS)
LRP = ("lrp_epsilon",)
EPSILON = 1e-3  # of lrp_epsilon, as published with LSTM-LRP
LINEAR, CONVOLUTIONAL, GATED = (
    ("Shallow", "Deep", "DeepV2"),
    ("ConvDeep", "ConvDeepWide"),
    ("LSTM", "GRU"),
)
CELLS = (*LINEAR, *CONVOLUTIONAL, *GATED)
LEAST_COSINE = 0.9999
INSTALL = 'pip install "pyrel[bench]"'


@dataclass(frozen=True)
class Contestant:
    """One way to explain a cell, in a process of its own.

    Attributes
    ----------
    name : str
        As the command line takes it.
    title : str
        As tables show it.
    maker : str
        As `pyrel.benchmark.jobs.make_runner` takes it.
    methods
        What it can explain with.
    cells
        What it can explain.
    packages
        What has to be importable.
    isa
        Instruction set that it needs beyond what every machine has, or that pyrel is told to use.
    environment
        Variables of its process.
    options
        For the maker.
    box
        Whether its deep Taylor takes the z^β rule at pixels; otherwise z⁺, and its answers are
        compared with that.
    bf16
        Whether it needs products of bfloat16. Its answers are then held to a cosine with float64
        of `LEAST_COSINE`, as float32's bounds are not for them.
    exempt
        Part of the samples of a batch that may have a smaller one.
    note
        For the reader of results.
    """

    name: str
    title: str
    maker: str
    methods: tuple[str, ...] = METHODS
    cells: tuple[str, ...] = LINEAR
    packages: tuple[str, ...] = ()
    isa: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    box: bool = True
    bf16: bool = False
    exempt: float = 0.0
    note: str | None = None

    @property
    def is_pyrel(self) -> bool:
        """True for pyrel in any variant."""
        return self.maker == "pyrel.benchmark.peers.runners:pyrel"

    def why_not(self) -> str | None:
        """Return why it cannot take part on this machine, or None."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)} not installed; to include it: {INSTALL}"
        if self.isa is not None and self.isa not in instruction_sets():
            return f"this machine has no {self.isa}"
        if self.bf16 and not has_bf16(runtime.isa()):
            return "this machine, or PYREL_ISA, has no products of bfloat16"
        return None


PYREL = "pyrel"

CONTESTANTS: tuple[Contestant, ...] = (
    Contestant(
        PYREL,
        "pyrel",
        "pyrel.benchmark.peers.runners:pyrel",
        methods=(*METHODS, *LRP),
        cells=CELLS,
    ),
    Contestant(
        "pyrel-avx2",
        "pyrel, AVX2",
        "pyrel.benchmark.peers.runners:pyrel",
        methods=(*METHODS, *LRP),
        cells=CELLS,
        isa="avx2",
        environment={"PYREL_ISA": "avx2"},
    ),
    Contestant(
        "pyrel-bf16",
        "pyrel, bf16",
        "pyrel.benchmark.peers.runners:pyrel",
        methods=PROPAGATION,
        options={"precision": "bf16"},
        bf16=True,
    ),
    Contestant(
        "pyrel-bf16-all",
        "pyrel, bf16_all",
        "pyrel.benchmark.peers.runners:pyrel",
        methods=PROPAGATION,
        options={"precision": "bf16_all"},
        bf16=True,
        exempt=0.01,  # where a ReLU flips
    ),
    Contestant(
        "torch",
        "torch by hand",
        "pyrel.benchmark.peers.runners:torch",
        methods=(*METHODS, *LRP),
        cells=CELLS,
    ),
    Contestant(
        "torch-compile",
        "torch.compile of that",
        "pyrel.benchmark.peers.runners:torch",
        options={"compile": True},
    ),
    Contestant("jax", "JAX jit of that", "pyrel.benchmark.peers.runners:jax", packages=("jax",)),
    Contestant("numpy", "NumPy of that", "pyrel.benchmark.peers.runners:numpy"),
    Contestant(
        "numpy-skylakex",
        "NumPy, SkylakeX",
        "pyrel.benchmark.peers.runners:numpy",
        isa="avx512",
        environment={"OPENBLAS_CORETYPE": "SkylakeX"},
    ),
    Contestant(
        "lstm-lrp",
        "LSTM-LRP, NumPy",
        "pyrel.benchmark.peers.runners:lstm_lrp",
        methods=LRP,
        cells=GATED,
    ),
    Contestant(
        "torch-autograd",
        "torch autograd",
        "pyrel.benchmark.peers.packages:autograd",
        methods=GRADIENTS,
    ),
    Contestant(
        "zennit",
        "zennit",
        "pyrel.benchmark.peers.packages:zennit",
        methods=(*PROPAGATION, "guided_backprop"),
        packages=("zennit",),
    ),
    Contestant(
        "captum",
        "captum",
        "pyrel.benchmark.peers.packages:captum",
        packages=("captum",),
        box=False,
        note="its LRP has no z^β rule, so its deep Taylor takes z⁺ at the pixels too, and is "
        "compared with that",
    ),
)


def methods_of(cell: str) -> tuple[str, ...]:
    """Return the methods that a cell is measured with: those that somebody wrote by hand for it."""
    if cell in GATED:
        return LRP
    if cell in CONVOLUTIONAL:
        return PROPAGATION
    return METHODS if cell in LINEAR else ()


def chosen(names: Sequence[str] | None = None) -> list[Contestant]:
    """Return contestants by name, pyrel always first; all of them if no names are given.

    Raises
    ------
    ValueError
        If there is none of a name.
    """
    known = {c.name: c for c in CONTESTANTS}
    if names is None:
        return list(CONTESTANTS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"contestants: no {', '.join(unknown)}; there are {', '.join(known)}")
    return [c for c in CONTESTANTS if c.name == PYREL or c.name in names]


def thread_counts(threads: int) -> dict[str, str]:
    """Return the variables that tell libraries, and a worker, how many threads to use."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYREL_NUM_THREADS")
    return {name: str(threads) for name in names}


def environment(contestant: Contestant, threads: int) -> dict[str, str]:
    """Return the variables that a contestant's process gets on top of the present ones."""
    # torch.compile would start a pool of processes of its own.
    alone = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return thread_counts(threads) | alone | dict(contestant.environment)
