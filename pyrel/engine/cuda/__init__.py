# SPDX-License-Identifier: Apache-2.0
"""The engine for CUDA devices: programs that the library of csrc/cuda runs."""
