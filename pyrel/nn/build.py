# SPDX-License-Identifier: Apache-2.0
"""Cells by name, and from their configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pyrel.nn.cell import Cell
from pyrel.nn.conv_deep import ConvDeep, ConvDeepPlus
from pyrel.nn.deep import Deep, DeepV2
from pyrel.nn.lenet import LeNet
from pyrel.nn.rlstm import RLSTM
from pyrel.nn.shallow import Shallow
from pyrel.nn.vgg import VGG

_CELLS: dict[str, type[Cell]] = {
    cell.__name__: cell
    for cell in (Shallow, Deep, DeepV2, ConvDeep, ConvDeepPlus, RLSTM, LeNet, VGG)
}


def names() -> list[str]:
    """Return the names of all cells, simplest first, and of the nets without recurrence.

    Examples
    --------
    >>> pyrel.nn.names()
    ['Shallow', 'Deep', 'DeepV2', 'ConvDeep', 'ConvDeepPlus', 'RLSTM', 'LeNet', 'VGG']
    """
    return list(_CELLS)


def arguments_of(cell: type[Cell]) -> set[str]:
    """Return the names of the arguments that a cell takes."""
    return set(inspect.signature(cell).parameters)


def cell_type(name: str) -> type[Cell]:
    """Return the class of a cell by its name.

    Raises
    ------
    ValueError
        There is no cell of that name.
    """
    if name not in _CELLS:
        raise ValueError(f"no cell is named {name!r}; the cells are {', '.join(_CELLS)}")
    return _CELLS[name]


def build(config: Mapping[str, Any]) -> Cell:
    """Make a cell from its configuration.

    The weights are drawn as for any new cell: load the state of a trained one afterwards, or use
    :func:`pyrel.training.load_model`.

    Parameters
    ----------
    config : mapping
        As :meth:`Cell.config` returns it: ``cell`` is the name, the rest are the arguments.

    Raises
    ------
    TypeError, ValueError
        ``config`` names no cell, or arguments that it does not have or that are out of range.

    Examples
    --------
    >>> cell = pyrel.nn.Shallow(steps=7, step_shape=(28, 4), sizes=(64,))
    >>> pyrel.nn.build(cell.config()).config() == cell.config()
    True
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping, not {type(config).__name__}")
    arguments = dict(config)
    cell = cell_type(arguments.pop("cell", ""))
    if unknown := sorted(arguments.keys() - arguments_of(cell)):
        raise ValueError(f"config of a cell has unknown entries: {', '.join(map(str, unknown))}")
    if "steps" not in arguments:
        raise ValueError("config of a cell must say its number of steps")
    return cell(**arguments)
