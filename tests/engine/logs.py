# SPDX-License-Identifier: Apache-2.0
"""Hears what the logger `pyrel` says; pytest's own plugin for that is off."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.levelname} {record.getMessage()}")


@contextlib.contextmanager
def heard(level: int = logging.WARNING, name: str = "pyrel") -> Iterator[list[str]]:
    """Give the list that gets a text for each record of a logger, from a level on."""
    handler, logger = _Handler(), logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler.texts
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
