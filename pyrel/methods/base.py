# SPDX-License-Identifier: Apache-2.0
"""What a method is: where it starts, and which rule stands at each node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pyrel.methods import other_rules, rules
from pyrel.methods.enums import AtInput, AtRelu, Start
from pyrel.methods.options import word
from pyrel.methods.other_rules import Rule
from pyrel.methods.rules import LinearRule
from pyrel.methods.site import Site

_CLAMPS = frozenset(["at_least", "above", "at_most", "below"])  # elementwise functions


class Method(ABC):
    """A way to explain.

    Derive from `GradientMethod` or `RelevancePropagation` to write one.

    Attributes
    ----------
    name : str
        As `pyrel.Explainer` takes it.
    start : Start
        Relevance of the target's output.
    relu : AtRelu
        What a ReLU does to relevance.
    finish : AtInput
        What is done to the sum that arrives at an input element.
    conserves : bool
        Whether the method claims that relevance plus what was absorbed is what was put in.
    folds : bool
        Whether inner values that may be negative are folded into the linear nodes that read them,
        so that relevance never has to go through them.
    backward : bool
        Whether anything is sent back through the network; of a method that only compares outputs,
        the program computes these alone.
    whole_layers : bool
        Whether a rule at a linear node with some columns of a layer's weights, as the first step of
        a recurrence has, whose state is zero, makes its matrix of all of the layer's weights.
    needs_bounds : bool
        Whether the smallest and largest input values have to be given.
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
    bias : {"absorb", "share"}
        Of a method that conserves: whether bias and stabiliser absorb their share of relevance, or
        give it to the node's inputs in equal parts.
    attention : {"values", "attnlrp"}
        Of a method that conserves: whether the weights of attention are gates, or a softmax has a
        rule and the products of attention are halved.
    """

    name: ClassVar[str]
    start: ClassVar[Start] = Start.one
    relu: ClassVar[AtRelu] = AtRelu.mask
    conserves: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    backward: ClassVar[bool] = True
    whole_layers: ClassVar[bool] = False
    needs_bounds: ClassVar[bool] = False
    finish: AtInput = AtInput.keep
    gates: str = "signal"
    pooling: str | None = "winner"
    detach: str = "stop"
    autograd: str = "exact"
    bias: str = "absorb"
    attention: str = "values"

    @abstractmethod
    def rule(self, site: Site) -> Rule:
        """Choose the rule for a node.

        Parameters
        ----------
        site : Site

        Returns
        -------
        Rule
            A `LinearRule` for the kinds "dense" and "convolution".

        Raises
        ------
        UnsuitableDomainError
            If no rule fits what is known of the node's inputs.
        """

    def check_sites(self, sites: Sequence[Site]) -> None:  # noqa: B027 - most name none
        """Compare what the method says of nodes with those of a model.

        Parameters
        ----------
        sites : sequence of Site
            All nodes that relevance goes through.

        Raises
        ------
        ValueError
            Something that it says is about none of them.
        """

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that make an equal method, such as JSON can hold."""
        return {}

    def __repr__(self) -> str:
        """Show the constructor call."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"


class GradientMethod(Method):
    """What gradient methods share: the chain rule at every node.

    Parameters
    ----------
    autograd : {"exact", "ignore"}
        A ``torch.autograd.Function`` of the model, or a hook on its gradients, makes the gradient
        another than that of the forward pass: "exact" refuses it, "ignore" differentiates the
        forward pass.
    """

    _RULES: ClassVar[dict[str, Rule]] = {
        "activation": other_rules.Slope(),
        "product": other_rules.BothFactors(),
        "sum": other_rules.PassToAll(),
        "max_pool": other_rules.Winner(),
        "normalisation": other_rules.NormalisationSlope(),
        "stop": other_rules.Nothing(),
    }

    def __init__(self, autograd: str = "exact") -> None:
        self.autograd = word("autograd", autograd, "exact", "ignore")

    @property
    def options(self) -> dict[str, Any]:
        """``autograd``, unless it is the default."""
        return {} if self.autograd == "exact" else {"autograd": self.autograd}

    def rule(self, site: Site) -> Rule:
        """Differentiate."""
        return (
            rules.PlainGradient()
            if site.is_linear
            else self._RULES.get(site.kind, other_rules.Pass())
        )


class RelevancePropagation(Method):
    """What methods share that propagate relevance and keep count of it.

    Derive from it to put rules of one's own at linear nodes: override `linear_rule`, or `rule` for
    all kinds of node.

    Parameters
    ----------
    epsilon : float, default 1e-6
        Added, with its sign, to sums that may be of both signs and are divided by.
    gates : {"signal", "half"}
        "half" gives the gate half of the relevance of its product, but none where the product
        carries a state on to the next step.
    detach : {"pass", "stop"}
        Whether relevance passes through ``detach`` and ``no_grad`` in the model as if they were not
        there, or is absorbed. With "stop" a detached factor counts as a constant: the other factor
        of its product gets all.
    pooling : {"winner", "proportional"}
        Who gets the relevance of a maximum: the first of the largest values, as in zennit and
        captum; or all values in proportion, where none of a layer may be below zero (else
        ValueError).
    bias : {"absorb", "share"}
        Whether the share of a bias, of a constant and of the stabiliser is absorbed, or given in
        equal parts to the inputs of the linear node, or the addends of the sum, so that relevance
        sums to what was put in.
    attention : {"values", "attnlrp"}
        "values" takes the weights of attention, which a softmax gives, for gates: the values get
        all (Ali et al. 2022). "attnlrp" gives each factor of the products of attention half, and
        a softmax has a rule of its own, `TaylorOfSoftmax` (Achtibat et al. 2024): so queries and
        keys get relevance, too. What the rule does not sum to is absorbed.

    Examples
    --------
    >>> import pyrel
    >>> class Halves(pyrel.methods.RelevancePropagation):
    ...     "ε at dense layers, αβ at convolutions."
    ...     name = "halves"
    ...     def linear_rule(self, site):
    ...         if site.kind == "convolution":
    ...             return pyrel.methods.AlphaBeta(2, 1)
    ...         return pyrel.methods.Epsilon(self.epsilon)
    >>> Halves(epsilon=1e-4)
    Halves(epsilon=0.0001, gates='signal')
    """

    conserves = True
    relu = AtRelu.pass_on
    start = Start.output

    default_pooling: ClassVar[str | None] = "winner"

    def __init__(
        self,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        self.epsilon = other_rules.stabiliser(epsilon)
        self.gates = word("gates", gates, "signal", "half")
        self.detach = word("detach", detach, "pass", "stop")
        self.pooling = self.default_pooling
        if pooling is not None:
            self.pooling = word("pooling", pooling, "winner", "proportional")
        self.bias = word("bias", bias, "absorb", "share")
        self.attention = word("attention", attention, "values", "attnlrp")

    @property
    def options(self) -> dict[str, Any]:
        """``epsilon`` and ``gates``, and others unless they are the default."""
        detach = {} if self.detach == "pass" else {"detach": self.detach}
        pooling = {} if self.pooling == self.default_pooling else {"pooling": self.pooling}
        bias = {} if self.bias == "absorb" else {"bias": self.bias}
        attention = {} if self.attention == "values" else {"attention": self.attention}
        others = {**detach, **pooling, **bias, **attention}
        return {"epsilon": self.epsilon, "gates": self.gates, **others}

    def linear_rule(self, site: Site) -> LinearRule:
        """Choose the rule of a dense layer or a convolution; here the ε rule."""
        return rules.Epsilon(self.epsilon)

    def rule(self, site: Site) -> Rule:
        """Choose the rule for a node.

        Linear nodes have that of `linear_rule`, sums of activations (average pools, too) are in
        proportion to the values, gates and maxima as the options say.
        """
        match site.kind:
            case "product" if site.attention:
                return other_rules.Half()
            case "softmax":
                return other_rules.TaylorOfSoftmax()
            case "product":
                return other_rules.Half() if self.gates == "half" else other_rules.Signal()
            case "sum":
                return other_rules.Proportional(self.epsilon)
            case "max_pool" if self.pooling == "winner":
                return other_rules.Winner()
            case "max_pool":
                return other_rules.InProportion(strict=self.pooling == "proportional")
            case "normalisation":
                return other_rules.ConstantDeviation(self.epsilon)
            case "stop":
                return other_rules.Absorbing()
            case _ if site.is_linear:
                return self.linear_rule(site)
            case "activation" if site.function == "sigmoid" and self.centres_sigmoids:
                return other_rules.Centred()
            case "activation" if site.function in _CLAMPS:
                return other_rules.Open()
            case "activation" if site.function == "step":
                raise rules.UnsuitableDomainError(
                    "values of the input are compared, and what is larger is no sum by which "
                    "relevance could be shared out; gradient methods differentiate the branch "
                    "that is chosen"
                )
            case _:
                return other_rules.Pass()

    @property
    def centres_sigmoids(self) -> bool:
        """Whether a sigmoid σ hands on (σ − ½)/σ of its relevance: with ``gates="half"``."""
        return self.gates == "half"
