# SPDX-License-Identifier: Apache-2.0
"""Inputs and relevance maps as small PNG pictures inside a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyrel.plots import as_image, colour_scale

# Of a colour scale's half; more cannot be told apart, and make a page larger.
_LEVELS = 63
PREFIX = "data:image/png;base64,"


def input_png(steps: NDArray[Any]) -> str:
    """Return the picture of an input, black to white, as base64 text of a PNG file."""
    image = as_image(steps)
    low, high = float(image.min()), float(image.max())
    grey = np.rint((image - low) / ((high - low) or 1.0) * _LEVELS).astype(np.int64)
    shades = np.linspace(0, 255, _LEVELS + 1).round().astype(np.uint8)
    return _png(grey, np.repeat(shades[:, None], 3, axis=1))


def map_png(steps: NDArray[Any]) -> str:
    """Return the picture of a relevance map in its own colour scale, as base64 text of a PNG."""
    image = as_image(steps)
    colours, low, high = colour_scale(image)
    count = 2 * _LEVELS + 1 if low < 0 else _LEVELS + 1
    level = np.rint((image - low) / (high - low) * (count - 1)).astype(np.int64)
    palette = (colours(np.linspace(0.0, 1.0, count))[:, :3] * 255).round().astype(np.uint8)
    return _png(level, palette)


def _png(index: NDArray[np.int64], palette: NDArray[np.uint8]) -> str:
    """Write a picture whose pixels are numbers of colours; colours not used are left out."""
    used, packed = np.unique(index, return_inverse=True)
    picture = Image.fromarray(packed.reshape(index.shape).astype(np.uint8))
    picture.putpalette(palette[used].tobytes())
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, bits=8)
    return base64.b64encode(file.getvalue()).decode()
