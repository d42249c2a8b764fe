# SPDX-License-Identifier: Apache-2.0
"""Recurrent cells whose decisions can be explained: plain torch modules, nothing registered.

The cells are those of the thesis *Designing Recurrent Neural Networks for Explainability*
(sections 4.2, 4.3 and 4.6). They differ in how much structure stands between the input, the
recurrence and the output, which is what their explanations are compared by.
`DetectionPooling` is the feed-forward network of the deep Taylor paper.
"""

from pyrel.nn.build import arguments_of, build, cell_type, names
from pyrel.nn.cell import Cell
from pyrel.nn.conv_deep import ConvDeep, ConvDeepPlus
from pyrel.nn.deep import Deep, DeepV2
from pyrel.nn.detection_pooling import DetectionPooling, MinMaxRelevance
from pyrel.nn.feed_forward import FeedForward
from pyrel.nn.feedback import FeedbackCell
from pyrel.nn.layers import SoftplusConv2d, SoftplusLinear, StepDropout
from pyrel.nn.lenet import LeNet
from pyrel.nn.rlstm import RLSTM
from pyrel.nn.shallow import Shallow
from pyrel.nn.vgg import VGG

__all__ = [
    "RLSTM",
    "VGG",
    "Cell",
    "ConvDeep",
    "ConvDeepPlus",
    "Deep",
    "DeepV2",
    "DetectionPooling",
    "FeedForward",
    "FeedbackCell",
    "LeNet",
    "MinMaxRelevance",
    "Shallow",
    "SoftplusConv2d",
    "SoftplusLinear",
    "StepDropout",
    "arguments_of",
    "build",
    "cell_type",
    "names",
]
