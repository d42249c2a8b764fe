# SPDX-License-Identifier: Apache-2.0
"""What an experiment is, and how one is run from beginning to end."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pyrel.experiment.reproduce.runs import Kept, Run, complete
from pyrel.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

_SHORT_SEEDS = 5  # of what takes a minute, by default

# Each is a module of this folder, of which the class `Reproduced` is the experiment.
_NAMES = ("sequence", "majority", "improve", "two-digit", "taylor", "signal")


@dataclass(frozen=True)
class Settings:
    """How an experiment is run.

    Attributes
    ----------
    seeds : int
        Runs of each setting, with the seeds 0, 1, ...
    quick : bool
        The whole way in at most 15 seconds on digits that come with pyrel; the numbers say nothing.
    data_root : path, optional
        Where the data sets are; see `pyrel.data.load_images`.
    short_seeds : int, optional
        Runs of each setting that takes a minute, beside others that take long; by default `seeds`.
    """

    seeds: int
    quick: bool = False
    data_root: Path | None = None
    short_seeds: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers of seeds."""
        for name, given in (("seeds", self.seeds), ("short_seeds", self.short_seeds)):
            if given is not None and given < 1:
                raise ValueError(f"{name}: wanted at least 1, given {given}")

    @property
    def of_short(self) -> Settings:
        """Return the settings of what takes a minute."""
        return replace(self, seeds=self.short_seeds or self.seeds)

    def counted(self) -> str:
        """Return how many seeds, as the beginning of a sentence."""
        return "One seed" if self.seeds == 1 else f"{self.seeds} seeds"

    def shown(self, samples: Sequence[T]) -> Sequence[T]:
        """Return the samples of a figure: one is enough for the quick way."""
        return samples[:1] if self.quick else samples


@dataclass(frozen=True, eq=False)
class Page:
    """What an experiment ends with.

    Attributes
    ----------
    text : str
        Markdown, from the heading on; figures are linked as ``NAME/FIGURE.svg``.
    figures : dict of Figure
        By file name without ending.
    numbers : dict
        JSON-able: what the tables and figures show.
    """

    text: str
    figures: Mapping[str, Figure]
    numbers: dict[str, Any]


class Experiment(ABC):
    """An experiment of the sources.

    Attributes
    ----------
    name : str
    seeds : int
        How many by default.
    shares_runs_of : str, optional
        The experiment whose runs these are, too: a run of the same name is not worked out again.
    """

    name: ClassVar[str]
    seeds: ClassVar[int] = 3
    shares_runs_of: ClassVar[str | None] = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def home(self) -> str:
        """The folder of its runs, which may be another experiment's."""
        return self.shares_runs_of or self.name

    @abstractmethod
    def runs(self) -> Sequence[Run]:
        """Return the runs, those of the first seed first."""

    @abstractmethod
    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return the page, from the results of all runs by name."""


def names() -> list[str]:
    """Names of all experiments."""
    return list(_NAMES)


def experiment_of(name: str) -> type[Experiment]:
    """Return the class of an experiment.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    if name not in _NAMES:
        raise ValueError(f"name: no {name!r}; there are {', '.join(_NAMES)}")
    module = import_module(f"pyrel.experiment.reproduce.{name.replace('-', '_')}")
    kind: type[Experiment] = module.Reproduced
    return kind


def reproduce(
    name: str,
    *,
    seeds: int | None = None,
    quick: bool = False,
    data_root: Path | None = None,
    out: Path = Path("docs/results"),
    models: Path = Path("runs/reproduce"),
    say: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Run an experiment of the sources: train, explain, measure, and write a page.

    It may be stopped at any time: the same call goes on with the run, and in it the epoch, that was
    not finished.

    Parameters
    ----------
    name
        One of `names()`.
    seeds
        How often each training is repeated; 3, or 5 for short ones, by default, 1 with ``quick``.
    quick, data_root
        As of `Settings`.
    out
        Folder for the page, ``NAME.md``, and for ``NAME/``: the figures, ``numbers.json`` and the
        result of each run.
    models
        Folder for checkpoints and trained models.
    say
        Called with (run, done, total) before each run.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        There is no such experiment, or ``seeds`` is below 1.
    OSError
        The data are not there, or a file cannot be written.
    """
    experiment = with_usual_settings(name, seeds, quick, data_root)
    home = experiment.home
    results = complete(experiment.runs(), out / home / "runs", models / home, say)
    return _write(out, name, experiment.page(results))


def with_usual_settings(
    name: str, seeds: int | None = None, quick: bool = False, data_root: Path | None = None
) -> Experiment:
    """Return an experiment as `reproduce` runs it; arguments and errors are its."""
    kind = experiment_of(name)
    if seeds is None:
        usual, short = (1, 1) if quick else (kind.seeds, _SHORT_SEEDS)
    else:
        usual = short = seeds
    return kind(Settings(usual, quick, data_root, short))


def _write(out: Path, name: str, page: Page) -> Path:
    """Write the page, its figures and its numbers, all of them or none."""
    from pyrel.plots.style import to_svg

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / f"{figure}.svg": to_svg(drawn) for figure, drawn in page.figures.items()}
    numbers = json.dumps(plain(page.numbers), indent=1, allow_nan=False)
    texts[folder / "numbers.json"] = numbers + "\n"
    place = out / f"{name}.md"
    texts[place] = page.text.rstrip() + "\n"
    with replacing(*texts) as files:
        for file, text in zip(files, texts.values(), strict=True):
            file.write(text.encode())
    return place


def plain(numbers: Any) -> Any:
    """Return numbers with None, JSON's null, for those that are not finite."""
    if isinstance(numbers, Mapping):
        return {name: plain(value) for name, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [plain(value) for value in numbers]
    return None if isinstance(numbers, float) and not math.isfinite(numbers) else numbers
