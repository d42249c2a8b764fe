# SPDX-License-Identifier: Apache-2.0
"""The contestants' ways to explain a cell, each importing no more than it needs."""
