# SPDX-License-Identifier: Apache-2.0
"""Digest the bits of every explanation of the tests' models, and compare with stored digests.

Bits depend on no thread count and on no instruction set with fused multiply-add, but on what torch
and NumPy compute while a model is compiled. So digests are stored with the processor that they were
made on; a change of the compiler that is to keep all bits is checked on one machine, before and
after it:

    python tools/digests.py --write before.json
    python tools/digests.py --compare before.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from engine.cases import ALL_CASES
from engine.cases import inputs as inputs_of
from engine.fields import bits
from engine.zoo import ZOO

import pyrel

VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("gradient", {}),
    ("sensitivity", {}),
    ("guided_backprop", {}),
    ("gradient_x_input", {}),
    ("deep_taylor", {}),
    ("deep_taylor", {"gates": "half"}),
    ("deep_taylor", {"pooling": "winner"}),
    ("lrp_epsilon", {}),
    ("lrp_epsilon", {"gates": "half"}),
    ("lrp_epsilon", {"pooling": "proportional"}),
    ("lrp_epsilon", {"detach": "stop"}),
)


def _reweighted(module: nn.Module) -> nn.Module:
    """Set the weights to numbers that no version of torch makes otherwise."""
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in module.parameters():
            width = (6 / max(sum(parameter.shape), 1)) ** 0.5 if parameter.dim() > 1 else 0.2
            drawn = rng.uniform(-width, width, tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(drawn))
    return module


def _models() -> Iterator[tuple[str, nn.Module, Any, dict[str, Any]]]:
    """Yield name, module, inputs and domain of every model."""
    for exhibit in ZOO:
        yield f"zoo/{exhibit.name}", exhibit.module, exhibit.inputs, exhibit.domain
    for case in ALL_CASES:
        domain = {"low": case.low, "high": case.high}
        yield f"cases/{case.name}", case.module(), inputs_of(case, 30), domain


def digests(only: str) -> dict[str, str]:
    """Digest every explanation of models whose names hold ``only``; of refusals, the error."""
    found: dict[str, str] = {}
    for name, module, x, domain in _models():
        if only not in name:
            continue
        graph = pyrel.capture(_reweighted(module), x[:2])
        for method, options in VARIANTS:
            key = " ".join([name, method, *(f"{k}={v}" for k, v in options.items())])
            try:
                explainer = pyrel.Explainer(
                    graph, x[:2], method=method, check=None, **domain, **options
                )
                parts = b"".join(bits(explainer(x)))
            except (pyrel.UnsupportedModelError, ValueError) as error:
                found[key] = type(error).__name__
                continue
            found[key] = hashlib.sha256(parts).hexdigest()[:16]
    return found


def main() -> int:
    """Write or compare; 1 where a digest differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE")
    action.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose names hold it")
    options = parser.parse_args()
    now = digests(options.only)
    if options.write:
        options.write.write_text(json.dumps(now, indent=1) + "\n", "utf-8")
        print(f"{len(now)} digests")
        return 0
    stored = json.loads(options.compare.read_text("utf-8"))
    before = {key: digest for key, digest in stored.items() if options.only in key.split()[0]}
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    for key in differ:
        print(f"{key}: {before.get(key)} before, {now.get(key)} now")
    print(f"{len(now)} digests, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
