# SPDX-License-Identifier: Apache-2.0
"""What an explainer is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.forks import exporting
from pyrel.compiler.capture.long_loops import is_short
from pyrel.compiler.capture.outputs import Output
from pyrel.compiler.graph.nodes import Graph
from pyrel.engine.checked import NOTHING
from pyrel.engine.compile import Compiler
from pyrel.engine.compiled import Compiled
from pyrel.engine.devices import Binding
from pyrel.engine.inputs import Inputs
from pyrel.engine.precision import of_programs
from pyrel.engine.prepare import Model, Prepared, Wanted, prepare, reference_of
from pyrel.engine.programs import Programs
from pyrel.engine.self_check import SelfCheck
from pyrel.methods import Method


class Asked(NamedTuple):
    """What was captured, and the options of an explainer of it."""

    model: Model
    source: Graph | Capture
    example: Any
    output: Output
    method: Method
    binding: Binding
    wanted: Wanted
    check: str | None

    def prepared(self) -> Prepared:
        """Compile what was captured."""
        return prepare(
            self.source, self.example, self.method, of_programs(self.binding.precision), self.wanted
        )

    def compared(self, programs: Programs, inputs: Inputs, padding: int | None) -> str:
        """Compare programs with the model, where that is asked for; those of a short loop anyway.

        Returns what was compared.
        """
        check, source = self.check, programs.source
        if check is None:
            if isinstance(source, Compiled):
                programs.at(inputs.steps)  # packs weights, which may lie in the model's memory
            if not is_short(self.source):
                return NOTHING
        steps = source.other_steps() if isinstance(source, Compiler) else inputs.steps
        with exporting:  # no other thread exports the model, or switches its mode, meanwhile
            ids = bool(inputs.vocabulary)
            reference = reference_of(self.model, self.source, ids, self.output)
            parts = (
                self.method,
                inputs,
                programs,
                self.binding.precision,
                check or "outputs",
                padding,
            )
            checked = SelfCheck(reference, *parts).run(self.example, steps)
        return NOTHING if check is None else str(checked)
