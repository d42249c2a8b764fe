# SPDX-License-Identifier: Apache-2.0
"""What is said where a CUDA device is asked for that is not there, or cannot do what is asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated
from engine.building import run, tool
from engine.on_cuda import by_emulator, emulated, launches, on_both
from engine.test_cuda_device import layers, samples
from engine.test_forks import in_child
from typer.testing import CliRunner

import pyrel
from pyrel import _core
from pyrel.cli.commands import app
from pyrel.engine import config
from pyrel.engine.cuda import library
from pyrel.engine.cuda.engine import CudaEngine
from pyrel.errors import CudaError

__all__ = ["emulated"]


@pytest.mark.parametrize(
    ("device", "kind", "message"),
    [
        ("gpu", ValueError, "wanted None, 'cpu', 'cuda' or one of several such as 'cuda:1'; got"),
        ("cuda:x", ValueError, "got 'cuda:x'"),
        ("cuda:-1", ValueError, "got 'cuda:-1'"),
        ("", ValueError, "got ''"),
        ("meta", ValueError, "got 'meta'"),
        (torch.device("mps"), ValueError, "got 'mps'"),
        (0, TypeError, "got int"),
        (True, TypeError, "got bool"),
        (["cuda"], TypeError, "got list"),
        ("cuda:200", ValueError, "got 'cuda:200'"),
        ("cuda:256", ValueError, "got 'cuda:256'"),
        ("cuda:3", ValueError, "device: cuda:3: there is 1 device"),
        (torch.device("cuda", 1), ValueError, "device: cuda:1: there is 1 device"),
    ],
)
@pytest.mark.usefixtures("emulated")
def test_devices(device: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    model, x = layers(), samples(2)
    explainer = pyrel.Explainer(model, x, "lrp_epsilon", check=None)
    explainer.save(tmp_path / "program")
    for call in (
        lambda: pyrel.Explainer(model, x, "lrp_epsilon", device=device),
        lambda: pyrel.Explainer.load(tmp_path / "program", device=device),
        lambda: pyrel.explain(model, x, "lrp_epsilon", device=device),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            call()


@pytest.mark.usefixtures("emulated")
def test_several_devices_and_none() -> None:
    with cuda_emulated.devices(2):
        with pytest.raises(ValueError, match="cuda:3: there are 2 devices"):
            pyrel.Explainer(layers(), samples(2), device="cuda:3")
        assert config.show_config()["cuda"] is True
    with cuda_emulated.devices(0):
        with pytest.raises(ValueError, match="cuda:0: there are 0 devices"):
            pyrel.Explainer(layers(), samples(2), device="cuda")
        assert config.show_config()["cuda"] is False
    with cuda_emulated.devices(-1):
        with pytest.raises(CudaError, match="no NVIDIA driver, or one too old: CUDA: "):
            pyrel.Explainer(layers(), samples(2), device="cuda")
        assert config.show_config()["cuda"] is False


def test_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(CudaError, match="PYREL_CUDA_LIBRARY names .*, and there is no such file"):
        pyrel.Explainer(layers(), samples(2), device="cuda")
    assert config.show_config()["cuda"] is False
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "text.so"))
    with pytest.raises(CudaError, match="the CUDA library cannot be loaded: .*text.so"):
        pyrel.Explainer(layers(), samples(2), device="cuda")
    monkeypatch.delenv(library.VARIABLE)
    if not (Path(_core.__file__).parent / "libpyrel_cuda.so").exists():
        with pytest.raises(CudaError, match="built without CUDA; build it with PYREL_CUDA=ON"):
            pyrel.Explainer(layers(), samples(2), device="cuda")


def test_the_library_of_another_pyrel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int pyrel_cuda_interface(void) { return 1; }")
    run(tool("g++"), "-x", "c", "-shared", "-fPIC", "-o", tmp_path / "other.so", source)
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "other.so"))
    with pytest.raises(CudaError, match="of another pyrel: its interface is 1, and this one needs"):
        pyrel.Explainer(layers(), samples(2), device="cuda")


@pytest.mark.usefixtures("emulated")
def test_importing_and_explaining_on_the_cpu_load_no_library() -> None:
    code = (
        "import numpy as np, pyrel, torch\n"
        "x = np.zeros((2, 3), np.float32)\n"
        "pyrel.Explainer(torch.nn.Linear(3, 2), x, 'gradient')(torch.from_numpy(x))\n"
        "loaded = lambda: 'pyrel_cuda' in open('/proc/self/maps').read()\n"
        "assert not loaded()\n"
        "assert pyrel.show_config()['cuda'] is True and loaded()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_precisions_of_tensor_cores_need_a_device(precision: str, device: Any) -> None:
    with pytest.raises(ValueError, match=f"precision: '{precision}' .* give device='cuda'"):
        pyrel.Explainer(layers(), samples(2), precision=precision, device=device)


@pytest.mark.usefixtures("emulated")
def test_a_file_has_its_products_of_bfloat16(tmp_path: Path) -> None:
    pyrel.Explainer(layers(), samples(2)).save(tmp_path / "program")
    with pytest.raises(ValueError, match='wanted "float32" or "tf32x3" or "tf32", got'):
        pyrel.Explainer.load(tmp_path / "program", device="cuda", precision="bf16")


@pytest.mark.usefixtures("emulated")
def test_values_and_targets_have_the_words_of_the_cpu() -> None:
    pair = on_both(layers(), samples(2), "lrp_epsilon", low=-1.0, high=1.0, check=None)
    x = samples(12)

    def words(target: Any = None, **changed: float) -> list[str]:
        found = []
        for explainer in pair:
            bad = x.copy()
            for place, value in changed.items():
                bad[int(place[1:]), 2] = value
            with pytest.raises((ValueError, TypeError)) as error:
                explainer(bad, target)
            found.append(str(error.value))
        return found

    for changed in ({"x3": np.nan}, {"x11": np.inf}, {"x0": 1.5}, {"x9": np.nan, "x4": -2.0}):
        there, here = words(**changed)
        assert there == here
    before = launches()
    for target in (3, -1, [0] * 11, np.zeros(12), "each step", np.arange(12)):
        there, here = words(target)
        assert there == here
    assert launches() == before


@pytest.mark.usefixtures("emulated")
def test_arrays_that_do_not_fit() -> None:
    explainer = pyrel.Explainer(layers(), samples(2), "lrp_epsilon", device="cuda", check=None)
    engine = explainer._programs.at(explainer.inputs.steps).core
    assert isinstance(engine, CudaEngine)
    x = samples(4)
    floats = [np.zeros(4, np.float32) for _ in range(3)]
    fitting = [np.zeros((4, 5), np.float32), np.zeros((4, 3), np.float32), np.zeros(4, np.int64)]
    whole = [*fitting, *floats]
    before = launches()
    for number, array in enumerate(whole):
        for wrong in (array[:-1], array.astype(np.float16)):
            given = [*whole[:number], wrong, *whole[number + 1 :]]
            with pytest.raises(ValueError, match="do not have the sizes"):
                engine.run(x, None, None, None, True, 1, *given)
    with pytest.raises(ValueError, match="do not have the sizes"):
        engine.run(x, None, None, None, True, 1, *whole, first=1)
    with pytest.raises(ValueError, match="a target is no class"):
        engine.run(x, np.array([0, 1, 3, 0]), None, None, True, 1, *whole)
    with pytest.raises(ValueError, match="writes over"):
        engine.run(x, None, None, None, True, 1, *whole, ways_back=2)
    assert launches() == before


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.usefixtures("emulated")
def test_a_forked_child_is_told() -> None:
    x = samples(3)
    explainer = pyrel.Explainer(layers(), x, "lrp_epsilon", device="cuda", check=None)
    explainer(x)

    def child() -> bool:
        try:
            explainer(x)
        except CudaError as error:
            return "does not survive a fork" in str(error)
        return False

    assert in_child(child)
    assert explainer(x).relevance.shape == x.shape


@by_emulator
@pytest.mark.usefixtures("emulated")
def test_ctrl_c_between_two_calls_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library works for tenths of a second; then Python's handler of signals has its turn."""
    monkeypatch.setattr(CudaEngine, "chunk", 8)
    x = samples(30_000)
    explainer = pyrel.Explainer(layers(), x[:2], "lrp_epsilon", device="cuda", check=None)
    wanted = explainer(x[:9])
    before = launches()
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            explainer(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert launches() < before + 3750
    assert explainer(x[:9]).relevance.tobytes() == wanted.relevance.tobytes()


@pytest.mark.usefixtures("emulated")
def test_the_command(tmp_path: Path) -> None:
    x = samples(20)
    np.save(tmp_path / "x.npy", x)
    pyrel.Explainer(layers(), x[:2], "lrp_epsilon", check=None).save(tmp_path / "p.program")

    def command(device: str, out: str) -> Any:
        files = [str(tmp_path / name) for name in ("p.program", "x.npy", out)]
        return CliRunner().invoke(
            app, ["explain", *files[:2], "--out", files[2], "--device", device]
        )

    before = launches()
    assert command("cuda", "there.npz").exit_code == 0
    assert launches() > before
    assert command("cpu", "here.npz").exit_code == 0
    assert (tmp_path / "there.npz").read_bytes() == (tmp_path / "here.npz").read_bytes()
    refused = command("cuda:7", "none.npz")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "cuda:7: there is 1 device" in refused.stderr
