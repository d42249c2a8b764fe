# SPDX-License-Identifier: Apache-2.0
"""Recurrent cells whose decisions can be explained: plain torch modules, nothing registered.

The cells are those of the thesis *Designing Recurrent Neural Networks for Explainability*
(sections 4.2 and 4.3). They differ in how much structure stands between the input, the recurrence
and the output, which is what their explanations are compared by.
"""

from pyrel.nn.build import build, cell_type, names
from pyrel.nn.cell import Cell
from pyrel.nn.deep import Deep, DeepV2
from pyrel.nn.layers import SoftplusLinear
from pyrel.nn.shallow import Shallow

__all__ = ["Cell", "Deep", "DeepV2", "Shallow", "SoftplusLinear", "build", "cell_type", "names"]
