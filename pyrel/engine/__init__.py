# SPDX-License-Identifier: Apache-2.0
"""Compiling for the engine, and running it."""
