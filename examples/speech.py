# SPDX-License-Identifier: Apache-2.0
"""Explain, from the waveform on, which moments a voice activity detector hears speech in.

Silero VAD (https://github.com/snakers4/silero-vad, MIT) scores chunks of 32 ms: a spectrogram as a
convolution, four convolutions, an LSTM over the chunks. It is rebuilt here as a torch module, with
the weights of its own TorchScript file, and compared with that. Then LRP-ε tells how much each
sample of the waveform contributed to the score of the last chunk of a window, and it is measured
how the score falls where chunks are silenced, the most relevant ones first. Needs the extra
``report``, and two files of the package: ``pip download --no-deps silero-vad`` has the weights, its
source archive the recording:

    python examples/speech.py --weights silero_vad.jit --audio tests/data/test.wav --out speech
"""

from __future__ import annotations

import argparse
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel
from pyrel import metrics

RATE = 16_000  # samples a second
CHUNK, BEFORE, BEHIND = 512, 64, 64  # samples: of a chunk, of the one before, mirrored behind
BINS = 129  # frequencies of the spectrogram
METHODS = ("lrp_epsilon", "gradient_x_input")

Floats = npt.NDArray[np.float32]


class SileroVad(nn.Module):
    """Chunks of a waveform, (n, chunks, 512), to the logit of speech in each, (n, chunks)."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)):
            layers += [nn.Conv1d(inputs, outputs, 3, stride, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.output = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of speech."""
        n, chunks, _ = x.shape
        before = torch.cat([x.new_zeros(n, 1, BEFORE), x[:, :-1, -BEFORE:]], dim=1)
        frames = torch.cat([before, x], dim=2).reshape(n * chunks, 1, BEFORE + CHUNK)
        real, imaginary = self.basis(F.pad(frames, (0, BEHIND), "reflect")).split(BINS, dim=1)
        magnitude = torch.sqrt(real**2 + imaginary**2)
        states, _ = self.lstm(self.encoder(magnitude).reshape(n, chunks, 128))
        logits: Tensor = self.output(torch.relu(states))
        return logits[:, :, 0]


def load(path: Path) -> tuple[SileroVad, torch.jit.ScriptModule]:
    """Return the model with the weights of the TorchScript file, and what is in that file."""
    own = torch.jit.load(path)
    stored = {name.removeprefix("_model."): w for name, w in own.state_dict().items()}
    weights = {
        "basis.weight": stored["stft.forward_basis_buffer"],
        "output.weight": stored["decoder.decoder.2.weight"][:, :, 0],
        "output.bias": stored["decoder.decoder.2.bias"],
    }
    for part in ("weight", "bias"):
        for side in ("ih", "hh"):
            weights[f"lstm.{part}_{side}_l0"] = stored[f"decoder.rnn.{part}_{side}"]
        for layer in range(4):
            name = f"encoder.{layer}.reparam_conv.{part}"
            weights[f"encoder.{2 * layer}.{part}"] = stored[name]
    model = SileroVad()
    model.load_state_dict(weights)
    return model.eval(), own


def read_chunks(path: Path) -> Floats:
    """Return a mono recording of 16 bits and 16 kHz as chunks (chunks, 512) in [-1, 1)."""
    with wave.open(str(path)) as recording:
        if (recording.getframerate(), recording.getsampwidth()) != (RATE, 2):
            raise ValueError(f"{path}: wanted 16 kHz and 16 bits")
        if recording.getnchannels() != 1:
            raise ValueError(f"{path}: wanted one channel, got {recording.getnchannels()}")
        samples = np.frombuffer(recording.readframes(recording.getnframes()), np.int16)
    whole = len(samples) // CHUNK * CHUNK
    return (samples[:whole] / 32768).astype(np.float32).reshape(-1, CHUNK)


def largest_difference(model: SileroVad, own: torch.jit.ScriptModule, chunks: Floats) -> float:
    """Return how far the probabilities of speech are from those of the model's own file at most."""
    x = torch.from_numpy(chunks)
    with torch.no_grad():
        ours = torch.sigmoid(model(x[None]))[0]
        own.reset_states()
        theirs = torch.stack([own(chunk[None], RATE)[0, 0] for chunk in x])
    return float((ours - theirs).abs().max())


def windows_of(chunks: Floats, length: int, stride: int) -> Floats:
    """Cut windows (n, length, 512), one every ``stride`` chunks."""
    starts = range(0, len(chunks) - length + 1, stride)
    return np.stack([chunks[start : start + length] for start in starts])


def last_logit(logits: Tensor) -> Tensor:
    """Return the logit of the last chunk, (n, 1)."""
    return logits[:, -1:]


@dataclass(frozen=True)
class Judged:
    """Windows that end in speech, their relevance, and how the score falls, by method."""

    windows: Floats
    relevance: dict[str, Floats]
    curves: dict[str, metrics.Degradation]
    compiled: float  # CPU seconds, for LRP


def judge(model: SileroVad, windows: Floats, draws: int = 5) -> Judged:
    """Explain the last chunk of the windows where that is speech, and silence chunks in order."""
    explainers = {}
    compiled = 0.0
    for method in METHODS:
        start = time.process_time()
        explainers[method] = pyrel.Explainer(model, windows[:2], method, output=last_logit)
        compiled = compiled or time.process_time() - start
    forward = explainers["lrp_epsilon"].forward
    speech = windows[forward(windows)[:, 0] > 0]
    how = metrics.Perturbation(
        metrics.step_regions(windows.shape[1:]), replacement=0.0, score="output"
    )
    target = np.zeros(len(speech), np.int64)
    relevance, curves = {}, {}
    for method, explainer in explainers.items():
        relevance[method] = explainer(speech).relevance
        curves[method] = metrics.degradation(forward, speech, relevance[method], target, how=how)
    curves["random"] = metrics.random_degradation(forward, speech, target, how=how, draws=draws)
    return Judged(speech, relevance, curves, compiled)


def mean_by_blocks(values: npt.NDArray[np.float64], size: int) -> tuple[float, float]:
    """Return the mean of blocks of neighbours, and its standard error.

    Windows overlap, so neighbours are not independent; blocks longer than a window nearly are.
    """
    blocks = values[: len(values) // size * size].reshape(-1, size).mean(axis=1)
    return float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(len(blocks)))


def pictures(judged: Judged, number: int, out: Path) -> list[Path]:
    """Draw the relevance of one window, and the curves of all; return the files."""
    from pyrel import plots

    x = judged.windows[number].reshape(-1)
    relevance = judged.relevance["lrp_epsilon"][number].reshape(-1)
    # A pixel of the picture is several samples: groups of 16, 1 ms, are drawn as one.
    groups = x.reshape(-1, 16)
    loudest = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], axis=1)[:, 0]
    window = plots.series(
        loudest,
        relevance.reshape(-1, 16).sum(axis=1),
        time=np.arange(len(groups)) * 1e3 * 16 / RATE,
        time_label="time (ms)",
        title="Relevance of the waveform for speech in the last 32 ms (LRP-ε)",
    )
    curves = plots.degradation_curves(
        {method: judged.curves[method] for method in METHODS},
        judged.curves["random"],
        label="logit of speech",
        regions="chunks of 32 ms silenced, most relevant first",
    )
    paths = [out / "window.png", out / "curves.png"]
    out.mkdir(parents=True, exist_ok=True)
    for figure, path in zip((window, curves), paths, strict=True):
        figure.savefig(path, dpi=110)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the model with its own file, explain windows, print and draw what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="silero_vad.jit")
    parser.add_argument("--audio", type=Path, required=True, help="a wav file, mono, 16 kHz")
    parser.add_argument("--out", type=Path, default=Path("speech"), help="folder of the pictures")
    parser.add_argument("--chunks", type=int, default=16, help="of a window, 32 ms each")
    parser.add_argument("--stride", type=int, default=4, help="chunks from window to window")
    options = parser.parse_args(arguments)
    model, own = load(options.weights)
    chunks = read_chunks(options.audio)
    difference = largest_difference(model, own, chunks)
    print(f"Largest difference from its own outputs: {difference:.1e} over {len(chunks)} chunks")
    windows = windows_of(chunks, options.chunks, options.stride)
    judged = judge(model, windows)
    print(f"Compiled for LRP in {judged.compiled:.1f} CPU seconds")
    print(f"{len(judged.windows)} of {len(windows)} windows end in speech")
    block = max(1, 2 * options.chunks // options.stride)
    areas = {name: curve.area_under() for name, curve in judged.curves.items()}
    for name, area in areas.items():
        mean, error = mean_by_blocks(area, block)
        print(f"Area under the logit, {name}: {mean:.3f} ± {error:.3f}")
        if name != "lrp_epsilon":
            more, error = mean_by_blocks(area - areas["lrp_epsilon"], block)
            print(f"  more than LRP: {more:.3f} ± {error:.3f}, {more / error:.1f} standard errors")
    for path in pictures(judged, len(judged.windows) // 2, options.out):
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
