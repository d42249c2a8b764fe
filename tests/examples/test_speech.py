# SPDX-License-Identifier: Apache-2.0
"""The example of speech, with few chunks; weights of the package where that is installed."""

import importlib.util
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from example_modules import example_module
from torch import nn

# The package has its weights as TorchScript, for which torch has no other reader.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def speech() -> ModuleType:
    return example_module("speech")


def sound(chunks: int) -> Any:
    """Noise whose loudness goes up and down: (chunks, 512)."""
    rng = np.random.default_rng(0)
    loud = np.abs(np.sin(np.arange(chunks) / 3))[:, None] + 0.01
    return (rng.uniform(-0.5, 0.5, (chunks, 512)) * loud).astype(np.float32)


@pytest.fixture(scope="module")
def model(speech: ModuleType) -> nn.Module:
    """Random weights, about as large as those of the package, that find speech everywhere."""
    torch.manual_seed(0)
    made: nn.Module = speech.SileroVad().eval()
    with torch.no_grad():
        made.get_parameter("basis.weight").mul_(10)
        made.get_parameter("output.bias").fill_(1.0)
    return made


class Stored(nn.Module):
    """Weights under the names that the package's file has."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = nn.Module()
        self._model.stft = nn.Module()
        self._model.stft.register_buffer("forward_basis_buffer", model.basis.weight.detach())
        self._model.encoder = nn.ModuleList()
        for layer in model.encoder[::2]:
            block = nn.Module()
            block.reparam_conv = layer
            self._model.encoder.append(block)
        decoder = self._model.decoder = nn.Module()
        decoder.rnn = nn.LSTMCell(128, 128)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(decoder.rnn, name).data = model.lstm.get_parameter(f"{name}_l0").data
        decoder.decoder = nn.ModuleList([nn.Dropout(), nn.ReLU(), nn.Conv1d(128, 1, 1)])
        decoder.decoder[2].weight.data = model.output.weight.data[:, :, None]
        decoder.decoder[2].bias.data = model.output.bias.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_weights_are_found_by_their_names(speech: Any, model: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(Stored(model)).save(tmp_path / "weights.jit")
    found, _ = speech.load(tmp_path / "weights.jit")
    for name, wanted in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], wanted), name


def test_recordings_are_cut_into_chunks(speech: Any, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    values = np.arange(-600, 600, dtype=np.int16)
    for rate, channels in ((16_000, 1), (8_000, 1), (16_000, 2)):
        with wave.open(str(path), "wb") as recording:
            recording.setnchannels(channels)
            recording.setsampwidth(2)
            recording.setframerate(rate)
            recording.writeframes(values.tobytes())
        if (rate, channels) == (16_000, 1):
            chunks = speech.read_chunks(path)
            np.testing.assert_array_equal(chunks.reshape(-1), values[:1024] / np.float32(32768))
            windows = speech.windows_of(np.repeat(chunks, 4, axis=0), 3, 2)
            assert windows.shape == (3, 3, 512)
        else:
            with pytest.raises(ValueError, match="wanted"):
                speech.read_chunks(path)


def test_windows_are_explained_and_silenced(speech: Any, model: nn.Module, tmp_path: Path) -> None:
    windows = speech.windows_of(sound(12), 4, 2)
    judged = speech.judge(model, windows, draws=2)
    assert judged.windows.shape == (5, 4, 512)  # all end in speech
    with torch.no_grad():
        logits = model(torch.from_numpy(windows))[:, -1].numpy()
    assert set(judged.curves) == {"lrp_epsilon", "gradient_x_input", "random"}
    for name, curve in judged.curves.items():
        assert curve.scores.shape == (5, 5), name
        # Sums of at most 387 products a layer, six of them: 1e-5 is 200 roundings of a logit of 1.
        np.testing.assert_allclose(curve.scores[:, 0], logits, atol=1e-5)
    x = torch.from_numpy(windows).requires_grad_()
    model(x)[:, -1].sum().backward()
    assert x.grad is not None
    wanted = (x.grad * x).detach().numpy()
    found = judged.relevance["gradient_x_input"]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    for path in speech.pictures(judged, 0, tmp_path):
        assert path.stat().st_size > 1000


def test_standard_errors_are_of_blocks(speech: Any) -> None:
    mean, error = speech.mean_by_blocks(np.array([1.0, 3.0, 5.0, 7.0, 100.0]), 2)
    assert (mean, error) == (4.0, pytest.approx(np.std([2, 6], ddof=1) / np.sqrt(2)))


def test_outputs_are_those_of_the_package(speech: Any) -> None:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("silero_vad is not installed")
    model, own = speech.load(Path(spec.origin).parent / "data" / "silero_vad.jit")
    assert speech.largest_difference(model, own, sound(20)) < 1e-5
