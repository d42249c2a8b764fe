# SPDX-License-Identifier: Apache-2.0
"""From a torch model to a program; its folders stand in the order of the data."""
