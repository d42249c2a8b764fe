# SPDX-License-Identifier: Apache-2.0
"""The experiments of the sources, each from training to a page of tables and figures."""

from pyrel.experiment.reproduce.experiment import (
    Experiment,
    Settings,
    experiment_of,
    names,
    reproduce,
)

__all__ = ["Experiment", "Settings", "experiment_of", "names", "reproduce"]
