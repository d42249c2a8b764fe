# SPDX-License-Identifier: Apache-2.0
"""The graph of a captured model, and what is known of its values."""
