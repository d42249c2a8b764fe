# SPDX-License-Identifier: Apache-2.0
"""Recurrences beside those of `zoo_of_architectures.table`."""

from __future__ import annotations

from zoo_of_architectures import recurrences
from zoo_of_architectures.table import TWO_SIGNALS, Architecture

COMPARED = "values of the input are compared"

RECURRENCES = [
    Architecture("minGRU, scan", recurrences.MinGruScan, (4, 4), refused=COMPARED),
    Architecture("minLSTM", recurrences.MinLstm, (4, 4)),
    Architecture("minLSTM, scan", recurrences.MinLstmScan, (4, 4), refused=COMPARED),
    Architecture("mLSTM", recurrences.MLstm, (3, 4), refused=TWO_SIGNALS),
    Architecture("RWKV", recurrences.Rwkv, (3, 4)),
    Architecture("LRU", recurrences.LinearRecurrentUnit, (5, 4)),
    Architecture("S4D", recurrences.DiagonalStateSpace, (6, 4)),
    Architecture("peephole LSTM", recurrences.PeepholeLstm, (3, 4)),
    Architecture("IndRNN", recurrences.IndependentRnn, (5, 4)),
    Architecture("SRU", recurrences.SimpleRecurrentUnit, (3, 4)),
    Architecture("LMU", recurrences.LegendreMemory, (3, 4)),
]
