# SPDX-License-Identifier: Apache-2.0
"""Explains a few models under the PYREL_ISA that it is started with, and prints digests as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.cases import by_name, compiled, expected, inputs
from engine.checks import assert_deep_taylor, assert_gradient

import pyrel

FIELDS = ("relevance", "output", "target", "absorbed", "conservation")

MODELS = (
    ("Deep-T7-3-32-9", "deep_taylor"),
    ("Shallow-T7-65", "deep_taylor"),
    ("SlicedImage", "deep_taylor"),
    ("DeepV2-T7-65-31-33-17", "gradient"),
    ("Rearranged", "guided_backprop"),
)


def bits(e: Any) -> tuple[bytes, ...]:
    """Return every field of an explanation as bytes."""
    return tuple(np.ascontiguousarray(getattr(e, field)).tobytes() for field in FIELDS)


def digests() -> dict[str, str]:
    """Explain `MODELS`, each compared with the reference, and return the sha256 of the results."""
    found = {}
    for name, method in MODELS:
        case = by_name(name)
        e = compiled(case, method)(inputs(case))
        if method == "deep_taylor":
            assert_deep_taylor(e, expected(case, method))
        else:
            assert_gradient(e, expected(case, method))
        found[name] = hashlib.sha256(b"".join(bits(e))).hexdigest()
    return found


if __name__ == "__main__":
    assert os.environ["PYREL_ISA"] in str(pyrel.show_config()).lower()
    print(json.dumps(digests()))
