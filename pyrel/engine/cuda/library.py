# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the CUDA library, whose C interface is csrc/cuda/interface.h.

Nothing of it is loaded before somebody asks for a device.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

from pyrel import _core
from pyrel.errors import CudaError

VARIABLE = "PYREL_CUDA_LIBRARY"
INTERFACE = 4
ERROR_BYTES = 512

INPUTS = ("x", "target", "low", "high")
RESULTS = ("relevance", "output", "explained", "absorbed", "conservation", "amplification")


class Batch(ctypes.Structure):
    """PyrelCudaBatch of the interface."""

    _fields_ = (
        ("samples", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in (*INPUTS, *RESULTS)),
        *((name, ctypes.c_int32) for name in ("check_finite", "precision", "groups")),
        *((name, ctypes.c_int32) for name in ("team", "teams", "ways", "by_steps", "in_parts")),
        *((name, ctypes.c_int32) for name in ("outcome", "element")),
        ("sample", ctypes.c_int64),
        ("stream", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("chunk", "done")),
    )


class Library:
    """The library, loaded.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CudaError
        If it cannot be loaded, or is that of another pyrel.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.functions = ctypes.CDLL(str(path))
            version = self.functions.pyrel_cuda_interface()
        except (OSError, AttributeError) as error:
            raise CudaError(f"the CUDA library cannot be loaded: {error}") from error
        if version != INTERFACE:
            raise CudaError(
                f"the CUDA library {path} is of another pyrel: its interface is {version}, and "
                f"this one needs {INTERFACE}"
            )
        self._declare()
        self._process: int | None = None  # the first that called

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that can fail; its last argument, for errors, is added.

        Raises
        ------
        CudaError
            If it fails, or if this process is a fork of one that has called before.
        """
        process = os.getpid()
        if self._process is None:
            self._process = process
        if self._process != process:
            raise CudaError(
                "CUDA does not survive a fork, and was used before this process was forked: start "
                'it by "spawn" or "forkserver", or use device="cpu" here'
            )
        error = ctypes.create_string_buffer(ERROR_BYTES)
        if getattr(self.functions, name)(*arguments, error):
            raise CudaError(f"CUDA: {error.value.decode(errors='replace')}")

    def devices(self) -> int:
        """Return how many devices there are; CudaError if the driver is missing or too old."""
        count = ctypes.c_int()
        try:
            self.call("pyrel_cuda_devices", ctypes.byref(count))
        except CudaError as error:
            if "cudaErrorInsufficientDriver" not in str(error):
                raise
            # CUDA has one word for both, and its text speaks of the second alone.
            raise CudaError(f"there is no NVIDIA driver, or one too old: {error}") from None
        return count.value

    def load(self, image: bytes, device: int) -> ctypes.c_void_p:
        """Copy an image to a device, until `free`; CudaError if that fails."""
        handle = ctypes.c_void_p()
        self.call("pyrel_cuda_load", image, len(image), device, ctypes.byref(handle))
        return handle

    def free(self, handle: ctypes.c_void_p) -> None:
        """Free what `load` made; in a forked child, which has no device, do nothing."""
        if self._process == os.getpid():
            self.functions.pyrel_cuda_free(handle)

    def _declare(self) -> None:
        text, handle = ctypes.c_char_p, ctypes.c_void_p
        made = self.functions
        made.pyrel_cuda_devices.argtypes = [ctypes.POINTER(ctypes.c_int), text]
        made.pyrel_cuda_load.argtypes = [
            *(text, ctypes.c_int64, ctypes.c_int),
            *(ctypes.POINTER(handle), text),
        ]
        for run in (made.pyrel_cuda_run, made.pyrel_cuda_run_from_host):
            run.argtypes = [handle, ctypes.POINTER(Batch), text]
        made.pyrel_cuda_free.argtypes = [handle]
        made.pyrel_cuda_free.restype = None


def is_built() -> bool:
    """Whether there is a library beside the extension, or the environment names one."""
    return bool(os.environ.get(VARIABLE, "").strip()) or _beside().is_file()


def _beside() -> Path:
    return Path(_core.__file__).parent / "libpyrel_cuda.so"


def library() -> Library:
    """Return the library: that beside the extension, or the one that the environment names.

    Raises
    ------
    CudaError
        If there is none, or it cannot be loaded.
    """
    given = os.environ.get(VARIABLE, "").strip()
    path = Path(given) if given else _beside()
    if not path.is_file():
        why = f"{VARIABLE} names {given}, and there is no such file"
        raise CudaError(
            why if given else "this pyrel was built without CUDA; build it with PYREL_CUDA=ON"
        )
    return _loaded(path.resolve())


_loaded = cache(Library)


def devices() -> int:
    """Return how many devices can be used; 0 where the library or the driver is not there."""
    try:
        return library().devices()
    except CudaError:
        return 0
