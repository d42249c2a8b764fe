# SPDX-License-Identifier: Apache-2.0
"""From a torch model to a graph."""
