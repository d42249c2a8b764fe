# SPDX-License-Identifier: Apache-2.0
"""`pyrel explain`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyrel.cli.choices import METHODS, one_of
from pyrel.cli.refusals import refusing

if TYPE_CHECKING:
    from pyrel.explainer import Explainer


EXAMPLES = """\b
Examples:
  pyrel explain runs/deep/model.safetensors samples.npy --out relevance.npz
  pyrel explain model.safetensors data.npz --key x --target 3 --out relevance.npz
"""


@refusing
def explain(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A model that pyrel saved (.safetensors), or with --trust a .pt2 of torch.export.",
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Samples (n, ...) as floats: .npy, read part by part, or .npz, read whole.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .npz file to write.")],
    method: Annotated[
        str,
        typer.Option(
            callback=one_of(METHODS), metavar="NAME", help=f"One of {', '.join(METHODS)}."
        ),
    ] = "deep_taylor",
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="The class to explain: 'predicted', a number, or an .npy file with one for each "
            "sample.",
        ),
    ] = "predicted",
    low: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Smallest value that inputs take, at most 0.",
            show_default="what the model's file says",
        ),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Largest value that inputs take, at least 0.",
            show_default="what the model's file says",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the array in INPUT.npz.", show_default="the only one"
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a .pt2. Loading one can execute code that is hidden in it: do so only with "
            "files of your own or of people you trust. Models that pyrel saves need no trust.",
        ),
    ] = False,
) -> None:
    """Explain samples from a file.

    How much does each input element contribute to the output of one class?

    The output file has relevance (float32, shape of the input), output (n, classes: raw scores),
    target (n: the explained class), absorbed (n: relevance kept by biases and constants) and
    conservation (n: sum of relevance minus what was put in; NaN for methods that do not share the
    output out). It appears when it is complete, never before.
    """
    from pyrel.cli.display import bar
    from pyrel.explain_file import explain_file, refuse_overwriting

    inputs = {"the model": model, "the input": source, "the file of classes": Path(target)}
    refuse_overwriting(out, inputs)
    explained = _target(target)
    explainer = _explainer(model, method, low, high, trust)
    with bar() as progress:
        done = explain_file(
            explainer,
            source,
            out,
            target=explained,
            key=key,
            progress=lambda samples, count: progress(f"{method}", samples, count),
        )
    typer.echo(f"Wrote {out}: {done.samples:,} samples, {method}")
    if not math.isnan(done.error):
        typer.echo(
            f"Relevance and what biases kept add up to what was put in, within {done.error:.1e}"
        )


def _target(text: str) -> Any:
    """Read --target: None for the predicted class, a number, or one for each sample."""
    from pyrel.array_files import open_array

    if text == "predicted":
        return None
    if text.isdecimal():
        return int(text)
    if text.endswith(".npy"):
        return open_array(text)
    raise typer.BadParameter(
        f"{text!r} is neither 'predicted' nor a class from 0 nor an .npy file",
        param_hint="--target",
    )


def _explainer(
    path: Path, method: str, low: float | None, high: float | None, trust: bool
) -> Explainer:
    import torch

    from pyrel.explainer import Explainer
    from pyrel.training import load_model

    if path.suffix == ".pt2":
        return Explainer(_exported(path, trust), method=method, low=low, high=high)
    model, metadata = load_model(path)
    example = torch.zeros(1, model.steps, *model.step_shape)
    return Explainer(
        model,
        example,
        method,
        low=metadata["low"] if low is None else low,
        high=metadata["high"] if high is None else high,
    )


def _exported(path: Path, trust: bool) -> Any:
    """Load a program of torch.export, from a trusted file only."""
    import torch

    if not trust:
        raise ValueError(
            f"{path} is a .pt2, and loading one can execute code that is hidden in it; add --trust "
            f"if you know where it comes from"
        )
    path.open("rb").close()  # torch's own error for a missing file says less
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises many types here, none of them documented
        raise ValueError(
            f"{path} could not be loaded as a program of torch.export.save: {error}"
        ) from error
