# SPDX-License-Identifier: Apache-2.0
"""Rewrites from graph to graph."""
