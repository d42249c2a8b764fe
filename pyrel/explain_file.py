# SPDX-License-Identifier: Apache-2.0
"""Explain samples from a file into a file, in parts, so that neither has to fit in memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine import arrays
from pyrel.explainer import Explainer
from pyrel.explanation import Explanation
from pyrel.files.arrays import open_array, whole_npz
from pyrel.files.samples import SampleFile

_PART_BYTES = 1 << 25
_PART_SAMPLES = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileSummary:
    """What `explain_file` did.

    Attributes
    ----------
    samples : int
    empty : int
        How many of them have no relevance at all, which is 0 everywhere.
    error : float
        How far relevance, with what was absorbed, is at most from adding up to what was put in;
        NaN for methods that do not propagate relevance.
    """

    samples: int
    empty: int
    error: float


def explain_file(
    explainer: Explainer,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: int | npt.NDArray[Any] | None = None,
    lengths: npt.NDArray[Any] | None = None,
    key: str | None = None,
    progress: Progress | None = None,
) -> FileSummary:
    """Explain all samples of a file.

    An .npy file is read part by part, an array of an .npz file whole. A file that changes meanwhile
    is refused: a result never mixes two contents. The relevance is written part by part too. The
    output file is there when it is complete, never before; an existing one is replaced then.

    Parameters
    ----------
    explainer
        Takes samples of the shape and type that the file has.
    source
        .npy or .npz file of floats, or of token ids, (n, ...).
    out
        .npz file to write: ``relevance`` (float32, shape of the input), ``output`` (n, classes),
        ``target``, ``absorbed``, ``conservation`` and ``amplification`` (n,), as in
        `pyrel.Explanation`.
    target
        The class to explain, or one for each sample; None for the predicted class.
    lengths
        How many steps each sequence has, integers (n,), if the explainer takes lengths; None where
        all are as long as in the file.
    key
        Name of the array in an .npz file; not needed if it holds a single one.
    progress
        Called with (samples done, samples in all).

    Raises
    ------
    OSError
        If a file cannot be read or written, or the input changes meanwhile.
    ValueError, TypeError
        If the input is damaged or no array of the right type and shape, if it holds NaN, infinity,
        values outside the explainer's [low, high] or unknown token ids; if `target` or `lengths` do
        not fit; if `out` is not named .npz or is the input. The message names the file, and the
        sample where there is one.
    """
    source, out = Path(source), Path(out)
    refuse_overwriting(out, {"the input": source})
    if out.suffix != ".npz":
        raise ValueError(f"{out}: wanted a name ending in .npz for the output")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder for the output", str(out.parent)
        )
    with open_array(source, key) as x:
        explainer.inputs.check(x.like, str(source))
        classes = explainer.classes
        if explainer.any_steps and lengths is None:
            classes = explainer.classes_at(x.shape[1])
        targets = arrays.targets(target, len(x), classes)
        if lengths is not None:
            arrays.lengths(lengths, len(x), x.shape[1])
        columns: dict[str, npt.NDArray[Any]] = {
            "output": np.empty((len(x), classes), np.float32),
            "target": np.empty(len(x), np.int64),
            "absorbed": np.empty(len(x), np.float32),
            "conservation": np.empty(len(x), np.float32),
            "amplification": np.empty(len(x), np.float32),
        }
        empty = 0
        with whole_npz(out) as archive:
            with archive.parts("relevance", x.shape, np.float32) as relevance:
                for part in _parts(x):
                    e = _explain(explainer, source, x, part, targets, lengths)
                    relevance.write(np.ascontiguousarray(e.relevance).data)
                    empty += sum(not sample.any() for sample in e.relevance)
                    for name, column in columns.items():
                        column[part] = getattr(e, name)
                    if progress is not None:
                        progress(part.stop, len(x))
            for name, column in columns.items():
                archive.add(name, column)
            x.check_unchanged()
    errors = np.abs(columns["conservation"] + columns["absorbed"])
    return FileSummary(len(x), empty, float(np.max(errors, initial=0.0)))


def refuse_overwriting(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse an output that is one of the files to read, by whatever name or link.

    Parameters
    ----------
    out
        Where the output is to be; it need not be there.
    inputs
        Files by what they are called in the message; they need not be there.

    Raises
    ------
    ValueError
        If they are one file.
    """
    for what, path in inputs.items():
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(
                f"{out} is {what}, which the output would replace; give another name for the output"
            )


def _parts(x: SampleFile) -> Iterator[slice]:
    """Divide the samples so that a part fits easily in memory, and Ctrl-C is soon heard."""
    size = max(1, min(_PART_SAMPLES, _PART_BYTES // max(1, x.sample_bytes)))
    for first in range(0, len(x), size):
        yield slice(first, min(first + size, len(x)))


def _explain(
    explainer: Explainer,
    source: Path,
    x: SampleFile,
    part: slice,
    targets: npt.NDArray[Any] | None,
    lengths: npt.NDArray[Any] | None,
) -> Explanation:
    """Explain one part; an error counts samples as the file does, not as the part."""
    values = x.piece(part)
    some = None if targets is None else targets[part]
    steps = None if lengths is None else lengths[part]
    try:
        return explainer(values, some, lengths=steps)
    except ValueError as error:
        finite = np.isfinite(values)
        if steps is not None:
            finite[np.arange(values.shape[1]) >= steps[:, None]] = True
        finite = finite.reshape(len(values), -1).all(axis=1)
        if not finite.all():
            bad = part.start + int(np.argmin(finite))
            raise ValueError(
                f"{source}: NaN or infinity in sample {bad}; wanted finite numbers"
            ) from error
        raise ValueError(f"{source}: {_counted_from(part.start, str(error))}") from error


def _counted_from(first: int, message: str) -> str:
    """Add to the number of the sample in "x[476]" or "x[476, 3]" that of the part's first."""
    return re.sub(r"\bx\[(\d+)", lambda found: f"x[{first + int(found[1])}", message)
