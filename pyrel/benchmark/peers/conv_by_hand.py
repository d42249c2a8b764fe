# SPDX-License-Identifier: Apache-2.0
"""Deep Taylor of a ConvDeep cell written by hand with torch's own convolutions.

The convolutions of all steps run as one batch, there and back. What lies above them is `ByHand`:
the pooled maps are its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.benchmark.layers import layers_of, softplus_bias
from pyrel.benchmark.peers.by_hand import TINY, ByHand
from pyrel.benchmark.peers.with_torch import TorchLibrary


class _Convolution:
    """Weights as the passes want them: (maps, channels, height, width)."""

    def __init__(self, name: str, state: Mapping[str, npt.NDArray[Any]], do: TorchLibrary) -> None:
        weight = state[f"{name}.weight"]
        self.weight = do.array(weight)
        self.positive = do.array(np.maximum(weight, 0))
        self.negative = do.array(np.minimum(weight, 0))
        self.bias = do.array(softplus_bias(state[f"{name}.bias"]))
        self.padding = weight.shape[-1] // 2


class ConvByHand:
    """Explains the predicted class of samples (n, steps, pixels) in [0, 1] by deep Taylor.

    Max pooling hands relevance down in proportion to the values of a window.

    Parameters
    ----------
    config, state
        Of a ConvDeep cell with max pooling.
    library
        torch's operations.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        state: Mapping[str, npt.NDArray[Any]],
        library: TorchLibrary,
    ) -> None:
        if config["pooling"] != "max":
            raise ValueError("pooling: by hand there is max only")
        self._do, self._shape = library, tuple(config["step_shape"])
        self._first = _Convolution("encoder.conv_1", state, library)
        self._second = _Convolution("encoder.conv_2", state, library)
        self.above = ByHand(layers_of(config, state), library, "deep_taylor", box=False)
        # z^β for pixels in [0, 1]: the denominator is z − b − Σ w⁻ over the taps inside the image.
        ones, first = library.array(np.ones((1, 1, *self._shape))), self._first
        inside = F.conv2d(ones, first.negative, padding=first.padding)
        self._box_constant = -inside - first.bias[:, None, None]

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        do, first, second = self._do, self._first, self._second
        z = do.convolve(x.reshape(-1, 1, *self._shape), first.weight, first.bias, first.padding)
        a = z.relu()
        pooled = F.max_pool2d(a, 2, ceil_mode=True)
        b = do.convolve(pooled, second.weight, second.bias, second.padding).relu_()
        return z, a, pooled, b, F.max_pool2d(b, 2, ceil_mode=True)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the values of all ReLUs, and the class scores last."""
        _, a, _, b, encoded = self._forward(x)
        above = self.above.forward(encoded.flatten(1))
        return [a, b, *above.states, *above.recurrent, *above.read[1:], above.output]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the relevance of ``x``, of the same shape."""
        do, first, second = self._do, self._first, self._second
        z, a, pooled, b, encoded = self._forward(x)
        r = self.above(encoded.reshape(*x.shape[:2], -1)).reshape(encoded.shape)
        known = do.convolve(pooled, second.positive, None, second.padding).clamp_(min=TINY)
        s = _unpool(r, b).div_(known)
        r = do.convolve_back(s, second.positive, second.padding).mul_(pooled)
        s = _unpool(r, a).div_(z.add_(self._box_constant).clamp_(min=TINY))
        down = do.convolve_back(s, first.weight, first.padding).mul_(x.reshape(-1, 1, *self._shape))
        return down.sub_(do.convolve_back(s, first.negative, first.padding)).reshape(x.shape)


def _unpool(r: Tensor, a: Tensor) -> Tensor:
    """Share out what arrives at windows in proportion to their values."""
    known = F.avg_pool2d(a, 2, ceil_mode=True, divisor_override=1).clamp_(min=TINY)
    height, width = a.shape[2:]
    shares = F.interpolate(r / known, scale_factor=2)[:, :, :height, :width]
    return shares * a
