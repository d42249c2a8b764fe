# SPDX-License-Identifier: Apache-2.0
"""pyrel beside its peers, on the same weights: what `pyrel bench` does.

Every contestant explains in a process of its own (`worker.py`, `peers/`), which takes its time
around the call alone; this process asks one of them at a time (`measuring.py`) and does the
arithmetic (`results.py`). docs/performance.md tells why it is measured so.
"""
