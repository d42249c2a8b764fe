# SPDX-License-Identifier: Apache-2.0
"""`python -m pyrel` is `pyrel`."""

from pyrel.cli import main

main()
