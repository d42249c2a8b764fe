# SPDX-License-Identifier: Apache-2.0
"""From a graph and a method to a program."""
