# SPDX-License-Identifier: Apache-2.0
"""Explain samples from a file into a file, in parts, so that neither has to fit in memory."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from pyrel._core import version
from pyrel.engine import arrays
from pyrel.engine.each_step import is_each_step
from pyrel.explainer import Explainer
from pyrel.files.arrays import NpzWriter, npz_in, open_array
from pyrel.files.atomic import replacing
from pyrel.files.places import refuse_overwriting
from pyrel.files.samples import SampleFile
from pyrel.files.unfinished import Journal, Piece, remove_unfinished, resumable

_PART_BYTES = 1 << 25
_PART_SAMPLES = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileSummary:
    """Counts and the largest error of one call of `explain_file`.

    Attributes
    ----------
    samples : int
    empty : int
        How many of them have no relevance at all, which is 0 everywhere.
    error : float
        How far relevance, with what was absorbed, is at most from adding up to what was put in;
        NaN for methods that do not propagate relevance.
    resumed : int
        How many samples a process had done that was killed; see ``resume`` of `explain_file`.
    """

    samples: int
    empty: int
    error: float
    resumed: int = 0


def explain_file(
    explainer: Explainer,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: int | npt.NDArray[Any] | None = None,
    lengths: npt.NDArray[Any] | None = None,
    key: str | None = None,
    progress: Progress | None = None,
    resume: str | None = None,
) -> FileSummary:
    """Explain all samples of a file.

    An .npy file is read part by part, an array of an .npz file whole; relevance is written part by
    part. A file that changes meanwhile is refused, so that a result does not mix two contents; but
    what another process writes through a memory map is not seen. The output file appears, or is
    replaced, when it is complete.

    Parameters
    ----------
    explainer
        Takes samples of the shape and type that the file has.
    source
        .npy or .npz file of floats, or of token ids, (n, ...).
    out
        .npz file to write, with the fields of `pyrel.Explanation` as arrays.
    target, lengths
        As an explainer takes them.
    key
        Name of the array in an .npz file; not needed if it holds a single one.
    progress
        Called with (samples done, samples in all).
    resume
        Anything that tells the model, and what it was compiled with, from all others, such as the
        digest of its file. Where a process was killed that explained the same samples with the same
        ``resume``, what it did is taken over, and the result has the same bytes as if it had not
        been killed. None to start anew. Either way nothing of it stays.

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
    _check_output(out, source)
    with open_array(source, key) as x:
        job = _job(explainer, source, x, target, lengths)
        with _output(out, resume, job) as (file, journal):
            with npz_in(file) as archive:
                job.write(archive, file, journal, progress)
            x.check_unchanged()
        return job.summary()


def _check_output(out: Path, source: Path) -> None:
    refuse_overwriting(out, {"the input": source})
    if out.suffix != ".npz":
        raise ValueError(f"{out}: wanted a name ending in .npz for the output")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder for the output", str(out.parent)
        )


def _job(explainer: Explainer, source: Path, x: SampleFile, target: Any, lengths: Any) -> _Job:
    """Check what is to be explained against the explainer."""
    explainer.inputs.check(x.like, str(source))
    if is_each_step(target):
        raise ValueError(f"target: {target!r} is for a call of an explainer, and not for files")
    classes = explainer.classes
    if explainer.any_steps and (lengths is None or explainer.outputs.follow_steps):
        classes = explainer.classes_at(x.shape[1])
    explainer.outputs.check_asked(target, classes)
    # Copies, for a memory map might change before its last part is needed.
    targets = explainer.outputs.index(_copied(target), len(x), classes)
    lengths = _copied(lengths)
    if lengths is not None:
        arrays.lengths(lengths, len(x), x.shape[1])
    return _Job(explainer, source, x, targets, lengths, classes)


def _copied(given: Any) -> Any:
    return np.array(given) if isinstance(given, np.ndarray) else given


@contextmanager
def _output(out: Path, resume: str | None, job: _Job) -> Iterator[tuple[IO[bytes], Journal]]:
    """Open the output, which takes its place in the end, and the journal of what is done of it."""
    if resume is not None:
        with resumable(out, job.identity(resume)) as opened:
            yield opened
    else:
        remove_unfinished(out)
        with replacing(out) as (file,):
            yield file, Journal()


class _Job:
    """The samples of a file with their targets and lengths, and the results beside relevance."""

    def __init__(
        self,
        explainer: Explainer,
        source: Path,
        x: SampleFile,
        targets: npt.NDArray[Any] | None,
        lengths: npt.NDArray[Any] | None,
        classes: int,
    ) -> None:
        self._explainer, self._source, self._x = explainer, source, x
        self._targets, self._lengths, self._classes = targets, lengths, classes
        index = explainer.outputs.dimensions
        self.columns: dict[str, npt.NDArray[Any]] = {
            "output": np.empty((len(x), *explainer.outputs.of(classes)), np.float32),
            "target": np.empty((len(x), index) if index > 1 else len(x), np.int64),
            "absorbed": np.empty(len(x), np.float32),
            "conservation": np.empty(len(x), np.float32),
            "amplification": np.empty(len(x), np.float32),
        }
        self.empty = self.resumed = 0

    def summary(self) -> FileSummary:
        """Return what was done."""
        errors = np.abs(self.columns["conservation"] + self.columns["absorbed"])
        error = float(np.max(errors, initial=0.0))
        return FileSummary(len(self._x), self.empty, error, self.resumed)

    def identity(self, given: str) -> str:
        """Digest of all that each part depends on; `given` tells the model."""
        x, explainer = self._x, self._explainer
        about_input = [list(x.shape), str(x.dtype), self._classes, list(self.columns)]
        facts = [version(), torch.__version__, given, repr(explainer), about_input]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def write(
        self, archive: NpzWriter, file: IO[bytes], journal: Journal, progress: Progress | None
    ) -> None:
        """Write all arrays, part by part, those of a killed process again."""
        x = self._x
        with archive.parts("relevance", x.shape, np.float32) as relevance:
            for number, part in enumerate(_parts(x)):
                values = x.piece(part)
                key = self._key(values, part) if journal.kept else ""
                piece = journal.piece(number, key)
                content = None if piece is None else _there(file, values.shape, piece)
                if piece is None or content is None:
                    journal.keep(number)
                    content, columns = self._explained(values, part)
                    relevance.write(content.data)
                    file.flush()
                    journal.add(Piece(key, zlib.crc32(content.data), columns))
                else:
                    columns = piece.columns
                    relevance.write(content.data)
                    self.resumed += len(values)
                self.empty += sum(not sample.any() for sample in content)
                for name, column in self.columns.items():
                    column[part] = columns[name]
                if progress is not None:
                    progress(part.stop, len(x))
        for name, column in self.columns.items():
            archive.add(name, column)

    def _key(self, values: npt.NDArray[Any], part: slice) -> str:
        """Digest of the samples of a part, and of what is asked about them."""
        digest = hashlib.sha256(np.ascontiguousarray(values).data)
        for asked in (self._targets, self._lengths):
            digest.update(b"none" if asked is None else asked[part].astype(np.int64).tobytes())
        return f"{len(values)} {digest.hexdigest()}"

    def _explained(
        self, values: npt.NDArray[Any], part: slice
    ) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
        """Explain one part; an error counts samples as the file does, not as the part."""
        targets = None if self._targets is None else self._targets[part]
        steps = None if self._lengths is None else self._lengths[part]
        try:
            e = self._explainer(values, targets, lengths=steps)
        except ValueError as error:
            finite = np.isfinite(values)
            if steps is not None:
                finite[np.arange(values.shape[1]) >= steps[:, None]] = True
            finite = finite.reshape(len(values), -1).all(axis=1)
            if not finite.all():
                bad = part.start + int(np.argmin(finite))
                raise ValueError(
                    f"{self._source}: NaN or infinity in sample {bad}; wanted finite numbers"
                ) from error
            message = _counted_from(part.start, str(error))
            raise ValueError(f"{self._source}: {message}") from error
        columns = {name: np.asarray(getattr(e, name)) for name in self.columns}
        return np.ascontiguousarray(e.relevance), columns


def _there(file: IO[bytes], shape: tuple[int, ...], piece: Piece) -> npt.NDArray[np.float32] | None:
    """Read the relevance of a part where it is to be written next; None if it is not there."""
    content = os.pread(file.fileno(), 4 * math.prod(shape), file.tell())
    if len(content) != 4 * math.prod(shape) or zlib.crc32(content) != piece.checksum:
        return None
    return np.frombuffer(content, np.float32).reshape(shape)


def _parts(x: SampleFile) -> Iterator[slice]:
    """Divide the samples so that a part fits easily in memory, and Ctrl-C is soon heard."""
    size = max(1, min(_PART_SAMPLES, _PART_BYTES // max(1, x.sample_bytes)))
    for first in range(0, len(x), size):
        yield slice(first, min(first + size, len(x)))


def _counted_from(first: int, message: str) -> str:
    """Add to the number of the sample in "x[476]" or "x[476, 3]" that of the part's first."""
    return re.sub(r"\bx\[(\d+)", lambda found: f"x[{first + int(found[1])}", message)
