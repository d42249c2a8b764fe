# SPDX-License-Identifier: Apache-2.0
"""How methods run: which programs a batch goes through, and how their results combine."""
