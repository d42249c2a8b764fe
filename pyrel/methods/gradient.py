# SPDX-License-Identifier: Apache-2.0
"""Methods that are gradients, or made of one."""

from __future__ import annotations

from typing import Any

from pyrel.methods.base import GradientMethod
from pyrel.methods.enums import AtInput, AtRelu
from pyrel.methods.options import flag


class Gradient(GradientMethod):
    """∂f_target/∂x (Simonyan et al. 2014), as torch autograd computes it.

    Parameters
    ----------
    autograd : {"exact", "ignore"}
        A ``torch.autograd.Function`` of the model, or a hook on its gradients, makes the gradient
        another than that of the forward pass: "exact" refuses it, "ignore" differentiates the
        forward pass.
    """

    name = "gradient"


class Sensitivity(GradientMethod):
    """(∂f_target/∂x)², sensitivity analysis (Montavon et al. 2017, section 2.2)."""

    name = "sensitivity"
    finish = AtInput.square


class GradientXInput(GradientMethod):
    """x · ∂f_target/∂x (Shrikumar et al. 2016).

    In networks of ReLUs without biases simple Taylor decomposition with a root at the origin, as
    the gradient is the same all the way from there to x (thesis, section 3.2.3).
    """

    name = "gradient_x_input"
    finish = AtInput.multiply


class _PositiveSignals(GradientMethod):
    """What the methods share that let positive signals alone pass a ReLU."""

    def __init__(self, squared: bool = True, autograd: str = "exact") -> None:
        super().__init__(autograd)
        self.squared = flag("squared", squared)
        self.finish = AtInput.square if self.squared else AtInput.keep

    @property
    def options(self) -> dict[str, Any]:
        """``squared``, and ``autograd`` unless it is the default."""
        return {"squared": self.squared, **super().options}


class GuidedBackprop(_PositiveSignals):
    """Gradient that only positive signals pass at each ReLU (Springenberg et al. 2015).

    Parameters
    ----------
    squared : bool, default True
        Square the result, as the thesis does; False gives the signed map of the paper.
    autograd : {"exact", "ignore"}
        As for `Gradient`.
    """

    name = "guided_backprop"
    relu = AtRelu.guided


class Deconvnet(_PositiveSignals):
    """Gradient in which a ReLU hands on max(0, R), active or not (Zeiler and Fergus 2014).

    A maximum hands R to its winner, the paper's switch: in a window of zeros the first of them.
    Between ReLUs it is the gradient.

    Parameters
    ----------
    squared : bool, default True
        Square the result, so that it compares with `GuidedBackprop`; False gives the signed map of
        the paper.
    autograd : {"exact", "ignore"}
        As for `Gradient`.
    """

    name = "deconvnet"
    relu = AtRelu.rectify
