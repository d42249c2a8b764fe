# SPDX-License-Identifier: Apache-2.0
"""Methods that explain a sample by what the model does with changed copies of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.methods.base import GradientMethod
from pyrel.methods.options import by_input, flag, listed, number, single, whole

_SHOWN = 8  # numbers of an array that `repr` shows; of others, a digest


class Perturbation(GradientMethod):
    """What methods share that run changed copies of each sample.

    A call runs a part of the copies at a time, so that they never take more than some 100 MB, and a
    sample larger than that a few times its own size. Its ``progress`` counts them.
    """

    def __repr__(self) -> str:
        """Show the constructor call; of a large array, its shape and a digest."""
        options = ", ".join(f"{name}={_shown(value)}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_shown(each)}' for key, each in value.items())}}}"
    if not isinstance(value, list):
        return repr(value)
    given = np.asarray(value)
    if given.size <= _SHOWN:
        return repr(value)
    digest = hashlib.sha256(given.tobytes()).hexdigest()[:16]
    return f"<array of shape {given.shape}, sha256 {digest}…>"


class IntegratedGradients(Perturbation):
    """(x_i − x'_i) ∫₀¹ ∂f_target/∂x_i (x' + α (x − x')) dα (Sundararajan et al. 2017).

    The integral is a Gauss-Legendre quadrature, as captum's default. The relevance adds up to
    f(x) − f(x') but for the error of the quadrature, the completeness error, which is
    ``conservation`` of the `pyrel.Explanation`; more steps make it smaller.

    Parameters
    ----------
    n_steps : int, default 50
        Points of the quadrature, 1 to 1,000: so often is the gradient computed.
    baseline : number or array that broadcasts to one sample, optional
        x'; by default zeros. The mean of a data set, say, is ``x.mean(0)``.
        Of token ids, whose path is that of their embeddings, ids; by default zeros in their place.
        Of several inputs one number for all of floats, or a dictionary by their names. Truth values
        and constant inputs are those of the sample on the whole path.
    autograd : {"exact", "ignore"}
        As for `Gradient`.

    Raises
    ------
    ValueError
        When a model is compiled: the baseline has another shape than a sample, or lies outside
        [low, high].

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(5, 3)
    >>> explainer = pyrel.Explainer(model, x, "integrated_gradients", baseline=x.mean(0))
    >>> e = explainer(x, target=1)
    >>> rise = (e.output - explainer.forward(x.mean(0, keepdim=True)))[:, 1]
    >>> torch.allclose(e.relevance.sum(1), rise + e.conservation, atol=1e-6)
    True
    >>> bool((e.conservation.abs() < 1e-5).all())
    True
    """

    name = "integrated_gradients"

    def __init__(self, n_steps: int = 50, baseline: Any = None, autograd: str = "exact") -> None:
        super().__init__(autograd)
        self.n_steps = whole("n_steps", n_steps, 1, 1000)
        self.baseline = None if baseline is None else by_input("baseline", baseline)

    @property
    def options(self) -> dict[str, Any]:
        """``n_steps``, and others unless they are the default."""
        given = {} if self.baseline is None else {"baseline": listed(self.baseline)}
        return {"n_steps": self.n_steps, **given, **super().options}

    def quadrature(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the points α in (0, 1), ascending, and their weights, which add up to 1."""
        points, weights = np.polynomial.legendre.leggauss(self.n_steps)
        return (points + 1) / 2, weights / 2


class SmoothGrad(Perturbation):
    """The mean of the gradient at x + noise, noise normal (Smilkov et al. 2017, section 2.2).

    The noise is drawn by NumPy's default generator from the seed, the same for each sample, which
    so gets the same relevance in any batch. Noisy samples may leave the range of the input.

    Parameters
    ----------
    n_samples : int, default 50
        How many gradients are averaged, 1 to 10,000.
    noise : float, default 0.15
        Standard deviation of the noise over the width of the input's range: of high − low of each
        element where both are given and finite, else of the largest less the smallest value of the
        sample.
    std : number or array that broadcasts to one sample, optional
        Standard deviation itself, instead of ``noise``. Of several inputs one number for all, or a
        dictionary by their names: no noise where one is left out. Token ids, truth values and
        constant inputs get none.
    squared : bool, default False
        Average the squares of the gradients (Hooker et al. 2019, section 4.1).
    seed : int, default 0
    autograd : {"exact", "ignore"}
        As for `Gradient`.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(5, 3)
    >>> e = pyrel.explain(model, x, "smoothgrad", std=0.1, low=0.0, high=1.0)
    >>> alone = pyrel.explain(model, x[3:4], "smoothgrad", std=0.1, low=0.0, high=1.0)
    >>> torch.equal(e.relevance[3:4], alone.relevance)
    True
    """

    name = "smoothgrad"

    def __init__(
        self,
        n_samples: int = 50,
        noise: float = 0.15,
        std: Any = None,
        squared: bool = False,
        seed: int = 0,
        autograd: str = "exact",
    ) -> None:
        super().__init__(autograd)
        self.n_samples = whole("n_samples", n_samples, 1, 10_000)
        self.noise = number("noise", noise)
        self.std = None if std is None else by_input("std", std)
        self.squared = flag("squared", squared)
        self.seed = whole("seed", seed, 0, 2**63 - 1)
        name, size = ("noise", self.noise) if self.std is None else ("std", self.std)
        for each in size.values() if isinstance(size, dict) else (size,):
            if not (np.isfinite(each).all() and np.min(each, initial=0.0) >= 0):
                raise ValueError(f"{name}: wanted finite numbers of 0 or more, got {each!r}")

    @property
    def options(self) -> dict[str, Any]:
        """``n_samples``, the size of the noise, ``seed``, and what else is not the default."""
        size = {"noise": self.noise} if self.std is None else {"std": listed(self.std)}
        squared = {"squared": True} if self.squared else {}
        return {
            "n_samples": self.n_samples,
            **size,
            **squared,
            "seed": self.seed,
            **super().options,
        }


class Occlusion(Perturbation):
    """f(x) − f(x with a patch occluded) (Zeiler and Fergus 2014, section 4.2), patch by patch.

    Each element of a patch gets the whole difference, the mean of them where patches overlap, as in
    captum. The program is that of the forward pass. Occluded samples may leave the range of the
    input.

    Parameters
    ----------
    patch : int or sequence of int, optional
        Its size along each axis of a sample; a number n means n × n elements of the last two axes.
        By default a step: all that has one index of the first axis, which for token ids is a token.
    stride : int or sequence of int, optional
        How far patches are apart, 1 to the size of a patch, which is the default. Patches beyond
        the end of an axis are cut off there.
    baseline : number or array that broadcasts to one sample, optional
        What stands in an occluded place; by default zeros. Of a model that takes token ids it has
        to be given, and be one of these. Of several inputs one number for all of floats, or a
        dictionary by names. They are occluded one by one, and constant ones never.

    Raises
    ------
    ValueError
        When a model is compiled: an option does not fit the shape of a sample, or token ids need a
        baseline.

    Examples
    --------
    >>> model, x = torch.nn.Linear(4, 2), torch.rand(5, 4)
    >>> e = pyrel.explain(model, x, "occlusion", target=0)
    >>> torch.allclose(e.relevance, x * model.weight[0], atol=1e-6)
    True
    """

    name = "occlusion"
    backward = False

    def __init__(
        self,
        patch: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        baseline: Any = None,
    ) -> None:
        super().__init__("ignore")  # nothing is differentiated
        self.patch = None if patch is None else _sizes("patch", patch)
        self.stride = None if stride is None else _sizes("stride", stride)
        self.baseline = None if baseline is None else by_input("baseline", baseline)

    @property
    def options(self) -> dict[str, Any]:
        """What is given of ``patch``, ``stride`` and ``baseline``."""
        baseline = None if self.baseline is None else listed(self.baseline)
        given = {"patch": self.patch, "stride": self.stride, "baseline": baseline}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value is not None
        }

    def windows(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the size and the stride of patches along each axis of a sample.

        Raises
        ------
        ValueError
            If an option has another number of axes, or strides are wider than patches.
        """
        patch = _along("patch", self.patch, shape, (1, *shape[1:])[: len(shape)])
        stride = _along("stride", self.stride, shape, patch)
        if any(s > p for s, p in zip(stride, patch, strict=True)):
            raise ValueError(f"stride: wanted at most the size of a patch, {patch}, got {stride}")
        return patch, stride


_LARGEST_SIZE = 2**31


def _sizes(name: str, value: Any) -> int | tuple[int, ...]:
    """Return a size, or one for each axis."""
    plain = single(value) if not isinstance(value, Sequence) else value
    if isinstance(plain, int):
        return whole(name, plain, 1, _LARGEST_SIZE)
    if isinstance(plain, str) or not isinstance(plain, Sequence | np.ndarray):
        raise TypeError(f"{name}: wanted a whole number or one for each axis, got {value!r}")
    return tuple(whole(name, each, 1, _LARGEST_SIZE) for each in plain)


def _along(
    name: str,
    given: int | tuple[int, ...] | None,
    shape: tuple[int, ...],
    default: tuple[int, ...],
) -> tuple[int, ...]:
    """Return sizes along each axis, none larger than the axis."""
    sizes = default if given is None else given
    if isinstance(sizes, int):
        sizes = tuple(sizes if axis >= len(shape) - 2 else 1 for axis in range(len(shape)))
    if len(sizes) != len(shape):
        raise ValueError(f"{name}: wanted a size for each axis of a sample, {shape}, got {sizes}")
    return tuple(min(size, most) for size, most in zip(sizes, shape, strict=True))
