# SPDX-License-Identifier: Apache-2.0
"""The explanation methods, by name and as objects.

A method says which relevance the target starts with, which rule each linear node gets, what
happens at a ReLU and what is done with the result at the input.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from pyrel.compiler.program.enums import Post
from pyrel.methods import rules
from pyrel.methods.enums import Start
from pyrel.methods.options import flag, number, single, word
from pyrel.methods.rules import LinearInputs, LinearRule


class UnsuitableDomainError(Exception):
    """No rule of the method fits what is known of a node's inputs."""


class Method(ABC):
    """A way to explain.

    Attributes
    ----------
    name : str
        As `pyrel.Explainer` takes it.
    start : Start
        Relevance of the target's output: one, the output, or its positive part.
    relu : Post
        What a ReLU does to relevance: pass it (``none``), or keep it where the unit is active
        (``mask``), and where also the relevance is positive (``guided``).
    finish : Post
        What is done to the sum that arrives at an input element: nothing, ``square``, or
        ``multiply`` by the input.
    conserves : bool
        Whether the method claims that relevance plus what was absorbed is what was put in.
    folds : bool
        Whether inner values that may be negative are folded into the linear nodes that read them,
        so that relevance never has to go through them.
    epsilon : float
        Of a method that conserves: what stabilises the division by a sum of values of both signs.
    gates : {"signal", "half"}
        Of a method that conserves: whether the signal gets all of the relevance of a product of a
        gate and a signal, or each of both half.
    pooling : {"winner", "proportional"} or None
        Who gets the relevance of a maximum: the first of the largest values, or all values in
        proportion, which none of a layer may be below zero for. None is "proportional" for layers
        of which none may be, "winner" for others.
    detach : {"stop", "pass"}
        Whether ``detach`` and ``no_grad`` in the model stop the method, as they stop gradients.
    autograd : {"exact", "ignore"}
        Of a method that is a gradient: whether what changes torch's gradient in ways that pyrel
        cannot see, such as a ``torch.autograd.Function``, is refused or ignored.
    centres_sigmoids : bool
        Whether a sigmoid hands on only the share that its value has beyond ½, its value at zero:
        where linear nodes divide by their outputs, a share that does not vanish at zero is without
        bound there.
    """

    name: ClassVar[str]
    start: ClassVar[Start] = Start.one
    relu: ClassVar[Post] = Post.mask
    conserves: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    finish: Post = Post.none
    epsilon: float = 0.0
    gates: str = "signal"
    pooling: str | None = "winner"
    detach: str = "stop"
    autograd: str = "exact"

    @property
    def centres_sigmoids(self) -> bool:
        """See the class; False but for the ε rule with half of the relevance for gates."""
        return False

    @abstractmethod
    def linear(self, node: LinearInputs) -> LinearRule:
        """Choose the rule for a linear node; `UnsuitableDomainError` where none fits."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that make an equal method, such as JSON can hold."""
        return {}

    def __repr__(self) -> str:
        """Show the constructor call."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"


class Gradient(Method):
    """∂f_target/∂x (Simonyan et al. 2014), as torch autograd computes it.

    Parameters
    ----------
    autograd : {"exact", "ignore"}
        A ``torch.autograd.Function`` of the model, or a hook on its gradients, makes the gradient
        another than that of the forward pass: "exact" refuses it, "ignore" differentiates the
        forward pass.
    """

    name = "gradient"

    def __init__(self, autograd: str = "exact") -> None:
        self.autograd = word("autograd", autograd, "exact", "ignore")

    @property
    def options(self) -> dict[str, Any]:
        """``autograd``, unless it is the default."""
        return {} if self.autograd == "exact" else {"autograd": self.autograd}

    def linear(self, node: LinearInputs) -> LinearRule:
        """R_j = Σ_k w_jk R_k."""
        return rules.gradient(node)


class Sensitivity(Gradient):
    """(∂f_target/∂x)², sensitivity analysis."""

    name = "sensitivity"
    finish = Post.square


class GradientXInput(Gradient):
    """x · ∂f_target/∂x: for ReLU networks simple Taylor decomposition at the origin."""

    name = "gradient_x_input"
    finish = Post.multiply


class GuidedBackprop(Gradient):
    """Gradient that only positive signals pass at each ReLU (Springenberg et al. 2015).

    Parameters
    ----------
    squared : bool, default True
        Square the result, as the thesis does; False gives the signed map of the paper.
    autograd : {"exact", "ignore"}
        As for `Gradient`.
    """

    name = "guided_backprop"
    relu = Post.guided

    def __init__(self, squared: bool = True, autograd: str = "exact") -> None:
        super().__init__(autograd)
        self.squared = flag("squared", squared)
        self.finish = Post.square if self.squared else Post.none

    @property
    def options(self) -> dict[str, Any]:
        """``squared``, and ``autograd`` unless it is the default."""
        return {"squared": self.squared, **super().options}


# Of an epsilon: float32 holds it, and what it is added to, with room to spare.
SMALLEST_EPSILON, LARGEST_EPSILON = 1e-30, 1e30


class _Conserving(Method):
    """What methods share that hand relevance down and keep count of it."""

    conserves = True
    relu = Post.none

    default_pooling: ClassVar[str | None] = None

    def __init__(
        self,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
    ) -> None:
        self.epsilon = number("epsilon", epsilon, "a number above 0")
        if not SMALLEST_EPSILON <= self.epsilon <= LARGEST_EPSILON:
            raise ValueError(
                f"epsilon: wanted a number above 0, got {epsilon!r}; the engine computes in "
                f"float32, which allows {SMALLEST_EPSILON:.0e} to {LARGEST_EPSILON:.0e}"
            )
        self.gates = word("gates", gates, "signal", "half")
        self.detach = word("detach", detach, "pass", "stop")
        self.pooling = self.default_pooling
        if pooling is not None:
            self.pooling = word("pooling", pooling, "winner", "proportional")

    @property
    def options(self) -> dict[str, Any]:
        """``epsilon`` and ``gates``, and ``detach`` and ``pooling`` unless they are the default."""
        detach = {} if self.detach == "pass" else {"detach": self.detach}
        pooling = {} if self.pooling == self.default_pooling else {"pooling": self.pooling}
        return {"epsilon": self.epsilon, "gates": self.gates, **detach, **pooling}


class LrpEpsilon(_Conserving):
    """LRP with the ε rule at every linear node (Bach et al. 2015, equation 58).

    Starts from f_target. Relevance of a product of a gate and a signal goes to the signal, as in
    Arras et al. (2017); elementwise activations hand it through.

    Parameters
    ----------
    epsilon : float, default 1e-6
        Added to each denominator, with its sign; what it takes is counted as absorbed.
    gates : {"signal", "half"}
        "half" gives the gate half of the relevance of its product, but none where the product
        carries a state on to the next step; and a sigmoid σ hands on (σ − ½)/σ of its relevance.
    detach : {"pass", "stop"}
        Whether relevance passes through ``detach`` and ``no_grad`` in the model as if they were not
        there, or is absorbed. With "stop" a detached factor counts as a constant: the other factor
        of its product gets all.
    pooling : {"winner", "proportional"}
        Who gets the relevance of a maximum: the first of the largest values, as in zennit and
        captum; or all values in proportion, where none of a layer may be below zero (else
        ValueError).
    """

    name = "lrp_epsilon"
    start = Start.output

    default_pooling = "winner"

    @property
    def centres_sigmoids(self) -> bool:
        """With ``gates="half"``."""
        return self.gates == "half"

    def linear(self, node: LinearInputs) -> LinearRule:
        """R_j = a_j Σ_k w_jk R_k / (z_k + ε sign z_k)."""
        return rules.epsilon(node, self.epsilon)


class DeepTaylor(_Conserving):
    """Deep Taylor decomposition (Montavon et al. 2017): z⁺, z^β or w² by each input's domain.

    Inputs known to be ≥ 0 (after a ReLU) get the z⁺ rule, inputs in a box [l, h] the z^β rule, both
    in one sum with one denominator; a node whose inputs all are unbounded elements of the graph's
    input gets the w² rule. Starts from max(0, f_target).

    Parameters
    ----------
    epsilon : float, default 1e-6
        Stabilises only sums of activations of both signs, such as the cell state of an LSTM.
    gates : {"signal", "half"}
        As for `LrpEpsilon`, but a sigmoid hands all through.
    detach : {"pass", "stop"}
        As for `LrpEpsilon`.
    pooling : {"winner", "proportional"}, optional
        As for `LrpEpsilon`. By default in proportion (section 5.2 of the paper) in every layer of
        which no value may be below zero, and to the winner in others.
    """

    name = "deep_taylor"
    start = Start.positive_output
    folds = True

    def linear(self, node: LinearInputs) -> LinearRule:
        """Choose the rule that the inputs' domains ask for."""
        unbounded = node.unbounded
        if not unbounded.any():
            return rules.z_plus_and_box(node)
        others = ~unbounded & ~node.zero
        if node.raw[unbounded].all() and not others.any():
            return rules.w_squared(node)
        raise UnsuitableDomainError(
            "deep_taylor needs to know the range of the inputs here, because they are mixed with "
            "other values: give low= and high=, the smallest and largest input values"
            if node.raw[unbounded].any()
            else "deep_taylor has no rule for inner values that may be negative; try lrp_epsilon"
        )


_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Gradient,
        Sensitivity,
        GuidedBackprop,
        GradientXInput,
        DeepTaylor,
        LrpEpsilon,
    )
}


def names() -> list[str]:
    """Names of all methods."""
    return list(_METHODS)


def named(name: str) -> type[Method] | None:
    """Return the class of a name, None if there is no such method."""
    return _METHODS.get(name)


def get(method: str | Method, others: Iterable[str] = (), /, **options: Any) -> Method:
    """Make the method of a name, with its options, or return the object itself.

    ``others`` are the options that are not of a method, for a message.

    Raises
    ------
    ValueError
        If there is no method of that name.
    TypeError
        If ``method`` is neither a name nor a method object, or does not take an option.
    """
    if isinstance(method, Method):
        if options:
            raise TypeError(f"options of a method object are set when it is made; got {options}")
        return method
    method = single(method)
    if not isinstance(method, str):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: wanted a name, or an object such as DeepTaylor(); got {got}")
    if method not in _METHODS:
        raise ValueError(f"method: no '{method}'; there are {', '.join(_METHODS)}")
    made = _METHODS[method]
    known = inspect.signature(made).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        explained = ", ".join(others)
        also = f" nor of Explainer ({explained})" if explained else ""
        raise TypeError(
            f"{', '.join(unknown)}: {'neither' if also else 'not among the'} options of {method} "
            f"({', '.join(known) or 'none'}){also}"
        )
    return made(**options)
