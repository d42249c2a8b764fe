# SPDX-License-Identifier: Apache-2.0
"""Programs as data: what the engine runs."""
