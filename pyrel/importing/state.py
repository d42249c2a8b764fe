# SPDX-License-Identifier: Apache-2.0
"""State dictionaries of torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy.typing as npt
from torch import nn

from pyrel.importing._weights import check_shape, checked_array, checked_matrix, to_tensor

_KINDS: dict[int, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    4: nn.LSTM, 3: nn.GRU, 1: nn.RNN,
}  # fmt: skip


def torch_recurrent(
    state: Mapping[str, npt.ArrayLike], *, prefix: str = "", nonlinearity: str = "tanh"
) -> nn.LSTM | nn.GRU | nn.RNN:
    """Return the recurrent layers that a state dictionary of torch belongs to.

    Gates are in torch's order: i, f, g, o; r, z, n. All else follows from names and shapes.

    Parameters
    ----------
    state : mapping
        Arrays or tensors by name: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, …, as
        ``module.state_dict()`` or a safetensors file holds them. Other names are left alone if
        there is a prefix.
    prefix : str
        What the names begin with, such as "encoder.lstm.".
    nonlinearity : {"tanh", "relu"}
        Of an ``nn.RNN``; the weights do not say.

    Raises
    ------
    ValueError
        No recurrent weights there, some are missing, shapes do not fit or weights are not finite.

    Examples
    --------
    >>> state = torch.nn.GRU(3, 5, num_layers=2, batch_first=True).state_dict()
    >>> pyrel.importing.torch_recurrent(state)
    GRU(3, 5, num_layers=2, batch_first=True)
    """
    named = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if "weight_ih_l0" not in named or "weight_hh_l0" not in named:
        raise ValueError(
            f"state: no recurrent weights, wanted {prefix}weight_ih_l0 and {prefix}weight_hh_l0, "
            f"given {', '.join(state) or 'nothing'}"
        )
    if any(name.startswith("weight_hr") for name in named):
        raise ValueError("state: an LSTM with projections (proj_size), not supported")
    arrays = {name: checked_array(prefix + name, value) for name, value in named.items()}
    rows, units = checked_matrix(prefix + "weight_hh_l0", arrays["weight_hh_l0"], 1)
    kind = _kind(prefix, rows, units)
    layers = sum(name.startswith("weight_ih_l") and "_reverse" not in name for name in named)
    module = kind(
        arrays["weight_ih_l0"].shape[-1],
        units,
        num_layers=layers,
        bias="bias_ih_l0" in named,
        batch_first=True,
        bidirectional="weight_ih_l0_reverse" in named,
        **({"nonlinearity": nonlinearity} if kind is nn.RNN else {}),
    )
    wanted = module.state_dict()
    if wanted.keys() != arrays.keys():
        raise ValueError(
            f"state: wanted {', '.join(sorted(wanted))} after {prefix!r}, given "
            f"{', '.join(sorted(arrays))}"
        )
    for name, value in arrays.items():
        check_shape(prefix + name, value, tuple(wanted[name].shape))
    module.load_state_dict({name: to_tensor(value) for name, value in arrays.items()})
    return module.eval()


def _kind(prefix: str, rows: int, units: int) -> type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]:
    kind = _KINDS.get(rows // units) if rows % units == 0 else None
    if kind is None:
        raise ValueError(
            f"{prefix}weight_hh_l0: given shape {(rows, units)}; wanted 4 (LSTM), 3 (GRU) or 1 "
            f"(RNN) times as many rows as columns"
        )
    return kind
