# SPDX-License-Identifier: Apache-2.0
"""`pyrel explain`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pyrel.cli import explain_options as options
from pyrel.cli.refusals import refusing

if TYPE_CHECKING:
    from pyrel.explain_file import FileSummary
    from pyrel.explainer import Explainer
    from pyrel.methods import Method


EXAMPLES = """\b
Examples:
  pyrel explain runs/deep/model.safetensors samples.npy --out relevance.npz
  pyrel explain model.safetensors data.npz --key x --target 3 --out relevance.npz
  pyrel explain model.safetensors samples.npy --out relevance.npz --save-program deep.program
  pyrel explain deep.program more.npy --out more.npz
  pyrel explain model.pt2 x.npy --trust --output logits --target 5,1 --out relevance.npz
  pyrel explain tagger.program padded.npy --lengths lengths.npy --out relevance.npz
"""


@refusing
def explain(
    model: options.Model,
    source: options.Source,
    out: options.Out,
    method: options.Method = None,
    patterns: options.Patterns = None,
    target: options.Target = "predicted",
    output: options.Output = None,
    lengths: options.Lengths = None,
    low: options.Low = None,
    high: options.High = None,
    key: options.Key = None,
    device: options.Device = None,
    precision: options.Precision = None,
    save_program: options.SaveProgram = None,
    limit_factor: options.LimitFactor = 1.0,
    trust: options.Trust = False,
) -> None:
    """Explain samples from a file.

    How much does each input element contribute to the output of one class?

    The output file has relevance (float32, shape of the input), output (n, classes: raw scores),
    target (n: the explained class), absorbed (n: relevance kept by biases and stabilisers),
    conservation (n: sum of relevance minus what was put in; NaN for methods that do not share the
    output out) and amplification (n: how many times what was put in there is on the way, signs
    left out). It appears when it is complete, never before. After a kill or a crash the same
    command goes on where it was, and removes what was left. Leave INPUT alone meanwhile: where it
    changes, the command stops.
    """
    from pyrel.cli.display import bar
    from pyrel.explain_file import explain_file
    from pyrel.files.arrays import read_array
    from pyrel.files.places import refuse_overwriting, refuse_shared
    from pyrel.files.samples import unchanged

    inputs = {"the model": model, "the input": source, "the file of classes": Path(target)}
    for name, given in (("lengths", lengths), ("patterns", patterns)):
        if given is not None:
            inputs[f"the file of {name}"] = given
    refuse_overwriting(out, inputs)
    if save_program is not None:
        refuse_overwriting(save_program, inputs)
        refuse_shared({"the output": out, "the program": save_program})
    explained = _target(target)
    steps = None if lengths is None else read_array(lengths)
    with unchanged(model) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        chosen = _Chosen(
            method, low, high, lengths is not None, patterns, output, device, precision
        )
        explainer = _explainer(model, chosen, trust, limit_factor)
    if save_program is not None:
        explainer.save(save_program)
    name = explainer.method.name
    with bar() as progress:
        done = explain_file(
            explainer,
            source,
            out,
            target=explained,
            lengths=steps,
            key=key,
            progress=lambda samples, count: progress(name, samples, count),
            resume=json.dumps([digest, name, *chosen.identity()]),
        )
    typer.echo(f"Wrote {out}: {done.samples:,} samples, {name}")
    if save_program is not None:
        typer.echo(f"Wrote {save_program}: the compiled program, which can be given as MODEL")
    _tell(done, explainer.method)


def _tell(done: FileSummary, method: Method) -> None:
    """Say what else a user wants to know of the samples."""
    from pyrel.methods.enums import Start

    if done.resumed:
        typer.echo(f"{done.resumed:,} of them were done before, by a run that was killed")
    if done.empty:
        why = ""
        if method.start is Start.positive_output:
            why = f"; {method.name} shares out scores above 0 only, lrp_epsilon any"
        typer.echo(f"{done.empty:,} of {done.samples:,} samples have a map of zeros{why}")
    if not math.isnan(done.error):
        typer.echo(
            f"Relevance and what biases kept add up to what was put in, within {done.error:.1e}"
        )


def _target(text: str) -> Any:
    """Read --target: None for the predicted class, a number, or one for each sample."""
    from pyrel.files.arrays import read_array

    if text == "predicted":
        return None
    if text.isdecimal():
        return int(text)
    if all(part.isdecimal() for part in text.split(",")):
        return tuple(int(part) for part in text.split(","))
    if text.endswith(".npy"):
        return read_array(text)
    raise typer.BadParameter(
        f"{text!r} is neither 'predicted' nor a class from 0, nor several with commas, nor an .npy "
        "file",
        param_hint="--target",
    )


@dataclass(frozen=True)
class _Chosen:
    """What a user says of the method; None where nothing is said."""

    method: str | None
    low: float | None
    high: float | None
    lengths: bool
    patterns: Path | None
    output: str | None
    device: str | None
    precision: str | None

    def options(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments of an Explainer; by default the range is that of the model's data."""
        given: dict[str, Any] = {
            "method": self.method or "deep_taylor",
            "low": metadata.get("low") if self.low is None else self.low,
            "high": metadata.get("high") if self.high is None else self.high,
            "lengths": self.lengths,
            "device": self.device,
            "precision": self.precision or "float32",
        }
        if self.patterns is not None:
            from pyrel.patterns import Patterns

            given["patterns"] = Patterns.load(self.patterns)
        if self.output is not None:
            given["output"] = int(self.output) if self.output.isdecimal() else self.output
        return given

    def identity(self) -> list[Any]:
        """Return what results depend on beside model and method; of patterns a digest."""
        patterns = ""
        if self.patterns is not None:
            patterns = hashlib.sha256(self.patterns.read_bytes()).hexdigest()
        ways = [self.output, self.device, self.precision]
        return [self.low, self.high, self.lengths, patterns, *ways]


def _explainer(path: Path, chosen: _Chosen, trust: bool, limit_factor: float) -> Explainer:
    import torch

    from pyrel.compiler.program.file_limits import Limits
    from pyrel.explainer import Explainer
    from pyrel.files.tensors import read_kind
    from pyrel.training import load_model

    limits = Limits().times(limit_factor)
    if path.suffix == ".pt2":
        return Explainer(_exported(path, trust), **chosen.options({}))
    if chosen.output is not None:
        raise ValueError(f"{path} has one output: leave out --output, which is for a .pt2")
    if read_kind(path, limits) == "program":
        given = {
            "--method": chosen.method,
            "--low": chosen.low,
            "--high": chosen.high,
            "--patterns": chosen.patterns,
            "--precision": chosen.precision,
        }
        if names := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{path} is a compiled program, which has its method, range and precision: "
                f"leave out {', '.join(names)}, or give the model that it was made of"
            )
        explainer = Explainer.load(path, limits=limits, device=chosen.device)
        if chosen.lengths and not explainer.inputs.lengths:
            raise ValueError(
                f"{path} is a compiled program that takes no lengths: leave out --lengths"
            )
        return explainer
    model, metadata = load_model(path, limits=limits)
    example = torch.zeros(1, model.steps, *model.step_shape)
    return Explainer(model, example, **chosen.options(metadata))


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
