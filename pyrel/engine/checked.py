# SPDX-License-Identifier: Apache-2.0
"""Describes the parts of a compiled program that were compared with its model."""

from __future__ import annotations

from dataclasses import dataclass

NOTHING = "nothing"
MODEL = "the model"


@dataclass(frozen=True)
class Checked:
    """The comparisons made, for ``print(explainer)`` and for a saved program.

    Attributes
    ----------
    what : tuple of str
        Such as "outputs" and "gradients".
    steps : tuple of int
        Number of steps of each input; of inputs that any number of steps may have.
    samples : int
        Of each input.
    inputs : int
    model : str
        What it was compared with.
    notes : tuple of str
        What was left out, and why.
    """

    what: tuple[str, ...] = ()
    inputs: int = 0
    samples: int = 0
    steps: tuple[int, ...] = ()
    model: str = MODEL
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it, such as "outputs and gradients on 2 inputs × 2 samples, T = 12 and 13"."""
        text = NOTHING
        if self.inputs:
            plural = "" if self.inputs == 1 else "s"
            text = f"{_listed(self.what)} on {self.inputs} input{plural} × {self.samples} samples"
            if self.steps:
                text += f", T = {_listed([str(n) for n in dict.fromkeys(self.steps)])}"
            if self.model != MODEL:
                text += f", with {self.model}"
        return "; ".join([text, *self.notes])


def _listed(words: tuple[str, ...] | list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
