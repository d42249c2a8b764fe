# SPDX-License-Identifier: Apache-2.0
"""The problems that cells are trained on: images of one data set, single or as majority samples."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pyrel.data import load_images, majority, sequence
from pyrel.data._checks import SIDE
from pyrel.training.recipes import TEST_SEED

Kind = Literal["majority", "sequence"]
Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

DIGITS_IN_SAMPLE = 3
LOW, HIGH = 0.0, 1.0  # the range of the pixels

_STEPS = {"majority": 12, "sequence": 4}
_CLASS_NAMES = {
    "fashion-mnist": (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A classification problem over sequences.

    Attributes
    ----------
    dataset : str
        As `pyrel.data.load_images` takes it.
    kind : {"majority", "sequence"}
        Three images side by side, two of them of the class that is asked for; or one image.
    steps : int
        Into how many strips of columns a sample is cut.

    Raises
    ------
    ValueError
        `kind` is another one, or `steps` does not divide the columns of a sample.
    """

    dataset: str
    kind: Kind
    steps: int

    def __post_init__(self) -> None:
        """Check kind and steps."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"problem: no {self.kind!r}; there are {', '.join(get_args(Kind))}")
        if self.steps < 1 or self.columns % self.steps:
            raise ValueError(
                f"steps: wanted a divisor of {self.columns}, the columns of a {self.kind} sample; "
                f"given {self.steps}"
            )

    @classmethod
    def of(cls, dataset: str, kind: Kind, steps: int | None = None) -> Problem:
        """Return a problem with the usual number of steps: 12 for majority, 4 for sequence."""
        return cls(dataset, kind, _STEPS.get(kind, 1) if steps is None else steps)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Problem | None:
        """Return the problem that a saved model was trained on; None where it does not say."""
        described = metadata.get("extra", {}).get("problem")
        if not isinstance(described, dict) or described.keys() != {"dataset", "kind", "steps"}:
            return None
        return cls(**described)

    @property
    def columns(self) -> int:
        """Pixel columns of a sample."""
        return SIDE * (DIGITS_IN_SAMPLE if self.kind == "majority" else 1)

    @property
    def step_shape(self) -> tuple[int, int]:
        """Rows and columns of one step."""
        return SIDE, self.columns // self.steps

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ten classes."""
        return _CLASS_NAMES.get(self.dataset, tuple("0123456789"))

    def describe(self) -> str:
        """Return the problem as a sentence for readers."""
        what = "article" if self.dataset == "fashion-mnist" else "digit"
        height, width = self.step_shape
        strips = f"as {self.steps} steps of {height} × {width} pixels"
        if self.kind == "majority":
            return f"Three {what}s side by side, read {strips}: which {what} is there twice?"
        return f"One {what}, read {strips}: which one is it?"

    def images(self, split: str, root: str | os.PathLike[str] | None = None) -> Images:
        """Return images and labels of a split; see `pyrel.data.load_images`.

        Raises
        ------
        OSError
            `root` is no folder; its files would be looked for elsewhere, and downloaded.
        Exception
            As `pyrel.data.load_images`.
        """
        if root is not None and not Path(root).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is no such folder", os.fspath(root))
        return load_images(self.dataset, split, root)

    def refuse_few(self, labels: npt.NDArray[np.integer], what: str) -> None:
        """Refuse images that no samples can be made of; the message says what they are for.

        Raises
        ------
        ValueError
            For majority samples, there is a single class, or one with a single image.
        """
        counts = np.unique(labels, return_counts=True)[1]
        if self.kind == "majority" and (len(counts) < 2 or counts.min() < 2):
            raise ValueError(
                f"{what}: majority samples take two images or more of each class, of two classes "
                f"or more; {len(labels):,} images are too few for that"
            )

    def samples(
        self, images: Images, seed: int = TEST_SEED, count: int | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
        """Return (x, y, relevant), a sample for each image; relevant is None for `sequence`.

        Parameters
        ----------
        images
            Pair of images (n, 28, 28) and labels (n,).
        seed
            Of the draw of the other two images of a majority sample.
        count
            Return the first so many samples only; the other images still take part in the draw.
        """
        if self.kind == "sequence":
            return sequence(images[0][:count], self.steps, LOW, HIGH), images[1][:count], None
        drawn = majority(*images, seed, self.steps)
        return drawn.x[:count], drawn.y[:count], drawn.relevant[:count]
