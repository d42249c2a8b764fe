# SPDX-License-Identifier: Apache-2.0
"""Explains with the programs in a folder, by the PYREL_ISA that it is started with.

Beside each `NAME.program` lies its input `NAME.npy`; the fields go to `NAME.npz`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import pyrel

FIELDS = ("relevance", "output", "target", "absorbed", "conservation", "amplification")


def bits(e: Any) -> tuple[bytes, ...]:
    """Return every field of an explanation as bytes."""
    return tuple(np.ascontiguousarray(getattr(e, field)).tobytes() for field in FIELDS)


def explain_all(folder: Path) -> None:
    """Explain the input of every program, and write all fields of the results."""
    for path in sorted(folder.glob("*.program")):
        e = pyrel.Explainer.load(path)(np.load(path.with_suffix(".npy")))
        np.savez(path.with_suffix(".npz"), **{field: getattr(e, field) for field in FIELDS})


if __name__ == "__main__":
    assert os.environ["PYREL_ISA"] in str(pyrel.show_config()).lower()
    explain_all(Path(sys.argv[1]))
