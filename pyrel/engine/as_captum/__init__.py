# SPDX-License-Identifier: Apache-2.0
"""Reads the arguments of calls that are written for captum."""
