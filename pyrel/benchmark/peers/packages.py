# SPDX-License-Identifier: Apache-2.0
"""Makers of runners: torch autograd, zennit and captum."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pyrel.benchmark.jobs import Job, Runner
from pyrel.benchmark.peers.by_hand import TINY
from pyrel.benchmark.peers.unrolled import Unrolled

_PART = 1024  # samples at a time, for the memory's sake


def autograd(job: Job) -> Runner:
    """Make torch differentiate the cell itself; with ReLUs that guide where the method asks."""
    if job.method == "guided_backprop":
        model: nn.Module = Unrolled(job.layers(), _GuidedRelu)
        shape: tuple[int, ...] = (job.layers().steps, job.layers().pixels)
    else:
        model = job.cell().requires_grad_(False)
        shape = (model.steps, *model.step_shape)

    def explain(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return _squared_gradient(model(x), x)

    return _runner(explain, {"torch": torch.__version__}, shape)


def zennit(job: Job) -> Runner:
    """Make zennit explain an unrolled cell: ZBox at the pixels and ZPlus above, or guided ReLUs."""
    rules = import_zennit().rules
    layers = job.layers()
    model = Unrolled(layers)
    deep_taylor = job.method == "deep_taylor"
    pixels = model.input_layers()
    for module in model.modules():
        rule = None
        if isinstance(module, nn.ReLU):
            rule = rules.Pass() if deep_taylor else rules.ReLUGuidedBackprop()
        elif isinstance(module, nn.Linear) and deep_taylor:
            boxed = any(module is layer for layer in pixels)
            rule = _box(rules, layers.pixels) if boxed else rules.ZPlus(stabilizer=TINY)
        if rule is not None:
            rule.register(module)

    def explain(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        output = model(x)
        if not deep_taylor:
            return _squared_gradient(output, x)
        score, target = output.detach().max(1, keepdim=True)
        start = torch.zeros_like(output).scatter_(1, target, score.clamp_(min=0))
        return torch.autograd.grad(output, x, start)[0]

    return _runner(explain, {"zennit": version("zennit"), "torch": torch.__version__})


def captum(job: Job) -> Runner:
    """Make captum explain an unrolled cell: LRP with its α1β0 rule, guided backprop, saliency."""
    model = Unrolled(job.layers())
    attribute = _captum_method(model, job.method)

    def explain(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = model(x).argmax(1)
        return attribute(x.requires_grad_(), target)

    return _runner(explain, {"captum": version("captum"), "torch": torch.__version__})


def _runner(
    explain: Callable[[Tensor], Tensor],
    versions: dict[str, str],
    shape: tuple[int, ...] | None = None,
) -> Runner:
    """Return a runner that explains large batches in parts."""

    def run(x: Tensor) -> Tensor:
        parts = [explain(part.detach()) for part in torch.split(x, _PART)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return Runner(
        load=lambda x: torch.from_numpy(x if shape is None else x.reshape(-1, *shape)),
        run=run,
        relevance=lambda r: r.detach().numpy(),
        versions=versions,
    )


def _squared_gradient(output: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(output.max(1).values.sum(), x)[0].square_()


class _Guide(torch.autograd.Function):
    """A ReLU that passes positive gradients only (Springenberg et al. 2015)."""

    @staticmethod
    def forward(context: Any, z: Tensor) -> Tensor:
        a = z.relu()
        context.save_for_backward(a)
        return a

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (a,) = context.saved_tensors
        return gradient.clamp(min=0).mul_(a > 0)


class _GuidedRelu(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        guided: Tensor = _Guide.apply(z)  # type: ignore[no-untyped-call]
        return guided


def import_zennit() -> Any:
    """Import zennit, whose package imports torchvision only to name two of its classes."""
    stubs = {}
    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
        stubs = {name: ModuleType(name) for name in names}
        for block in ("Bottleneck", "BasicBlock"):
            setattr(stubs["torchvision.models.resnet"], block, type(block, (nn.Module,), {}))
    sys.modules.update(stubs)
    try:
        import zennit.core
        import zennit.rules
    finally:
        for name in stubs:
            del sys.modules[name]
    return zennit


def _box(rules: Any, pixels: int) -> Any:
    """Return ZBox for [0, 1] at the first inputs; beyond, high = a, with which it is ZPlus."""
    rule = rules.ZBox(0.0, 1.0, stabilizer=TINY)
    ones = rule.input_modifiers[2]

    def high(a: Tensor) -> Tensor:
        top: Tensor = ones(a)
        return top if a.shape[1] == pixels else torch.cat([top[:, :pixels], a[:, pixels:]], 1)

    rule.input_modifiers[2] = high
    return rule


def _captum_method(model: Unrolled, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    from captum import attr

    if method == "deep_taylor":
        from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule

        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]

        def attribute(x: Tensor, target: Tensor) -> Tensor:
            for layer in linears:  # captum takes its rules away after every call
                layer.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
            relevance: Tensor = attr.LRP(model).attribute(x, target)
            return relevance

        return attribute
    if method == "guided_backprop":
        # It says at each call that it sets hooks on ReLUs, which it removes again.
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
        guided = attr.GuidedBackprop(model)
        return lambda x, target: guided.attribute(x, target) ** 2
    saliency = attr.Saliency(model)
    return lambda x, target: saliency.attribute(x, target, abs=False) ** 2
