# SPDX-License-Identifier: Apache-2.0
"""What works where pyrel is installed without extras, and what the rest says there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHILD = """
import contextlib, io, json, site, sys
site.addsitedir(sys.argv[1])

def refusal(act):
    try:
        act()
    except ImportError as error:
        return f"{type(error).__name__}: {error}"

def command():
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            cli.main()
        except SystemExit as end:
            return [end.code, said.getvalue()]

import importlib, importlib.util
import pyrel
light = not {"torch", "numpy", "pyrel.experiment", "pyrel.report"} & set(sys.modules)
import pyrel.cli as cli, torch

class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]

torch.manual_seed(0)
x = torch.randn(5, 6, 3)
e = pyrel.Explainer(Reader(), x, "lrp_epsilon")(x)
linear = torch.nn.Linear(3, 2)
y = torch.zeros(5, dtype=torch.int64)
config = pyrel.training.TrainingConfig(epochs=1, device="cpu")
train = lambda progress: pyrel.training.train(linear, x[:, 0], y, config=config, progress=progress)
print(json.dumps({
    "packages": [p for p in sys.argv[2:] if importlib.util.find_spec(p)],
    "shape": list(e.relevance.shape),
    "lost": (e.conservation + e.absorbed).abs().max().item(),
    "output": e.output.abs().max().item(),
    "facts": sorted(pyrel.report.machine_facts()),
    "trained": len(train(False).history),
    "training": refusal(lambda: train(True)),
    "light": light,
    "experiment": pyrel.experiment.nearest_root.__module__,
    "plots": refusal(lambda: pyrel.plots),
    "charts": refusal(lambda: importlib.import_module("pyrel.benchmark.charts")),
    "tables": refusal(lambda: importlib.import_module("pyrel.benchmark.tables")),
    "render": refusal(lambda: pyrel.report.render),
    "text": refusal(lambda: pyrel.report.write_texts),
    "command": command(),
}))
"""


def requirements(name: str) -> set[str]:
    """List what pip installs here for a distribution without extras."""
    given = [Requirement(line) for line in metadata.requires(name) or ()]
    return {
        canonicalize_name(r.name)
        for r in given
        if r.marker is None or r.marker.evaluate({"extra": ""})
    }


def needed(name: str) -> set[str]:
    """List a distribution and all that it needs, what those need too."""
    found, wanted = {name}, requirements(name)
    while wanted - found:
        found |= wanted
        wanted = set().union(*map(requirements, wanted))
    return found


def paths(name: str) -> list[Path]:
    """List what a distribution put into site-packages, without what is below that."""
    distribution = metadata.distribution(name)
    parts = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    return [Path(str(distribution.locate_file(part))) for part in parts]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the child in an environment of links to what pyrel alone needs."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in needed("pyrel"):
        for path in paths(name):
            (folder / path.name).symlink_to(path)
    extras = ["captum", "jax", "matplotlib", "rich", "tensorboard", "typer", "zennit", "numpy"]
    # Neither the site-packages of this interpreter nor variables of the environment.
    command = [sys.executable, "-I", "-S", "-c", CHILD, str(folder), *extras]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_three_packages_are_needed(told: dict[str, Any]) -> None:
    assert requirements("pyrel") == {"numpy", "safetensors", "torch"}
    assert told["packages"] == ["numpy"]


def test_folders_come_at_first_use(told: dict[str, Any]) -> None:
    assert told["light"]
    assert told["experiment"] == "pyrel.experiment.nearest_root"


def test_a_model_is_explained(told: dict[str, Any]) -> None:
    assert told["shape"] == [5, 6, 3]
    # The engine's contract: at most 1e-5 of the relevance at hand, which is below 1 here.
    assert told["output"] < 1
    assert told["lost"] <= 1e-5


def test_training_and_facts_of_the_machine_work(told: dict[str, Any]) -> None:
    assert told["trained"] == 1
    assert {"processor", "pyrel", "torch"} <= set(told["facts"])


@pytest.mark.parametrize(
    ("part", "begins", "package", "extra"),
    [
        ("plots", "pyrel.plots", "matplotlib", "report"),
        ("render", "a report", "matplotlib", "report"),
        ("text", "a report", "matplotlib", "report"),
        ("charts", "a figure of a benchmark", "matplotlib", "bench"),
        ("tables", "a table of a benchmark", "rich", "bench"),
        ("training", "progress=True", "rich", "cli"),
    ],
)
def test_the_rest_names_its_extra(told, part, begins, package, extra) -> None:
    wanted = f"{begins} needs the package {package}: pip install 'pyrel[{extra}]'"
    assert told[part] == f"MissingPackageError: {wanted}"


def test_the_command_names_its_extra(told: dict[str, Any]) -> None:
    wanted = "pyrel: the command line needs the package typer: pip install 'pyrel[cli]'\n"
    assert told["command"] == [1, wanted]


def test_judging_training_and_benchmarks_need_no_figures_and_the_demo_asks_for_them() -> None:
    """All but the demo is imported without them; it asks before it trains."""
    parts = "pyrel.experiment, pyrel.cli.commands, pyrel.cli.display, pyrel.benchmark.measuring"
    code = (
        f"import sys; sys.modules['matplotlib'] = None; import {parts}, pyrel.training\n"
        "print('imported', flush=True); from pyrel.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "demo"]
    done = subprocess.run(command, capture_output=True, text=True)
    wanted = "a report needs the package matplotlib: pip install 'pyrel[report]'"
    assert done.stdout == "imported\n"
    assert (done.returncode, done.stderr) == (1, f"pyrel demo: {wanted}\n")
