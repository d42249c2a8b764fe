# SPDX-License-Identifier: Apache-2.0
"""Options of any type that means the same, and inputs that are refused for their kind."""

from __future__ import annotations

import enum
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from engine.sequences import Last, assert_same, batch, explainer
from torch import nn

import pyrel

X = batch(Last, 3, 6)
Z = X[:, 0]
MODEL = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


class Word(str, enum.Enum):  # noqa: UP042 - its str() is not its text
    """Names as a configuration may hold them."""

    LRP = "lrp_epsilon"
    HALF = "half"


class Text(str):
    """A subclass of str."""

    __slots__ = ()


class Jax:
    """What NumPy can read, but is no array."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.zeros((3, 4), dtype)


class Frame:
    """What has its array for the asking, as a table has."""

    def to_numpy(self) -> Any:
        return np.zeros((3, 4))


@pytest.mark.parametrize(
    "epsilon",
    [
        np.float32(0.5), np.float16(0.5), np.float64(0.5), np.array(0.5), np.array([0.5]),
        torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5, requires_grad=True),
    ],
    ids=lambda v: f"{type(v).__name__}-{v.dtype}-{v.ndim}",
)  # fmt: skip
@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
def test_epsilon_of_any_type(method: str, epsilon: Any) -> None:
    bounds = {"low": -1.0, "high": 1.0}
    wanted = pyrel.Explainer(MODEL, Z, method, epsilon=0.5, **bounds)
    given = pyrel.Explainer(MODEL, Z, method, epsilon=epsilon, **bounds)
    assert repr(given) == repr(wanted)
    assert_same(given(Z), wanted(Z))
    assert_same(pyrel.explain(MODEL, Z, method, epsilon=epsilon, **bounds), wanted(Z))


@pytest.mark.parametrize("epsilon", [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)])
def test_epsilon_of_whole_numbers(epsilon: Any) -> None:
    assert pyrel.methods.LrpEpsilon(epsilon=epsilon).epsilon == 1.0


@pytest.mark.parametrize(
    "epsilon",
    [
        True, np.bool_(True), torch.tensor(True), "1e-3", None, [1e-3], np.ones(2), torch.ones(2),
        1j, torch.tensor(1j), np.array(None), torch.ones((), device="meta"), {"epsilon": 1},
        np.ma.masked, torch.ones(1).to_sparse(),
    ],
    ids=lambda v: f"{type(v).__name__}",
)  # fmt: skip
def test_what_is_no_epsilon(epsilon: Any) -> None:
    with pytest.raises(TypeError, match="^epsilon: wanted a number above 0, got "):
        pyrel.Explainer(MODEL, Z, "lrp_epsilon", epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [0, -1.0, np.float32(np.nan), np.float32(np.inf)])
def test_epsilons_out_of_range(epsilon: Any) -> None:
    with pytest.raises(ValueError, match="^epsilon: wanted a number above 0, got "):
        pyrel.Explainer(MODEL, Z, "lrp_epsilon", epsilon=epsilon)


@pytest.mark.parametrize(
    "flag", [False, 0, np.bool_(False), np.int8(0), np.array(False), torch.tensor(False)], ids=repr
)
def test_flags_of_any_type(flag: Any) -> None:
    x = Z.copy()
    x[0, 0] = np.nan
    given = pyrel.Explainer(MODEL, Z, "guided_backprop", check_finite=flag, squared=flag)
    assert given.inputs.check_finite is False
    assert given.method.squared is False  # type: ignore[attr-defined]
    assert np.isnan(given(x).output[0]).all()


@pytest.mark.parametrize("name", ["check_finite", "lengths", "squared"])
@pytest.mark.parametrize("flag", ["no", None, 2, 0.0, np.zeros(2, bool), [True]], ids=repr)
def test_what_is_no_flag(name: str, flag: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: wanted True or False, got "):
        pyrel.Explainer(MODEL, Z, "guided_backprop", **{name: flag})


def test_words_of_any_type() -> None:
    wanted = pyrel.Explainer(MODEL, Z, "lrp_epsilon", gates="half")
    for method, gates in (
        (Word.LRP, Word.HALF),
        (Text("lrp_epsilon"), Text("half")),
        (np.str_("lrp_epsilon"), np.array("half")),
    ):
        given = pyrel.Explainer(
            MODEL,
            Z,
            method,
            gates=gates,
            precision=np.str_("float32"),  # type: ignore[arg-type]
        )
        assert repr(given) == repr(wanted)
        assert type(given.method.gates) is str
        assert_same(pyrel.explain(MODEL, Z, method, gates=gates), wanted(Z))


@pytest.mark.parametrize("method", [Word.HALF, np.str_("no_such"), np.array("gradients")])
def test_no_such_method(method: Any) -> None:
    with pytest.raises(ValueError, match="^method: no '"):
        pyrel.Explainer(MODEL, Z, method)


def test_a_method_of_the_sources_that_is_elsewhere_says_where() -> None:
    with pytest.raises(ValueError, match=r"fitted to it: pyrel\.experiment\.DeepTaylorMinMax\("):
        pyrel.Explainer(MODEL, Z, "deep_taylor_minmax")
    assert pyrel.experiment.DeepTaylorMinMax.name == "deep_taylor_minmax"


def test_an_unknown_option_is_named_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match="^epsilonn: neither options of lrp_epsilon .epsilon, "):
        pyrel.Explainer(MODEL, Z, "lrp_epsilon", epsilonn=1e-3)
    with pytest.raises(
        TypeError,
        match="^epsilon: neither options of gradient .autograd. nor of Explainer .low, high, "
        "lengths, constant, output, task, out_of_range, check_finite, precision, check, device.$",
    ):
        pyrel.Explainer(MODEL, Z, "gradient", epsilon=1e-3)


@pytest.mark.parametrize("bound", [np.float32(1), np.array(1), torch.tensor(1.0), np.int8(1)])
def test_bounds_of_any_type(bound: Any) -> None:
    wanted = pyrel.Explainer(MODEL, Z, "deep_taylor", low=-1, high=1)(Z)
    assert_same(pyrel.Explainer(MODEL, Z, "deep_taylor", low=-bound, high=bound)(Z), wanted)
    assert_same(pyrel.explain(MODEL, Z, "deep_taylor", low=-bound, high=bound), wanted)


@pytest.mark.parametrize("threads", [np.int64(2), np.array(2), torch.tensor(2)])
def test_threads_of_any_type(threads: Any) -> None:
    try:
        pyrel.set_num_threads(threads)
        assert pyrel.show_config()["num_threads"] == 2
    finally:
        pyrel.set_num_threads(1)


def _unreadable() -> dict[str, tuple[Any, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = torch.zeros(3, 4)
        return {
            "dict": ({"x": Z}, r"a mapping \(dict\).*give that tensor"),
            "list": (Z.tolist(), r"a list; give np.asarray\(x\)"),
            "tuple": ((Z, Z), r"a tuple; give np.asarray\(x\)"),
            "nested": (
                torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)]),
                "a nested tensor; .*to_padded_tensor.*lengths=True",
            ),
            "jagged": (
                torch.nested.nested_tensor(
                    [torch.zeros(2, 4), torch.zeros(3, 4)], layout=torch.jagged
                ),
                "a nested tensor; .*to_padded_tensor",
            ),
            "coo": (t.to_sparse(), r"a sparse tensor \(torch.sparse_coo\).*x.to_dense\(\)"),
            "csr": (t.to_sparse_csr(), r"a sparse tensor \(torch.sparse_csr\).*x.to_dense\(\)"),
            "meta": (t.to("meta"), r"a tensor of shape \(3, 4\) on the meta device, which has no"),
            "quantised": (
                torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
                r"a quantised tensor \(torch.qint8\).*x.dequantize\(\)",
            ),
            "complex tensor": (t.to(torch.complex64), "complex numbers .torch.complex64."),
            "complex": (Z.astype(complex), r"complex numbers \(dtype complex128\)"),
            "objects": (Z.astype(object), r"an array of Python objects of shape \(3, 4\).*astype"),
            "ragged": (
                np.array([np.zeros(2), np.zeros(3), 1], object),
                "an array of Python objects.*padded array and lengths=",
            ),
            "masked": (np.ma.masked_less(Z, 0), r"a masked array.*x.filled\(value\)"),
            "structured": (np.zeros(3, "f4,f4"), "a structured array"),
            "frame": (Frame(), r"Frame; give x.to_numpy\(\)"),
            "jax": (Jax(), r"Jax; give np.asarray\(x\)"),
            "packed": (
                nn.utils.rnn.pack_sequence([torch.zeros(3, 4), torch.zeros(2, 4)]),
                "a PackedSequence; give the padded tensor, and lengths=",
            ),
            "none": (None, "None"),
        }


UNREADABLE = _unreadable()


@pytest.mark.parametrize("kind", UNREADABLE)
def test_inputs_that_cannot_be_read(kind: str) -> None:
    value, message = UNREADABLE[kind]
    with pytest.raises(
        TypeError, match=f"^x: wanted an array or a tensor of floats.*got {message}"
    ):
        pyrel.Explainer(MODEL, Z, "gradient")(value)
    if kind in {"dict", "tuple"}:  # several inputs, which this model does not take
        with pytest.raises(pyrel.UnsupportedModelError, match="Sequential itself raises TypeError"):
            pyrel.explain(MODEL, value, "gradient")
        return
    with pytest.raises(TypeError, match=f"^x: wanted an array or a tensor, got {message}"):
        pyrel.explain(MODEL, value, "gradient")
    if value is not None:
        with pytest.raises(TypeError, match=f"^example: wanted .*got {message}"):
            pyrel.Explainer(MODEL, value, "gradient")


@pytest.mark.parametrize(
    "kind", sorted(set(UNREADABLE) - {"list", "tuple", "jax", "frame", "none"})
)
def test_arguments_that_cannot_be_read(kind: str) -> None:
    value, _ = UNREADABLE[kind]
    both = explainer(Last, "gradient", lengths=True)
    for name in ("target", "lengths"):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: wanted "):
            both(X, **{name: value})
    for name in ("low", "high"):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: wanted "):
            pyrel.Explainer(MODEL, Z, "gradient", **{"low": -1, "high": 1, name: value})


@pytest.mark.parametrize("value", [[[1], [2, 3]], [Z, 1], [torch.ones(2), 1], [object()]])
def test_sequences_that_make_no_array(value: Any) -> None:
    for name in ("target", "lengths"):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: wanted "):
            explainer(Last, "gradient", lengths=True)(X, **{name: value})
    with pytest.raises((TypeError, ValueError), match="^low: wanted "):
        pyrel.Explainer(MODEL, Z, "gradient", low=value, high=1)


@pytest.mark.parametrize("out", [X.tolist(), torch.zeros(3, 6, 4, device="meta"), {"out": X}])
def test_what_cannot_be_written(out: Any) -> None:
    with pytest.raises(TypeError, match="^out: wanted an array or a tensor, got "):
        explainer(Last, "gradient")(X, out=out)


def test_models_without_values() -> None:
    empty = nn.LSTM(4, 3, device="meta")
    for make in (pyrel.Explainer, pyrel.explain):
        with pytest.raises(TypeError, match="^model: weight_ih_l0: wanted a tensor with values"):
            make(empty, X, "gradient")
        with pytest.raises(TypeError, match="^model: weight is not made yet, .* is lazy"):
            make(nn.LazyLinear(3), Z, "gradient")


@pytest.mark.parametrize("epsilon", [1e300, 1e38, 1e-40, 1e-300])
def test_epsilons_that_float32_cannot_hold(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon: .* float32, which allows 1e-30 to 1e\+30"):
        pyrel.methods.LrpEpsilon(epsilon=epsilon)


def test_bounds_in_half_precision_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyrel.Explainer(MODEL, Z, "deep_taylor", low=np.float16(0), high=1.0)


def test_what_is_no_limits() -> None:
    with pytest.raises(TypeError, match=r"limits: wanted pyrel\.Limits.*got int"):
        pyrel.Explainer.load("no.program", limits=3)  # type: ignore[arg-type]


def test_limits_times_a_number_of_any_type() -> None:
    assert pyrel.Limits().times(np.float32(10)) == pyrel.Limits().times(10)


@pytest.mark.parametrize(("factor", "error"), [("a", TypeError), (-1, ValueError), (0, ValueError)])
def test_limits_times_what_is_no_factor(factor: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="factor: wanted a number above 0"):
        pyrel.Limits().times(factor)


def test_integers_in_a_tensor_are_converted_as_tensors_are() -> None:
    with pytest.raises(TypeError, match=r"x\.float\(\)"):
        pyrel.Explainer(MODEL, Z, "gradient")(torch.zeros(3, 4, dtype=torch.int64))


def test_batch_statistics_are_refused_by_the_option_that_asks_for_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    with pytest.raises(pyrel.UnsupportedModelError, match="track_running_stats=False"):
        pyrel.Explainer(model, Z, "gradient")


def test_a_target_of_floats_is_refused_by_its_own_type() -> None:
    with pytest.raises(TypeError, match=r"^target: .* got dtype torch\.float32"):
        pyrel.Explainer(MODEL, Z, "gradient")(Z, target=torch.zeros(3))
