# SPDX-License-Identifier: Apache-2.0
"""The plan of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pyrel.compiler.graph.layout import Kind
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.at_embedding import IntegratedAtEmbedding
from pyrel.engine.plans.at_image import IntegratedAtImage
from pyrel.engine.plans.averaged_gradients import Integrated, Smooth
from pyrel.engine.plans.base import EMBED, IMAGE, OneProgram, Plan
from pyrel.engine.plans.beside_embedding import IntegratedBesideEmbedding
from pyrel.engine.plans.decided import DecidedInFloat32
from pyrel.engine.plans.occlusion import Occluded
from pyrel.engine.plans.of_inputs import held_of, option_of
from pyrel.engine.several import SeveralInputs
from pyrel.errors import UnsupportedModelError
from pyrel.methods import IntegratedGradients, Method, Occlusion, Perturbation, SmoothGrad

_PLANS: tuple[Plan, ...] = (OneProgram(), DecidedInFloat32())


def forward_only_programs(method: Method, precision: str, *, ids: bool) -> tuple[str, ...]:
    """Return the names of programs beside the one that explains, with a precision.

    ``ids`` says whether the model takes token ids.

    Raises
    ------
    ValueError
        If the method has none of that precision.
    """
    if precision != "bf16_all":
        at_embedding = ids and isinstance(method, IntegratedGradients)
        return IntegratedAtEmbedding.forward_only if at_embedding else ()
    if isinstance(method, Perturbation):
        raise ValueError(
            f"precision: 'bf16_all' rounds the outputs, which {method.name} compares or follows "
            "over small changes; 'bf16' rounds gradients alone"
        )
    return DecidedInFloat32.forward_only


def goes_back_again(method: Method) -> bool:
    """Whether the plan of a method has samples go back for several targets (`Plan.way_back`)."""
    return not isinstance(method, Perturbation)


def plan_of(method: Method, outputs: Mapping[str, int], inputs: Inputs, steps: int) -> Plan:
    """Return the plan that runs some programs, for a number of steps.

    ``outputs`` has by their names how many outputs they have.

    Raises
    ------
    ValueError
        If there is none, or the method has an option that does not fit the input.
    UnsupportedModelError
        If the method does not take such inputs.
    """
    found = set(outputs)
    if not isinstance(method, Perturbation):
        for plan in _PLANS:
            if set(plan.names) == found:
                return plan
        raise ValueError(f"there is no plan for the programs {', '.join(sorted(found))}")
    plan = _of_copies(method, outputs, inputs, steps)
    if set(plan.names) != found:
        raise ValueError(f"{method.name} does not run the programs {', '.join(sorted(found))}")
    return plan


def _of_copies(
    method: Perturbation, outputs: Mapping[str, int], inputs: Inputs, steps: int
) -> Plan:
    if isinstance(method, Occlusion):
        return Occluded(method, inputs, steps)
    shape, bounds = inputs.of_steps(steps), inputs.bounds(steps)
    if inputs.are_ids and isinstance(method, IntegratedGradients):
        width = outputs.get(EMBED, 0) // max(1, math.prod(shape))
        return IntegratedAtEmbedding(method, inputs, steps, width)
    if inputs.are_ids:
        raise UnsupportedModelError(
            f"{method.name} changes values by small amounts, and token ids have none",
            operator="embedding",
        )
    match method:
        case IntegratedGradients() if isinstance(inputs, SeveralInputs) and inputs.moves_ids:
            return IntegratedBesideEmbedding(method, inputs, steps, outputs.get(EMBED, 0))
        case IntegratedGradients() if IMAGE in outputs:
            return IntegratedAtImage(method, inputs, steps, outputs[IMAGE])
        case IntegratedGradients():
            baseline = option_of("baseline", method.baseline, inputs, steps)
            held = held_of(inputs, steps, Kind.masks)
            return Integrated(method, shape, bounds, baseline, held)
        case SmoothGrad():
            held = held_of(inputs, steps, Kind.masks, Kind.ids)
            return Smooth(method, inputs, steps, held)
    raise TypeError(f"there is no plan for {method!r}")
