# SPDX-License-Identifier: Apache-2.0
"""`pyrel bench`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pyrel.cli import bench_options as options
from pyrel.cli.choices import (
    BENCHMARKED,
    BENCHMARKED_CELLS,
    CONTESTANTS,
    one_or_all,
)
from pyrel.cli.refusals import REFUSED, refusing

if TYPE_CHECKING:
    from pyrel.benchmark.results import Results

EXAMPLES = """\b
Examples:
  pyrel bench --blocks 3
  pyrel bench --cells all --steps 7,12,28 --batches 1,8,64,1024,10000 --methods all
  pyrel bench --cells LSTM,GRU --steps 25 --methods lrp_epsilon --batches 1,256
  pyrel bench --model runs/deep/model.safetensors --batches 1024 --peers torch,numpy
  pyrel bench --from benchmark.json --markdown table.md --plots plots
"""


@refusing
def bench(
    cells: options.Cells = "Deep",
    steps: options.Steps = "12",
    batches: options.Batches = "1,64,1024",
    methods: options.Methods = "deep_taylor",
    peers: options.Peers = "all",
    model: options.Model = None,
    blocks: options.Blocks = 20,
    calls: options.Calls = 6,
    pause: options.Pause = 0.3,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    out: options.Out = Path("benchmark.json"),
    plots: options.Plots = None,
    markdown: options.Markdown = None,
    source: options.Source = None,
) -> None:
    """Measure pyrel beside other ways to explain.

    Every contestant explains the same cell in a process of its own: pyrel, the explanation written
    by hand with torch, NumPy and JAX, torch autograd, zennit, captum. Those that are not installed
    are left out, with a line that says so. In every block each has a turn: a pause, a call that
    does not count, then the fastest of several calls; what it answered is checked. Ratios are taken
    within a block and their median is shown. docs/performance.md tells what each column means.

    Takes some minutes; leave the machine alone meanwhile. Ctrl-C leaves the cases that are done.
    """
    from pyrel.benchmark.results import load_results
    from pyrel.benchmark.tables import markdown as as_markdown
    from pyrel.benchmark.tables import print_results
    from pyrel.files.atomic import write_whole
    from pyrel.files.places import refuse_overwriting, refuse_shared

    if plots is not None:
        importlib.import_module("pyrel.benchmark.charts")  # refused now rather than at the end
    inputs = {"the model": model, "the measurements of --from": source}
    outputs = {"the tables": markdown, "the measurements": out if source is None else None}
    read, written = ({k: v for k, v in d.items() if v is not None} for d in (inputs, outputs))
    for path in written.values():
        refuse_overwriting(path, read)
    refuse_shared(written)
    if source is None:
        for path in written.values():
            path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        results = load_results(source)
    else:
        results = _measured(
            cells=one_or_all(cells, BENCHMARKED_CELLS),
            steps=[int(n) for n in steps.split(",")],
            batches=[int(n) for n in batches.split(",")],
            methods=one_or_all(methods, BENCHMARKED),
            peers=[] if peers == "none" else one_or_all(peers, CONTESTANTS),
            model=model,
            protocol={"blocks": blocks, "calls": calls, "pause": pause, "seed": seed},
            threads=threads,
            out=out,
        )
    print_results(results)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        write_whole(markdown, as_markdown(results).encode())
    if plots is not None:
        _draw(results, plots, read | written)
    if source is None:
        typer.echo(f"\nAll measurements: {out}")


def _measured(
    *,
    cells: list[str],
    steps: list[int],
    batches: list[int],
    methods: list[str],
    peers: list[str],
    model: Path | None,
    protocol: dict[str, float],
    threads: int | None,
    out: Path,
) -> Results:
    """Measure, showing on standard error how far it is."""
    from pyrel.benchmark.cases import cases_of, saved_model, thesis_model
    from pyrel.benchmark.contestants import chosen
    from pyrel.benchmark.measuring import run
    from pyrel.benchmark.processes import WorkerError
    from pyrel.benchmark.results import Protocol, WrongAnswerError
    from pyrel.cli.display import bar
    from pyrel.engine import config as runtime

    how = Protocol(threads=threads or runtime.num_threads(), **protocol)  # type: ignore[arg-type]
    if model is not None:
        models = [saved_model(model)]
    else:
        models = [thesis_model(cell, n, how.seed) for cell in cells for n in steps]
    cases = cases_of(models, methods, batches)
    done = 0

    def save(results: Results) -> None:
        nonlocal done
        done = len(results.cases)
        results.save(out)

    try:
        with bar() as progress:
            return run(
                cases,
                chosen(peers),
                how,
                save=save,
                say=lambda text: typer.echo(text, err=True),
                progress=progress,
            )
    except (WorkerError, WrongAnswerError) as error:
        typer.echo(f"pyrel bench: {error}", err=True)
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        kept = f"{done} of {len(cases)} cases are in {out}" if done else "nothing is written"
        raise KeyboardInterrupt(f"interrupted; {kept}") from None


def _draw(results: Results, folder: Path, others: Mapping[str, Path]) -> None:
    from pyrel.benchmark.charts import figures
    from pyrel.files.atomic import write_whole
    from pyrel.files.places import refuse_overwriting
    from pyrel.plots import to_svg

    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(results).items():
        refuse_overwriting(folder / f"{name}.svg", others)
        write_whole(folder / f"{name}.svg", to_svg(figure).encode())
        typer.echo(f"Wrote {folder / name}.svg")
