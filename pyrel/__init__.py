# SPDX-License-Identifier: Apache-2.0
"""Explain what recurrent neural networks decide: relevance of every input element."""

from pyrel._core import version

__version__ = version()
