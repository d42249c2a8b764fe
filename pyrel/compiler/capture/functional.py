# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export without in-place operators, and those that change the model itself."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from pyrel.compiler.capture.direct_writes import mutates, written_directly
from pyrel.compiler.capture.explicit_writes import explicit
from pyrel.compiler.capture.isolation import quiet
from pyrel.errors import UnsupportedModelError

_WRITTEN = {getattr(OutputKind, "PARAMETER_MUTATION", None)} - {None}


def functional(exported: ExportedProgram) -> ExportedProgram:
    """Make in-place operators functional, and refuse a model that changes its buffers."""
    with quiet():
        exported = _without_writes(exported)
    if exported.graph_signature.buffers_to_mutate:
        names = ", ".join(sorted(exported.graph_signature.buffers_to_mutate.values()))
        raise UnsupportedModelError(
            f"the model changes its buffers while it runs ({names}). Batch norm does in training"
            " mode: export a program in eval mode, and call no train() in forward",
            operator="buffer mutation",
        )
    specs = exported.graph_signature.output_specs
    weights = [str(spec.target) for spec in specs if spec.kind in _WRITTEN]
    if weights:
        raise UnsupportedModelError(
            f"the model changes its parameters while it runs ({', '.join(sorted(weights))}): each "
            "call has other ones. Change them before, or compute with a changed copy",
            operator="parameter mutation",
        )
    return exported


def _without_writes(exported: ExportedProgram) -> ExportedProgram:
    try:
        made = explicit(exported)
        if any(map(mutates, made.graph.nodes)):
            made = written_directly(made) or made.run_decompositions({})
    except UnsupportedModelError:
        raise
    except Exception as error:  # of many types, none of them documented
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnsupportedModelError(
            "forward changes tensors in place in a way that torch.export cannot undo. Make new "
            f"ones; no tensor of the model itself may change: {reason}",
            operator="torch.export",
        ) from error
    return made
