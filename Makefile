# SPDX-License-Identifier: Apache-2.0
.PHONY: build
build:
	.venv/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
