# SPDX-License-Identifier: Apache-2.0
"""Makes in-place operators functional where it is plain what shares the memory they write into.

torch does that for any program, but runs it twice more for that, at some milliseconds for each
operator. Most programs only write into what an operator has just made, as ``nn.ReLU(inplace=True)``
does, or into a slice of it, as ``states[:, t] = h``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from pyrel.compiler.capture.operators import supported
from pyrel.compiler.capture.programs import copied_module, with_module

_aten = torch.ops.aten

# Of operators that are made of others, those that never return memory of an operand.
_FRESH = frozenset(
    {_aten.linear.default, _aten.matmul.default, _aten.layer_norm.default}
    | {_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.batch_norm.default}
)
# What puts a slice back into what it was taken of.
_SCATTER: dict[Any, Any] = {
    _aten.select.int: _aten.select_scatter.default,
    _aten.slice.Tensor: _aten.slice_scatter.default,
}


def mutates(node: Node) -> bool:
    """Whether an operator writes into one of its operands."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def written_directly(exported: ExportedProgram) -> ExportedProgram | None:
    """Return a program without in-place operators; None where that is not plain."""
    module = copied_module(exported)
    if any(node.op == "get_attr" for node in module.graph.nodes):
        return None  # a block, which has operators of its own
    for node in list(module.graph.nodes):
        if mutates(node) and not _replaced(node):
            return None
    return with_module(exported, module)


def _replaced(node: Node) -> bool:
    """Put functional operators in place of one that writes; False where that is not plain."""
    target, slices = _functional(node), _slices(node)
    if target is None or slices is None:
        return False
    base = slices[-1].args[0] if slices else node.args[0]
    assert isinstance(base, Node)
    known = {slices[-1] if slices else node}
    before = [user for user in base.users if user < node and user not in known]
    if not _is_fresh(base) or any(_is_read_later(user, node) for user in before):
        return False
    with node.graph.inserting_before(node):
        written = value = node.graph.call_function(target, node.args, node.kwargs)
        written.meta = dict(node.meta)
        for taken in slices:
            whole, *place = taken.args
            given: Any = (whole, written, *place)
            written = node.graph.call_function(_SCATTER[taken.target], given, taken.kwargs)
            assert isinstance(whole, Node)
            written.meta = {**node.meta, "val": whole.meta["val"]}
    node.replace_all_uses_with(value)
    base.replace_all_uses_with(written, delete_user_cb=lambda user: node < user)
    node.graph.erase_node(node)
    return True


def _slices(node: Node) -> list[Node] | None:
    """Return the slices by which an operator's operand is taken, the innermost first.

    None where something else reads one of them, before or after they are written into.
    """
    found: list[Node] = []
    reader, operand = node, node.args[0]
    while isinstance(operand, Node) and operand.target in _SCATTER:
        if set(operand.users) != {reader}:
            return None
        found.append(operand)
        reader, operand = operand, operand.args[0]
    if not isinstance(operand, Node) or (found and not _is_read_before_next_write(node)):
        return None
    return found


def _is_read_before_next_write(node: Node) -> bool:
    """Whether what an operator returns is read at once, by what does not share its memory."""
    writer = node.next
    while writer.op != "output" and not mutates(writer):
        writer = writer.next
    if node in writer.args[:1] or any(writer < user for user in node.users):
        return False
    return not any(_may_alias(user) for user in node.users if user is not writer)


def _functional(node: Node) -> Any:
    """Return the operator that computes what another writes into its first operand; or None."""
    target: Any = node.target
    schema = target._schema
    first, *others = schema.arguments
    if torch.Tag.inplace_view in target.tags or target.namespace != "aten":
        return None
    if first.alias_info is None or not first.alias_info.is_write:
        return None
    if any(each.alias_info is not None for each in others) or not isinstance(node.args[0], Node):
        return None
    name = schema.name.removeprefix("aten::")
    packet = getattr(_aten, name.removesuffix("_"), None) if name.endswith("_") else None
    found = getattr(packet, schema.overload_name or "default", None)
    if found is None or found._schema.is_mutable or name[:-1] not in supported():
        return None
    names = [each.name for each in schema.arguments]
    if [each.name for each in found._schema.arguments] != names:
        return None
    return found if name == "copy_" or not _widens(node) else None


def _widens(node: Node) -> bool:
    """Whether a functional operator may widen the type of the first operand."""
    own, *others = (n.meta["val"] for n in node.all_input_nodes if _is_tensor(n))
    types = {other.dtype for other in others} - {own.dtype}
    return any(
        own.is_complex() or not own.is_floating_point() or t.is_floating_point or t.is_complex
        for t in types
    )


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _is_read_later(view: Node, writer: Node) -> bool:
    """Whether anything after an operator reads what may share memory with what it writes into."""
    if not _may_alias(view):
        return False
    return any(writer < user or _is_read_later(user, writer) for user in view.users)


def _is_fresh(node: Node) -> bool:
    """Whether an operator returns memory of its own."""
    if node.op == "call_function" and node.target is operator.getitem:
        made = node.args[0]
        return isinstance(made, Node) and _is_fresh(made)
    return node.op == "call_function" and not _may_alias(node)


def _may_alias(node: Node) -> bool:
    """Whether what a node gives may share memory with an operand."""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if target in _FRESH:
        return False
    schema = target._schema
    if any(each.alias_info is not None for each in (*schema.arguments, *schema.returns)):
        return True
    named = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
    registered: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(registered(named, "CompositeImplicitAutograd"))
