# SPDX-License-Identifier: Apache-2.0
"""Rewrites of an exported graph after which in-place operators may become functional ones.

torch makes in-place operators functional by the values alone. What becomes of gradients has to be
written out before: ``detach_`` stops that of what reads its tensor later; what is written under
``no_grad``, or through a detached alias, changes the value of a tensor but not its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from pyrel.compiler.capture.blocks import inline_blocks, is_block
from pyrel.compiler.capture.direct_writes import mutates
from pyrel.compiler.capture.gradient_marks import gave_back, set_under_no_grad, under_no_grad
from pyrel.compiler.capture.programs import copied_module, with_module

_aten = torch.ops.aten
_MARKS = {
    _aten.detach_.default,
    torch.ops.pyrel.detached.default,
    torch.ops.pyrel.hooked.default,
}


def explicit(exported: ExportedProgram) -> ExportedProgram:
    """Write out what in-place operators, hooks and no_grad blocks do to gradients.

    Returns
    -------
    ExportedProgram
        The one given, if there is nothing to be written out; it is left as it was.
    """
    _mark_given_back(exported.graph)
    if not any(map(_is_rewritten, exported.graph.nodes)):
        return exported
    module = copied_module(exported)
    inline_blocks(module)
    _mark_given_back(module.graph)  # those of blocks
    changed = any(map(mutates, module.graph.nodes))
    for node in list(module.graph.nodes):
        if node.target is torch.ops.pyrel.hooked.default:
            _replace_hooked(node, changed)
        elif node.target in _MARKS:
            _replace_later(node)
    for node in list(module.graph.nodes):
        for source, how in _sources(node):
            _write_out(node, source, how)
    return with_module(exported, module)


def _mark_given_back(graph: torch.fx.Graph) -> None:
    """Note of what gave back its operand that it has the gradient of that."""
    for node in graph.nodes:
        if under_no_grad(node) and gave_back(node):
            set_under_no_grad(node, False)


def _is_rewritten(node: Node) -> bool:
    return node.target in _MARKS or is_block(node) or any(_sources(node))


def _called(near: Node, target: Any, args: tuple[Any, ...], like: Node) -> Node:
    """Insert an operator whose result is like that of another."""
    made = near.graph.call_function(target, args)
    made.meta = {**near.meta, "val": like.meta["val"]}
    set_under_no_grad(made, False)
    return made


def _replace_later(node: Node) -> None:
    """Let what reads the operand of ``detach_`` later read a detached one."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    later = {n for n in operand.users if node < n}
    with node.graph.inserting_after(node):
        detached = _called(node, _aten.detach.default, (operand,), operand)
    operand.replace_all_uses_with(detached, delete_user_cb=lambda user: user in later)
    node.replace_all_uses_with(detached)
    node.graph.erase_node(node)


def _replace_hooked(node: Node, mutated: bool) -> None:
    """Give a tensor that has a hook a gradient of its own, from where it is made."""
    operand, what = node.args
    assert isinstance(operand, Node)
    after = operand
    while after.op == "placeholder" and after.next.op == "placeholder":
        after = after.next
    node.graph.erase_node(node)
    readers = set(operand.users)
    with node.graph.inserting_after(after):
        made = _called(node, torch.ops.pyrel.custom_gradient.default, (operand, what), operand)
    if not mutated:
        operand.replace_all_uses_with(made, delete_user_cb=lambda user: user in readers)
        return
    with node.graph.inserting_after(made):  # what shares memory with it has the same
        _called(node, _aten.copy_.default, (operand, made), operand)


def _sources(node: Node) -> Iterator[tuple[Node, str]]:
    """Tensors whose values an operator changes, but not their gradients; and how it comes."""
    if not mutates(node):
        return
    off = under_no_grad(node)
    schema: Any = getattr(node.target, "_schema", None)
    for argument, operand in zip(schema.arguments, node.args, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if not written or not isinstance(operand, Node):
            continue
        source: Any = operand if off else None
        how = "under no_grad"
        for view in _views(operand):
            if _detaches(view):
                source = _viewed(view)
                how = "under no_grad" if under_no_grad(view) else "on a detached tensor"
        if source is not None and _is_read_later(source, node):
            yield source, how


def _views(node: Node) -> Iterator[Node]:
    """Yield the operators by which a tensor came to be a view of another, the last one first."""
    while node.op == "call_function" and _aliases(node):
        yield node
        node = _viewed(node)


def _is_read_later(source: Node, writer: Node) -> bool:
    """Whether anything after an operator reads a tensor, or a view of it that is not detached."""
    found = {source, *map(_viewed, _views(source))}
    left = list(found)
    while left:
        for user in left.pop().users:
            if user.op == "output" or (user > writer and not _detaches(user)):
                return True
            if user not in found and _aliases(user) and not _detaches(user):
                found.add(user)
                left.append(user)
    return False


def _detaches(view: Node) -> bool:
    no_grad = under_no_grad(view) and not mutates(view)
    return view.target is _aten.detach.default or (no_grad and _aliases(view))


def _aliases(node: Node) -> bool:
    """Whether what an operator returns may share the memory of its first operand."""
    schema: Any = getattr(node.target, "_schema", None)
    first = schema.arguments[0] if schema is not None and schema.arguments else None
    return first is not None and first.alias_info is not None and isinstance(node.args[0], Node)


def _viewed(view: Node) -> Node:
    source = view.args[0]
    assert isinstance(source, Node)
    return source


def _write_out(node: Node, source: Node, how: str) -> None:
    """Let a tensor keep its gradient where an operator changes its value."""
    schema: Any = getattr(node.target, "_schema", None)
    what = f"the in-place operator {schema.name.replace('::', '.')} {how}"
    with node.graph.inserting_before(node):
        before = _called(node, _aten.clone.default, (source,), source)
    with node.graph.inserting_after(node):
        args = source, before, what
        written = _called(node, torch.ops.pyrel.written.default, args, source)
    with node.graph.inserting_after(written):
        _called(node, _aten.copy_.default, (source, written), source)
